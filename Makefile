# Every target sets up what it needs: a virtual environment in .venv, with Hermes installed in it so
# that edits of Python files take effect at once.  It is installed again when pyproject.toml or C changed.
#
#   make demo    a broker, an injector and a subscriber, with a table at the end
#   make check   the checkers and the quick tests
#   make test    all tests but those marked long or timing, on all cores
#   make test-long  the tests that compare times, one by one; those that need long; those that do more when there is time
#   make lint    every checker, changing nothing
#   make format  the formatters, changing what they find
#   make bench   the benchmarks: single operations, then the whole broker beside its controls
#   make compare all transports beside one another, into docs/benchmarks.md: takes a quarter of an hour
#   make rivals  what `hermes bench rivals` needs: packages of PyPI here, two servers of the system's
#   make docs    the documentation site, in build/site; a warning is an error
#   make wheel   the wheel that is published, in dist/, tried with every CPython here
#   make clean   removes what the other targets made

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed
NATIVE := $(shell find hermes transports plugins -name '*.[ch]' -not -path '*/build/*')
C_CODE := $(shell find hermes transports plugins tests benchmarks -name '*.[ch]' -not -path '*/build/*')

# The first Python here that is new enough.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; break; }; done)

# Tests start many interpreters, which would compile Hermes each time without the files in __pycache__.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check test test-long bench compare rivals docs wheel lint format clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/hermes demo

# A file's tests run in one process, files beside one another: two processes a core, for tests wait a lot.
# Their order is that of tests/conftest.py, which begins with files that take long.
PARALLEL := -n $(shell expr 2 \* $$(nproc)) --dist loadfile --no-loadscope-reorder

check: lint
	$(BIN)/pytest $(PARALLEL) -m "not slow and not long and not timing"

test: $(STAMP)
	@echo "left out: long tests and those that compare times (make test-long)"
	$(BIN)/pytest $(PARALLEL) -m "not long and not timing"

# Files that may have something to run are named: importing all others would take longer than the first line.  The
# last line gives each program an interpreter of its own, where its start, its streams and its end are what is tested.
test-long: $(STAMP)
	$(BIN)/pytest -m timing $(call naming,mark\.timing)
	HERMES_TESTS_THOROUGH=1 $(BIN)/pytest $(PARALLEL) -m "(long or thorough or hypothesis) and not timing" \
		$(call naming,mark\.long|import effort|^from hypothesis)
	HERMES_TESTS_FRESH=1 $(BIN)/pytest $(PARALLEL) -m "not long and not timing" \
		tests/cli/test_contract.py tests/cli/test_surroundings.py tests/client/test_exit.py

naming = $(shell grep -lrE --include='test_*.py' '$(1)' tests)

bench: $(STAMP)
	$(BIN)/python -m benchmarks.system

compare: $(STAMP)
	$(BIN)/python -m benchmarks.publish compare

rivals: $(STAMP)
	$(BIN)/python -m pip install --quiet --group rivals
	@for server in redis-server mosquitto; do \
	PATH="$$PATH:/usr/sbin" command -v $$server > /dev/null \
	|| echo "$$server is missing: apt-get install redis-server mosquitto, or your system's way"; done
	@echo "now: $(BIN)/hermes bench rivals --output rivals.json --html rivals.html"

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/sphinx-build -q -W --keep-going -c docs/site -d build/doctrees . build/site
	@echo "now: open build/site/index.html"

wheel: $(STAMP)
	$(BIN)/python -m tests.packaging.wheel dist

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(C_CODE)
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(C_CODE)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find hermes transports plugins tests benchmarks \( -name '*.so' -o -name __pycache__ \) -exec rm -rf {} +

# pip knows dependency groups from 25.1 on.
$(STAMP): pyproject.toml hermes/native/glue.py $(NATIVE)
	@test -n "$(PYTHON)" || { echo "Hermes needs Python 3.11 or newer; set PYTHON to one" >&2; exit 1; }
	@echo "setting up $(VENV): takes a minute the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@{ $(BIN)/python -m pip install --upgrade 'pip>=25.1' \
	&& $(BIN)/python -m pip install --group dev --editable .; } > $(VENV)/log 2>&1 \
	|| { cat $(VENV)/log >&2; exit 1; }
	@touch $@
