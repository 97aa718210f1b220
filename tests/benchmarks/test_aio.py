"""The benchmark of event loops still runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_contestant_has_a_row() -> None:
    """The control and each loop do the same work, and have all figures."""
    options = ["--messages", "2000", "--trips", "50", "--rounds", "1"]
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.system.aio", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    _, *rows = made.stdout.splitlines()

    names = [row.split()[0] for row in rows]
    assert names[:2] == ["hermes", "asyncio"]
    assert all(
        float(cell.rstrip("x").replace(",", "")) > 0 for row in rows for cell in row.split()[1:]
    )
