"""A broker as anybody starts it, on a port and a directory of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import processes

DEADLINE_S = 60


@contextmanager
def serving(place: Path, *flags: str) -> Iterator[str]:
    """`hermes serve` with its files in ``place``, ready.json and data; yields its URL."""
    ready = place / "ready.json"
    own = ("--transport", "tcp://127.0.0.1:0", "--storage", f"mmap:{place}/data")
    process = processes.start(
        *("-m", "hermes", "serve", *own, "--ready-file", ready, *flags),
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + DEADLINE_S
    while not ready.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield str(json.loads(ready.read_text())["listeners"][0]["url"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
