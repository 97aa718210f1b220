"""The C controls of ``hermes bench``, under the sanitizers.

They stand alone, so they are compiled alone: ``run_c`` would compile the core beside them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
MESSAGES = "20000"
DEADLINE_S = 60


def run(place: Path, sanitizer: str, *defines: str) -> subprocess.CompletedProcess[str]:
    """Compile the program, and run it."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = place / "controls"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g1", "-pthread", f"-fsanitize={sanitizer}"]
    flags += ["-fno-sanitize-recover=undefined", f"-I{ROOT / 'hermes/native/include'}"]
    source = HERE / "controls_threads.c"
    built = [compiler, *flags, *WARNINGS, *(f"-D{name}" for name in defines)]
    subprocess.run([*built, source, "-o", program], check=True)
    # ThreadSanitizer finds its shadow memory taken where addresses are randomised over many bits.
    prefix = ["setarch", "-R"] if sanitizer == "thread" and shutil.which("setarch") else []
    return subprocess.run(
        [*prefix, program, MESSAGES],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_the_controls_lose_nothing(tmp_path: Path, sanitizer: str) -> None:
    """Messages put into the ring and the relay come out, without a race; the echo answers."""
    done = run(tmp_path, sanitizer)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("release", ["HM_WEAKEN_SLOTS_PUT", "HM_WEAKEN_SLOTS_TAKE"])
def test_a_weakened_release_of_the_ring_is_noticed(tmp_path: Path, release: str) -> None:
    """With either release store made relaxed, ThreadSanitizer finds the data race."""
    done = run(tmp_path, "thread", release)

    assert done.returncode != 0
    assert "data race" in done.stderr
