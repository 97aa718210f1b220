"""``hermes bench`` without the package that it needs."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["hdrh"] = None
from hermes.cli import main
sys.argv = ["hermes", "bench", "latency", "inproc"]
main()
"""


def test_what_is_missing_is_named() -> None:
    """The error names the package and the extra that brings it; the exit code is that of a usage
    error."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2, done.stderr
    assert "hdrhistogram: pip install 'hermes-broker[bench]'" in done.stderr
    assert "Traceback" not in done.stderr
