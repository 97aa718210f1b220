"""Compiles C tests with the C core under a sanitizer, and runs them.

A C test is a program with a ``main`` that prints what it found and returns 0 if all was well
(``assert`` is fine: it aborts).  It stands beside the Python file that runs it::

    # tests/native/test_rings.py
    @pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
    def test_two_threads_lose_nothing(run_c: RunC, sanitizer: Sanitizer) -> None:
        \"\"\"What one thread pushes, the other pops, in order.\"\"\"
        run_c("ring_threads.c", "1000000", sanitizer=sanitizer)

(``RunC`` and ``Sanitizer`` are types: import them from ``tests.native.conftest`` under
``TYPE_CHECKING``.)

``run_c`` returns the program's standard output.  A non-zero exit, a sanitizer's report and an overrun
deadline fail the test with everything the program said.  ``compile_c`` takes the same keywords and
returns the executable's path alone.

``defines``: preprocessor symbols for the program *and* the core, such as ``("HM_SPSC_WEAK=1",)`` to
prove that a test notices a weakened release.  ``expect_failure=True`` turns the verdict around for such
a proof.

``sanitizer="fuzzer"``: libFuzzer beside the others, made by clang; without it the test is skipped.

Every C file is compiled once per content, sanitizer and those defines that it mentions, itself or in a
header; each program once too.  They are kept in ``build/native-tests``, which `make clean` removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "hermes" / "native" / "src"
INCLUDE = ROOT / "hermes" / "native" / "include"
PLUGINS = {"hu_": ROOT / "transports" / "hermes_udp" / "native"}
"""C of plugins, by the prefix of its headers: a program that includes one is compiled with it."""
HEADERS = (INCLUDE, SOURCES, *PLUGINS.values())

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
COMMON = ("-std=c11", "-D_GNU_SOURCE", "-O1", "-g1", "-fno-omit-frame-pointer", "-pthread")
RUN_TIMEOUT_S = 540.0
UNUSED_S = 7 * 24 * 3600
"""After which an object that no session has used is removed."""
HANG_TIMEOUT_S = 60.0
"""After which a program that is expected to fail has done so by hanging."""

Sanitizer = Literal["thread", "address,undefined", "fuzzer", "none"]
FUZZER = "fuzzer,address,undefined"


class CompileC(Protocol):
    def __call__(
        self, source: str | Path, *, sanitizer: Sanitizer = ..., defines: tuple[str, ...] = ...
    ) -> Path: ...


class RunC(Protocol):
    def __call__(
        self,
        source: str | Path,
        *arguments: str | Path,
        sanitizer: Sanitizer = ...,
        defines: tuple[str, ...] = ...,
        expect_failure: bool = ...,
        timeout_s: float | None = ...,
    ) -> str: ...


def _compiler() -> str:
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler")
    return found


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


@cache
def _clang() -> str:
    """A clang with libFuzzer, or else the test is skipped."""
    found = shutil.which("clang")
    if found is None:
        pytest.skip("no clang, so no libFuzzer: only the corpus and blind mutations were run")
    target = "int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return !d && !n; }"
    command = [found, f"-fsanitize={FUZZER}", "-x", "c", "-", "-o", os.devnull]
    if subprocess.run(
        command, input=target, text=True, capture_output=True, check=False
    ).returncode:
        pytest.skip("this clang comes without libFuzzer: only blind mutations were run")
    return found


def _command(sanitizer: Sanitizer) -> list[str]:
    """The compiler, with all of its flags but defines."""
    include = [f"-I{place}" for place in HEADERS]
    if sanitizer == "fuzzer":
        checks = [f"-fsanitize={FUZZER}", "-fno-sanitize-recover=undefined", "-DHM_LIBFUZZER"]
        return [_clang(), *COMMON, *checks, *include]
    checks = [] if sanitizer == "none" else [f"-fsanitize={sanitizer}"]
    if "undefined" in sanitizer:
        checks.append("-fno-sanitize-recover=undefined")
    return [_compiler(), *COMMON, *WARNINGS, *checks, *include]


@cache
def _texts(file: Path) -> dict[Path, str]:
    """A C file and all that it includes of ours, with their texts."""
    text = file.read_text()
    found = {file: text}
    for name in re.findall(r'^#include "(.+?)"', text, re.M):
        place = next(place for place in (file.parent, *HEADERS) if (place / name).exists())
        found |= _texts(place / name)
    return found


@cache
def _words(file: Path) -> frozenset[str]:
    """Every word of a C file and of those that it includes."""
    return frozenset(word for text in _texts(file).values() for word in re.findall(r"\w+", text))


@cache
def _version(compiler: str) -> str:
    """The compiler's own words."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return done.stdout


def _sources(program: Path) -> list[Path]:
    """Sources of a program: itself, the core, and the plugins whose headers it includes."""
    text = program.read_text()
    places = [SOURCES, *(at for prefix, at in PLUGINS.items() if f'#include "{prefix}' in text)]
    return [program, *(file for place in places for file in sorted(place.rglob("*.c")))]


class _Builder:
    """Objects and programs, each kept in ``place`` under a digest of all that it is made from.

    They outlive the session: what has not changed is not compiled again.  Processes that want the same
    at a time wait for the first of them.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        place.mkdir(parents=True, exist_ok=True)
        for entry in place.iterdir():
            if time.time() - entry.stat().st_mtime > UNUSED_S:
                shutil.rmtree(entry, ignore_errors=True)

    def program(self, source: Path, sanitizer: Sanitizer, defines: tuple[str, ...]) -> Path:
        command = _command(sanitizer)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            futures = [
                pool.submit(self._object, file, command, defines) for file in _sources(source)
            ]
        objects = [str(future.result()) for future in futures]
        return self._make((*command, *objects, "-lm"), source.stem, ())

    def _object(self, file: Path, command: list[str], defines: tuple[str, ...]) -> Path:
        mentioned = [f"-D{one}" for one in defines if one.partition("=")[0] in _words(file)]
        texts = tuple(text for _, text in sorted(_texts(file).items()))
        return self._make((*command, *mentioned, "-c", str(file)), f"{file.stem}.o", texts)

    def _make(self, command: tuple[str, ...], name: str, texts: tuple[str, ...]) -> Path:
        made_from = repr((_version(command[0]), command, texts))
        target = self._place / hashlib.sha256(made_from.encode()).hexdigest()[:32] / name
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            with (target.parent / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # another process or thread may be making it
                if not target.exists():
                    self._call(command, target)
        os.utime(target.parent)
        return target

    def _call(self, command: tuple[str, ...], target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent) as place:
            made = Path(place) / target.name
            _call([*command, "-o", str(made)])
            made.rename(target)  # whole or not at all: this process may be killed meanwhile


@pytest.fixture(scope="session")
def _builder() -> _Builder:
    return _Builder(ROOT / "build" / "native-tests")


@pytest.fixture
def compile_c(_builder: _Builder, request: pytest.FixtureRequest) -> CompileC:
    """Compile a C test with the core; see the module's docstring."""

    def compile_c(
        source: str | Path,
        *,
        sanitizer: Sanitizer = "address,undefined",
        defines: tuple[str, ...] = (),
    ) -> Path:
        return _builder.program(request.path.parent / source, sanitizer, defines)

    return compile_c


def _prefix(sanitizer: Sanitizer) -> list[str]:
    # ThreadSanitizer finds its shadow memory taken where addresses are randomised over many bits.
    if sanitizer == "thread" and sys.platform == "linux" and shutil.which("setarch"):
        return ["setarch", "-R"]
    return []


@pytest.fixture
def run_c(compile_c: CompileC) -> RunC:
    """Compile and run a C test; see the module's docstring."""

    def run_c(
        source: str | Path,
        *arguments: str | Path,
        sanitizer: Sanitizer = "address,undefined",
        defines: tuple[str, ...] = (),
        expect_failure: bool = False,
        timeout_s: float | None = None,
    ) -> str:
        program = compile_c(source, sanitizer=sanitizer, defines=defines)
        command = [*_prefix(sanitizer), str(program), *map(str, arguments)]
        timeout_s = timeout_s or (HANG_TIMEOUT_S if expect_failure else RUN_TIMEOUT_S)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            if expect_failure:
                return ""
            pytest.fail(f"{source}: still running after {timeout_s} s\n{error.output}")
        if (done.returncode != 0) != expect_failure:
            pytest.fail(f"{source} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    return run_c
