"""``hermes plugins new``: what it writes, installs, works and passes its own tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes.errors import UsageError
from hermes.testing.template import Names, project
from tests.effort import effort
from tests.environment import Environment

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]
PROJECTS = [("transport", "stream"), ("transport", "packets"), ("storage", "stream")]
LONG_GROUPS = ["performance", "lifecycle", "backpressure", "damage", "kill"]
"""Groups of the kits that take longest, which a new project passes in `make test-long`."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """One environment for all projects here: mypy looks at Hermes once, and its cache is for one place."""
    return Environment(tmp_path_factory.mktemp("shared") / "environment")


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of mypy's cache of Hermes and the libraries, from one project to the next."""
    return tmp_path_factory.mktemp("mypy")


def installed(kind: str, medium: str, name: str, environment: Environment, tmp_path: Path) -> Path:
    """A new project, installed as it is."""
    chosen = ("--medium", medium) if kind == "transport" else ()
    environment.hermes("plugins", "new", kind, name, *chosen, cwd=tmp_path)
    place = tmp_path / f"hermes-{kind}-{name}"
    environment.install(place)
    return place


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "medium"), PROJECTS)
def test_a_new_project_passes_its_own_tests(
    kind: str, medium: str, environment: Environment, tmp_path: Path
) -> None:
    """Installed as it is, it passes its tests, and ruff is content with it."""
    left_out = effort(LONG_GROUPS, [])
    if (kind, medium) == ("transport", "stream"):  # its agent is the one of tcp
        left_out = [*left_out, "readiness", "backpressure", "performance"]
    environment.chosen = " and ".join(f"not {group}" for group in left_out)

    place = installed(kind, medium, f"{medium}-{kind}", environment, tmp_path)

    environment.shell("pytest", cwd=place)
    environment.run("-m", "ruff", "check", "--no-cache", cwd=place)
    environment.run("-m", "ruff", "format", "--no-cache", "--check", cwd=place)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "medium"), PROJECTS)
def test_a_new_project_is_typed(
    kind: str, medium: str, environment: Environment, tmp_path: Path, mypy_cache: Path
) -> None:
    """mypy is content with it, as strict as it can be."""
    place = installed(kind, medium, f"{kind}-{medium}", environment, tmp_path)

    environment.run("-m", "mypy", "--cache-dir", mypy_cache, cwd=place)


def test_a_new_transport_serves_hermes_as_it_is(environment: Environment, tmp_path: Path) -> None:
    """Once installed it is listed, and `serve`, `pub` and `sub` work over it: nothing in Hermes
    was changed."""
    environment.hermes("plugins", "new", "transport", "unixsock", cwd=tmp_path)
    environment.install(tmp_path / "hermes-transport-unixsock")

    rows = json.loads(environment.hermes("plugins", "list", "--json").stdout)
    with environment.broker(
        tmp_path, "--transport", f"unixsock://{tmp_path}/socket", "--storage", "memory"
    ) as url:
        environment.hermes("pub", "md.a", "hello", "--url", url)
        got = environment.hermes(
            *("sub", "md.>", "--from", "earliest", "--count", "1", "--url", url)
        )

    (row,) = (row for row in rows if row["name"] == "unixsock")
    assert (row["kind"], row["distribution"]) == ("transport", "hermes-transport-unixsock")
    assert row["state"] == "loaded", row
    assert url == f"unixsock:{tmp_path}/socket"
    assert got.stdout == "hello\n"


def test_it_says_what_it_wrote_and_what_comes_next(hermes: Hermes, tmp_path: Path) -> None:
    """Files and commands are printed, and with --json given to scripts."""
    place = tmp_path / "here"

    done = hermes("plugins", "new", "transport", "a-b", "--directory", place)
    told = hermes("plugins", "new", "transport", "a-b", "--directory", tmp_path / "x", "--json")

    assert done.returncode == told.returncode == 0, done.stderr + told.stderr
    answer = json.loads(told.stdout)
    written = [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    assert answer["files"] == sorted(written)
    assert "src/hermes_a_b/engine.py" in written
    assert all(path in done.stdout.decode() for path in written)
    assert f"cd {place}" in done.stdout.decode()
    assert answer["directory"] == str(tmp_path / "x")


@pytest.mark.parametrize(
    "name",
    ["", "1a", "A", "a_b", "a--b", "-a", "a-", "a b", "a/b", "../a", "a.b", "é", "a" * 21, "a\n"],
)
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    """A name must make a URL scheme and a Python name."""
    with pytest.raises(UsageError, match=r"cannot name a transport: .*expected"):
        Names("transport", name)


def test_a_scheme_with_a_plus_has_an_entry_point_with_a_dot() -> None:
    """`a+tcp` is announced as Hermes looks it up."""
    files = project("transport", Names("transport", "a+tcp"), hermes_version="1")

    assert '"a.tcp" = "hermes_a_tcp"' in files["pyproject.toml"]
    assert 'register("a+tcp", _make)' in files["src/hermes_a_tcp/__init__.py"]


@pytest.mark.parametrize(("kind", "medium"), PROJECTS)
def test_nothing_of_the_template_is_left(kind: str, medium: str) -> None:
    """No placeholder stands in what is written, neither in texts nor in paths."""
    files = project(kind, Names(kind, "unixsock"), hermes_version="1", medium=medium)

    for path, text in files.items():
        assert not re.search(r"\$\w|\$\{|PACKAGE|MODULE|template", path + text), path


@pytest.mark.parametrize("name", ["x", "twenty-letters-are-x"])
def test_the_length_of_the_name_does_not_matter_to_checkers(name: str, tmp_path: Path) -> None:
    """With any name put in, no line becomes too long, or should be broken otherwise."""
    for kind, medium in PROJECTS:
        texts = project(kind, Names(kind, name), hermes_version="1", medium=medium)
        for path, text in texts.items():
            file = tmp_path / f"{kind}-{medium}" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    ruff = [sys.executable, "-m", "ruff"]
    for line in (["check", "--no-cache"], ["format", "--no-cache", "--check"]):
        done = subprocess.run(
            [*ruff, *line, tmp_path], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout


def test_a_name_that_is_installed_is_refused(hermes: Hermes, tmp_path: Path) -> None:
    """One scheme cannot mean two transports; the error says who has it."""
    done = hermes("plugins", "new", "transport", "tcp", "--directory", tmp_path / "x")

    assert done.returncode == 2
    assert b"hermes-broker" in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_package_that_is_installed_is_refused(hermes: Hermes, tmp_path: Path) -> None:
    """A new project must not hide a package that is there."""
    done = hermes("plugins", "new", "transport", "mmaplog", "--directory", tmp_path / "x")

    assert done.returncode == 2
    assert b"hermes_mmaplog" in done.stderr


def test_nothing_is_overwritten(hermes: Hermes, tmp_path: Path) -> None:
    """A folder with anything in it is left as it is."""
    (tmp_path / "mine").write_text("precious")

    done = hermes("plugins", "new", "transport", "x", "--directory", tmp_path)

    assert done.returncode == 2
    assert b"not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_medium_is_for_transports(hermes: Hermes, tmp_path: Path) -> None:
    """An option that would mean nothing is refused, and nothing is written."""
    done = hermes(
        "plugins", "new", "storage", "x", "--medium", "packets", "--directory", tmp_path / "x"
    )

    assert done.returncode == 2
    assert b"--medium is for transports" in done.stderr
    assert not (tmp_path / "x").exists()
