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

The core is compiled once per session, sanitizer and set of defines; each program once per source too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "hermes" / "native" / "src"
INCLUDE = ROOT / "hermes" / "native" / "include"
PLUGINS = {"hu_": ROOT / "transports" / "hermes_udp" / "native"}
"""C of plugins, by the prefix of its headers: a program that includes one is compiled with it."""

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
COMMON = ("-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-fno-omit-frame-pointer", "-pthread")
RUN_TIMEOUT_S = 60.0

Sanitizer = Literal["thread", "address,undefined", "none"]


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
        timeout_s: float = ...,
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


def _flags(sanitizer: Sanitizer, defines: tuple[str, ...]) -> list[str]:
    instrument = () if sanitizer == "none" else (f"-fsanitize={sanitizer}",)
    if "undefined" in sanitizer:
        instrument += ("-fno-sanitize-recover=undefined",)
    return [*COMMON, *WARNINGS, *instrument, *(f"-D{name}" for name in defines), f"-I{INCLUDE}"]


def _plugin_sources(source: Path) -> list[str]:
    """What a program needs beside the core: C files, and where their headers are."""
    text = source.read_text()
    places = [place for prefix, place in PLUGINS.items() if f'#include "{prefix}' in text]
    return [
        argument
        for place in places
        for argument in (f"-I{place}", *map(str, sorted(place.glob("*.c"))))
    ]


class _Builder:
    """Objects and programs made so far, by what they were made with."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._cores: dict[tuple[str, ...], list[str]] = {}
        self._programs: dict[tuple[str, ...], Path] = {}

    def _core(self, flags: list[str]) -> list[str]:
        key = tuple(flags)
        if key not in self._cores:
            place = self._place / f"core-{len(self._cores)}"
            place.mkdir()
            compiler = _compiler()
            sources = sorted(SOURCES.glob("*.c"))
            objects = [str(place / f"{source.stem}.o") for source in sources]
            commands = [
                [compiler, *flags, "-c", str(source), "-o", target]
                for source, target in zip(sources, objects, strict=True)
            ]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(_call, commands))
            self._cores[key] = objects
        return self._cores[key]

    def program(self, source: Path, flags: list[str]) -> Path:
        key = (str(source), *flags)
        if key not in self._programs:
            target = self._place / f"{source.stem}-{len(self._programs)}"
            objects = self._core(flags)
            extra = _plugin_sources(source)
            _call([_compiler(), *flags, str(source), *extra, *objects, "-lm", "-o", str(target)])
            self._programs[key] = target
        return self._programs[key]


@pytest.fixture(scope="session")
def _builder(tmp_path_factory: pytest.TempPathFactory) -> _Builder:
    return _Builder(tmp_path_factory.mktemp("native"))


@pytest.fixture
def compile_c(_builder: _Builder, request: pytest.FixtureRequest) -> CompileC:
    """Compile a C test with the core; see the module's docstring."""

    def compile_c(
        source: str | Path,
        *,
        sanitizer: Sanitizer = "address,undefined",
        defines: tuple[str, ...] = (),
    ) -> Path:
        return _builder.program(request.path.parent / source, _flags(sanitizer, defines))

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
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> str:
        program = compile_c(source, sanitizer=sanitizer, defines=defines)
        command = [*_prefix(sanitizer), str(program), *map(str, arguments)]
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
