"""``hermes demo``: the real thing, small; and its arithmetic."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hermes.bench.histogram import encoded, histogram_of
from hermes.bench.measuring import Sample
from hermes.cli import demo
from hermes.cli.demo import DemoPlan, DemoResult, bars
from hermes.cli.output import Progress
from tests.bench.conftest import processes_with
from tests.bench.test_rounds import driven
from tests.cli.conftest import DEADLINE_S

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]


def sample(sent: int, delivered: int, latencies: list[int] | None = None) -> Sample:
    """A pass of two seconds."""
    return Sample(
        sent=sent,
        expected=sent,
        delivered=delivered,
        seconds=2.0,
        cpu_s_per_million={},
        elsewhere=0.0,
        disturbed=False,
        culprit="",
        histogram=None if latencies is None else encoded(histogram_of(latencies)),
    )


def result(latencies: list[int], *, sent: int) -> DemoResult:
    """The result of a run with these latencies."""
    plan = DemoPlan(messages=sent, rate=1000.0, size=256, burst=0)
    where = {"url": "tcp://127.0.0.1:1", "storage": "mmap:/x"}
    return DemoResult(plan, where, 4, sample(sent, len(latencies), latencies))


def test_percentiles_are_those_of_the_samples() -> None:
    """With 1..10,000 us each percentile is its own number, to three digits."""
    measured = result([1000 * n for n in range(1, 10_001)], sent=10_000)

    assert measured.latency_ns() == pytest.approx(
        {
            "min": 1_000,
            "p50": 5_000_000,
            "p90": 9_000_000,
            "p99": 9_900_000,
            "p99.9": 9_990_000,
            "max": 10_000_000,
        },
        rel=0.001,
    )
    assert measured.as_json()["messages_per_second"] == 5000


def test_a_percentile_has_samples_above_it() -> None:
    """A percentile with fewer than ten latencies above it is left out."""
    measured = result([1000 * n for n in range(1, 101)], sent=100)

    assert list(measured.latency_ns()) == ["min", "p50", "p90", "max"]


def test_the_histogram_shows_every_sample_once() -> None:
    """Its percentages add up to a hundred, also with an outlier far away."""
    measured = result([50_000] * 990 + [80_000] * 9 + [1_000_000_000], sent=1000)

    shares = [float(re.findall(r"([\d.]+) %$", line)[0]) for line in bars(measured.latencies)]

    assert abs(sum(shares) - 100) < 0.01
    assert shares[-1] == 0.1


def test_one_lost_message_is_a_failure() -> None:
    """Anything but 100 % is not sound, and the verdict has the numbers."""
    measured = result([1000] * 999, sent=1000)

    assert not measured.sound
    assert "1,000" in measured.verdict()
    assert "999" in measured.verdict()


def test_a_message_lost_in_the_burst_is_a_failure() -> None:
    """The burst counts as well."""
    measured = result([1000], sent=1)

    assert measured.sound
    assert not replace(measured, burst=sample(10, 9)).sound


def test_a_run_counts_what_a_system_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that drops every tenth message is not sound, paced and in the burst."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(demo, "IDLE_S", 1.0)
    plan = DemoPlan(messages=100, rate=1000.0, size=64, burst=50)

    with Progress(enabled=False) as progress:
        measured = demo.run(driven("LOSSY"), plan, progress)

    assert not measured.sound
    assert (measured.paced.lost, measured.paced.duplicates) == (10, 0)
    assert measured.burst is not None
    assert measured.burst.lost == 5
    assert "of 100 messages 90 were delivered" in measured.verdict()


def test_the_demo_delivers_everything(hermes: Hermes) -> None:
    """A short run ends with 0, with all messages delivered and latencies in ascending order."""
    done = hermes("demo", "--messages", "500", "--rate", "1000", "--burst", "5000", "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sent"] == found["delivered"] == 500
    assert found["delivered_percent"] == 100
    assert found["burst"]["sent"] == found["burst"]["delivered"] == 5000
    latency = list(found["latency_ns"].values())
    assert latency == sorted(latency)
    assert latency[0] > 0


def test_the_demo_prints_one_table(hermes: Hermes) -> None:
    """The document has counts, every percentile, the throughput and a histogram."""
    done = hermes("demo", "--messages", "200", "--rate", "1000", "--burst", "1000")

    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    for word in ["sent", "delivered", "100 %", "min", "p50", "p90", "max", "throughput"]:
        assert word in text
    assert "p99" not in text  # of 200 messages two are above it
    assert "█" in text


def test_a_demo_that_cannot_start_says_why(hermes: Hermes) -> None:
    """A transport that does not exist ends the demo with its cause."""
    done = hermes("demo", "--messages", "1", "--transport", "carrier-pigeon")

    assert done.returncode != 0
    assert b"carrier-pigeon" in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_interrupted_demo_leaves_nothing_behind(
    started: Callable[..., subprocess.Popen[bytes]],
    wait_for: Callable[[Callable[[], bool], str], None],
    tmp_path: Path,
) -> None:
    """Ctrl-C in the middle: exit code 130, its temporary directory gone, its processes ended."""
    running = started(
        "demo", "--messages", "100000", "--rate", "100", env={"TMPDIR": str(tmp_path)}
    )

    def at_work() -> bool:
        assert running.poll() is None
        return len(processes_with(str(tmp_path))) > 0

    wait_for(at_work, "the demo's broker")

    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=DEADLINE_S)

    assert running.returncode == 130
    assert b"Traceback" not in errors
    assert not list(tmp_path.iterdir())
    assert processes_with(str(tmp_path)) == []
