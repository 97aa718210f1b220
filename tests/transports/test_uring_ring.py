"""The ring's C: what it keeps after its end, and a run of the transport's tests under sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.effort import effort
from tests.transports.uring import needs_uring

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "transports" / "hermes_uring" / "native"
FLAGS = (
    "-std=c11", "-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030B0000", "-O1", "-g", "-fPIC", "-shared",
    "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
)  # fmt: skip
RUN = """
import importlib.util, sys
import pytest
spec = importlib.util.spec_from_file_location("hermes_uring._ring", sys.argv[1])
ring = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ring)

class Fewer:
    def pytest_collection_modifyitems(self, items):
        for item in items:
            item.module.CYCLES = 1000
            if item.cls:
                item.cls.cycles = 100

# What a sanitizer writes at the end of the process must not be caught.
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--capture=sys", *sys.argv[2:]], [Fewer()]))
"""
"""One cycle is like another to a sanitizer; that nothing adds up is counted without."""
FILES = effort(("test_uring.py",), ("test_uring.py", "test_uring_conformance.py"))
"""Tests that the sanitized ring goes through; the kit's start many programs."""
TIMEOUT_S = 540
BUFFERS = 32768
LIST_BYTES = 16 * BUFFERS
"""What the kernel is told of so many buffers."""


def mapped_bytes() -> int:
    """Of this process' address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@needs_uring
def test_a_close_from_another_thread_gives_all_memory_back() -> None:
    """A ring is its first thread's; who closes it from elsewhere leaves nothing mapped."""
    from hermes_uring.probe import make_ring

    def use_and_leave() -> None:
        ring = make_ring(entries=2, buffers=BUFFERS, buffer_size=4096)
        owner.submit(ring.enter, 0).result()
        ring.close()

    with ThreadPoolExecutor(1) as owner:
        use_and_leave()
        before = mapped_bytes()
        for _ in range(20):
            use_and_leave()

        assert mapped_bytes() - before < 5 * LIST_BYTES


def _sanitized(place: Path) -> tuple[Path, str]:
    """The ring, compiled with sanitizers, and the library that has to be loaded before it."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the ring's C was not run under sanitizers")
    runtime = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip(f"{compiler} has no libasan.so: the ring's C was not run under sanitizers")
    made = place / "_ring.abi3.so"
    core = ROOT / "hermes" / "native" / "include"
    include = [f"-I{NATIVE}", f"-I{core}", f"-I{sysconfig.get_path('include')}"]
    sources = [str(file) for file in sorted(NATIVE.glob("*.c"))]
    subprocess.run([compiler, *FLAGS, *include, *sources, "-ldl", "-o", str(made)], check=True)
    return made, runtime


@needs_uring
@pytest.mark.thorough
def test_the_ring_under_sanitizers(tmp_path: Path) -> None:
    """The tests of the transport pass with a ring that notices what it may not read or write."""
    ring, runtime = _sanitized(tmp_path)
    tests = [str(ROOT / "tests" / "transports" / name) for name in FILES]
    environment = os.environ | {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own are not ours
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # or the interpreter's pools would hide its objects
    }

    done = subprocess.run(
        [sys.executable, "-c", RUN, str(ring), "--basetemp", str(tmp_path / "run"), *tests],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Sanitizer" not in said
    assert "runtime error" not in said
