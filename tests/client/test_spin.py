"""Processes that spin while they wait, and share a core."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hermes

TIMEOUT_S = 60.0
ROUND_TRIPS = 60
PER_ROUND_TRIP_S = 0.001
"""Processor time of a client: a turn of the scheduler is some three times as long, and what is needed
a twentieth."""


@pytest.fixture
def one_core() -> Iterator[int]:
    """A core that this thread, and the processes it starts, are bound to."""
    before = os.sched_getaffinity(0)
    core = min(before)
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, before)


@pytest.mark.timing
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.usefixtures("one_core")
def test_spinners_let_each_other_run(transport: str, tmp_path: Path):
    """A client and a broker that spin on one core do not use up their turns of it waiting for each
    other: the processor time of a round trip is that of its work."""
    ready = tmp_path / "ready.json"
    broker = subprocess.Popen(
        [
            *(sys.executable, "-m", "hermes", "serve", "--idle", "spin", "--storage", "memory:"),
            *("--transport", f"{transport}://127.0.0.1:0", "--ready-file", str(ready)),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        url = json.loads(ready.read_text())["listeners"][0]["url"]
        with hermes.connect(url, spin=TIMEOUT_S, timeout=TIMEOUT_S) as client:
            subscription, took = client.subscribe("a"), []
            publisher = client.publisher("a")
            for _ in range(ROUND_TRIPS):
                before = time.thread_time()
                publisher.send(b"x")
                subscription.receive(TIMEOUT_S)
                took.append(time.thread_time() - before)
    finally:
        broker.terminate()
        broker.wait()

    assert statistics.median(took) < PER_ROUND_TRIP_S
