"""``hermes bench`` as scripts run it, and what must not be left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DEADLINE_S = 250.0
"""For anything a test waits for: generous, because the machine may be busy."""

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: str | Path) -> list[str]:
    """A line that runs ``hermes bench``."""
    return [sys.executable, "-m", "hermes", "bench", *map(str, arguments)]


@pytest.fixture(scope="session")
def bench() -> Bench:
    """Run a command of ``hermes bench`` to its end."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )

    return run


def processes_with(text: str) -> list[int]:
    """Process ids whose command line or environment's directory has ``text`` in it."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (place / "cmdline").read_bytes():
                    found.append(int(place.name))
    return found


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.01)
