"""Somebody stands still for a moment: every message that was due meanwhile shows it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hermes.bench import machine, page, result, rounds
from hermes.bench.contestant import Contestant, Job
from hermes.bench.measuring import Length
from hermes.bench.own import contestants
from hermes.bench.stage import Process

STALL_S = 0.2
RATE = 2_000.0
SECONDS = 2.0


class Staller(rounds.Silent):
    """Stops one process once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.thread: threading.Thread | None = None

    def going(self, contestant: Contestant, job: Job, processes: Sequence[Process]) -> None:
        """The measured pass begins."""
        (process,) = [process for process in processes if process.name == self._name]
        self.thread = threading.Thread(target=self._stall, args=(process.pid,))
        self.thread.start()

    def _stall(self, pid: int) -> None:
        time.sleep(SECONDS / 2)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STALL_S)
        os.kill(pid, signal.SIGCONT)


@pytest.mark.timing
@pytest.mark.parametrize("stalled", ["broker", "publisher"])
def test_a_stall_shows_in_percentiles_and_plot(tmp_path: Path, stalled: str) -> None:
    """SIGSTOP for 200 ms: p99.9 and the maximum are about that, and the curve climbs there.

    While the publisher stands still it sends nothing: only the schedule knows what was due.
    """
    staller = Staller(stalled)
    job = Job("latency", 256, RATE)
    plan = rounds.Plan(((job,),), Length(SECONDS), repeat=1, directory=tmp_path)

    found = rounds.play(contestants(["tcp"]), plan, staller)
    made = result.result(found, plan, machine.environment(tmp_path))

    assert staller.thread is not None
    staller.thread.join()
    (row,) = made["rows"]
    assert row["lost"] == 0
    assert row["max_us"] >= STALL_S * 1e6 * 0.95
    assert row["p999_us"] >= STALL_S * 1e6 * 0.9
    held_up = [share for share, us in row["curve"] if us >= STALL_S * 1e6 / 2]
    assert held_up[0] < 100 * (1 - STALL_S / 2 / SECONDS) + 2  # half of those due meanwhile
    assert "100 ms" in page.pictures("latency", made["rows"])["latency-256-2000"]
