"""The benchmark of acknowledgements still runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_every_contestant_has_a_row():
    """Both levels, the control and another checkout (here the same one) are measured."""
    options = ["--rate", "2000", "--duration", "0.2", "--rounds", "1", "--before", str(ROOT)]
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.system.acks", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    _, *rows = made.stdout.splitlines()

    names = [row[:24].strip() for row in rows]
    assert names == ["acknowledged", "not acknowledged", "C relay, TCP", "acknowledged, before"]
    assert all(float(row.split()[-1]) > 0 for row in rows)
