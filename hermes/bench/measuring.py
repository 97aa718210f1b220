"""One job of one contestant: warm-up passes, the measured pass, and what it came to.

Knows what a cast is asked for, not who it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hermes.bench.contestant import Cast, Job, Pass
from hermes.bench.histogram import merged, summary
from hermes.bench.load import NOBODY, Watch
from hermes.bench.stage import Failed, Process

NS_PER_S = 1_000_000_000
LEAD_NS = 20_000_000
"""Between telling everybody the schedule and its first message: all are waiting by then."""
IDLE_S = 2.0
"""Silence after which the rest of a pass counts as lost."""
TIMEOUT_S = 60.0
"""Beyond its planned duration a pass may take so long before its contestant counts as stuck."""
FIRST_MESSAGES = 5_000
FIRST_ROUND_TRIPS = 100
"""Round trips of the first warm-up pass, which tells how many the next takes."""
SLOWEST = 10_000.0
"""Messages a second of a pass without a schedule, at least: a slower contestant counts as stuck."""
WARM_S = 0.2
"""Seconds of warm-up at least, if the measured pass is not shorter itself."""
WARM_PASSES = 4
"""Warm-up passes at most, when each says that the next must be larger."""
ROUND_TRIPS_MAX = 100_000
ROUND_TRIPS_MIN = 50
BURST_MAX = 50_000_000
"""Messages of a pass whose length nothing else bounds."""
PACED_MAX = 4_000_000
"""Messages of a paced pass: the subscriber keeps a number for each."""


Going = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Length:
    """How long a measured pass lasts."""

    seconds: float
    messages: int | None = None
    """If it is given, that decides."""
    idle_s: float = IDLE_S
    """Silence after which the rest of a pass counts as lost."""
    extra_s: float = 0.0
    """How long a subscriber that has everything looks for duplicates."""
    warmed: bool = True
    """Whether warm-up passes come first; without them, ``messages`` is given."""

    @property
    def warm_s(self) -> float:
        """Seconds of the last warm-up pass."""
        return min(WARM_S, self.seconds)


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures of one round of a job."""

    sent: int
    """Messages published."""
    expected: int
    """Deliveries that make it complete: to each subscriber."""
    delivered: int
    seconds: float
    """From the first send, or its due time, to the last receipt."""
    cpu_s_per_million: Mapping[str, float]
    """Processor time of each kind of process, per million messages published."""
    elsewhere: float
    """Share of all cores that others used meanwhile, steal included."""
    disturbed: bool
    culprit: str
    duplicates: int = 0
    disordered: int = 0
    late_us: float | None = None
    """How late the generator itself sent the latest message of a paced pass."""
    histogram: str | None = None
    """Histogram of the latencies, encoded."""
    latency: Mapping[str, float] = field(default_factory=dict)
    """Percentiles, us."""

    @property
    def lost(self) -> int:
        """Deliveries that did not happen."""
        return self.expected - self.delivered

    @property
    def msgs_per_s(self) -> float:
        """Deliveries a second, to all subscribers together."""
        return self.delivered / self.seconds if self.seconds > 0 else 0.0


def measure(cast: Cast, job: Job, length: Length, going: Going = lambda: None) -> Sample:
    """Warm up, then play the pass that counts; ``going`` is called just before that.

    Raises:
        Failed: somebody died, got stuck, or reports what cannot be.
    """
    cast.prepare(job)
    if job.measure == "latency":
        sample = _paced(cast, job, length, going)
    elif job.measure == "round_trip":
        sample = _round_trips(cast, job, length, going)
    else:
        sample = _burst(cast, job, length, going)
    cast.finish()
    return sample


def _paced(cast: Cast, job: Job, length: Length, going: Going) -> Sample:
    assert job.rate is not None
    count = length.messages or max(1, int(job.rate * length.seconds))
    if count > PACED_MAX:
        raise Failed(
            f"{count:,} paced messages are more than {PACED_MAX:,}: lower --rate, --duration or "
            "--messages"
        )
    warm = max(1, min(count, int(job.rate * length.warm_s))) if length.warmed else 0
    if warm:
        _play(cast, job, length, warm, first=0, warming=True)
    going()
    return _play(cast, job, length, count, first=warm)


def _round_trips(cast: Cast, job: Job, length: Length, going: Going) -> Sample:
    warm = min(length.messages or FIRST_ROUND_TRIPS, FIRST_ROUND_TRIPS)
    first = _play(cast, job, length, warm, first=0, warming=True)
    again = _fitting(first, length.warm_s, ROUND_TRIPS_MIN, ROUND_TRIPS_MAX)
    second = _play(cast, job, length, again, first=warm, warming=True)
    count = length.messages or _fitting(second, length.seconds, ROUND_TRIPS_MIN, ROUND_TRIPS_MAX)
    going()
    return _play(cast, job, length, count, first=warm + again)


def _burst(cast: Cast, job: Job, length: Length, going: Going) -> Sample:
    most = cast.most(job) or BURST_MAX
    if length.messages is not None:
        if length.messages > most:
            raise Failed(
                f"{length.messages:,} messages of {job.size:,} bytes are more than the log keeps "
                f"for a subscriber that lags ({most:,}): lower --messages"
            )
        if length.warmed:
            _play(cast, job, length, min(length.messages, FIRST_MESSAGES), warming=True)
        going()
        return _play(cast, job, length, length.messages)
    count = min(most, FIRST_MESSAGES)
    for _ in range(WARM_PASSES):
        sample = _play(cast, job, length, count, warming=True)
        if sample.seconds >= length.warm_s or count == most:
            break
        count = _fitting(sample, 1.5 * length.warm_s, count, most)
    going()
    return _play(cast, job, length, _fitting(sample, length.seconds, 1, most))


def _fitting(sample: Sample, seconds: float, least: int, most: int) -> int:
    """How many messages would take ``seconds`` at the pace of ``sample``."""
    share = sample.delivered / max(1, sample.expected)
    pace = sample.sent * share / max(sample.seconds, 1e-6)
    return int(min(most, max(least, pace * seconds)))


def _play(
    cast: Cast, job: Job, length: Length, count: int, first: int = 0, *, warming: bool = False
) -> Sample:
    """One pass; unless it only warms up, with a look at the processors before and after."""
    planned_s = count / (job.rate or SLOWEST)
    groups = cast.processes()
    pids = [process.pid for group in groups.values() for process in group]
    watch = None if warming else Watch(pids)
    before = processor_ns(groups)
    go = Pass(
        messages=count,
        start_ns=time.monotonic_ns() + LEAD_NS,
        idle_s=length.idle_s + (job.publishers / job.rate if job.rate else 0.0),
        timeout_s=TIMEOUT_S + planned_s,
        first=first,
        extra_s=length.extra_s,
    )
    reports = cast.play(job, go)
    after = processor_ns(groups)
    elsewhere = watch.stop() if watch is not None else NOBODY
    sent = sum(report.get("sent", 0) for report in reports)
    delivered = sum(report.get("delivered", 0) for report in reports)
    expected = sent * job.subscribers
    if sent != count or delivered > expected:
        raise Failed(
            f"{count:,} messages were to be sent: {sent:,} were, and {delivered:,} of "
            f"{expected:,} were delivered"
        )
    starts = [report["start_ns"] for report in reports if "start_ns" in report]
    if not starts and not job.rate:
        raise Failed("nobody says when it began")
    start_ns = go.start_ns if job.rate else min(starts)
    last_ns = max(report.get("last_ns", 0) for report in reports)
    texts = [report["histogram"] for report in reports if report.get("histogram")]
    return Sample(
        sent=sent,
        expected=expected,
        delivered=delivered,
        seconds=max(0, last_ns - start_ns) / NS_PER_S,
        cpu_s_per_million={
            kind: (after[kind] - before[kind]) / sent * 1e6 / NS_PER_S for kind in groups
        },
        elsewhere=elsewhere.share + elsewhere.steal,
        disturbed=elsewhere.disturbed,
        culprit=elsewhere.culprit,
        duplicates=sum(report.get("duplicates", 0) for report in reports),
        disordered=sum(report.get("disordered", 0) for report in reports)
        if job.publishers == 1
        else 0,
        late_us=_late_us(reports),
        histogram=texts[0] if len(texts) == 1 else None,
        latency=summary(merged(texts)) if texts else {},
    )


def _late_us(reports: list[dict[str, Any]]) -> float | None:
    late = [report["late_ns"] for report in reports if "late_ns" in report]
    return max(late) / 1e3 if late else None


def processor_ns(groups: Mapping[str, Sequence[Process]]) -> dict[str, int]:
    """Processor time so far of each kind of process."""
    return {
        kind: sum(process.cpu_ns() for process in processes) for kind, processes in groups.items()
    }
