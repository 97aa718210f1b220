"""The plan of a run, made from what a user asks for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes.bench.contestant import MEASURES, Conditions, Idle, Job, Measure
from hermes.bench.measuring import Length
from hermes.bench.rounds import Plan

SIZES = (64, 256, 1024, 16_384)
SIZE = 256
"""Bytes of a payload wherever the measure does not vary it."""
RATES = (1_000.0, 5_000.0, 20_000.0, 50_000.0, 100_000.0)
"""Offered loads of a latency curve, messages a second."""
SUBSCRIBERS = 4
"""Subscribers of a fan-out."""
DURATION_S = 2.0
REPEAT = 3
JOB_BYTES = 1 << 30
"""Most bytes of messages in one pass; twice as much is kept."""

QUICK_S = 21.0
"""Seconds that a quick comparison may take in all, processes included: 30 s is what is promised."""
QUICK_RATES = (2_000.0, 20_000.0)
QUICK_SUBSCRIBERS = 2
QUICK_JOB_BYTES = 1 << 28
QUICK_DURATION_S = 0.5
"""Seconds of a measured pass of a quick run, at most: what fits the time decides."""

FREE_SHARE = 4
"""A pass writes at most this part of the free space."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """Settings that a user asks for; None: what fits."""

    measures: Sequence[Measure] = MEASURES
    sizes: Sequence[int] = ()
    rates: Sequence[float] = ()
    duration_s: float | None = None
    messages: int | None = None
    subscribers: int | None = None
    publishers: int = 1
    storage: str = "mmap"
    idle: Idle = "adaptive"
    repeat: int | None = None
    pin: bool = False
    quick: bool = False
    directory: Path | None = None


def plan(wishes: Wishes) -> Plan:
    """The jobs, how long each takes, and how often."""
    jobs = [job for measure in wishes.measures for job in _jobs(measure, wishes)]
    if wishes.quick:
        groups: tuple[tuple[Job, ...], ...] = (tuple(jobs),)
    else:
        by_measure = {measure: [] for measure in wishes.measures}  # type: dict[str, list[Job]]
        for job in jobs:
            by_measure[job.measure].append(job)
        groups = tuple(tuple(group) for group in by_measure.values())
    repeat = wishes.repeat or (1 if wishes.quick else REPEAT)
    seconds = wishes.duration_s
    if seconds is None:
        seconds = QUICK_DURATION_S if wishes.quick else DURATION_S
    directory = wishes.directory or Path(tempfile.gettempdir())
    free = shutil.disk_usage(directory).free
    most = QUICK_JOB_BYTES if wishes.quick else JOB_BYTES
    return Plan(
        groups=groups,
        length=Length(seconds, wishes.messages),
        repeat=repeat,
        budget_s=QUICK_S if wishes.quick and wishes.duration_s is None else None,
        conditions=Conditions(
            idle=wishes.idle,
            storage=wishes.storage,
            job_bytes=min(most, free // FREE_SHARE),
            warm=not wishes.quick,
        ),
        pin=wishes.pin,
        directory=directory,
    )


def _jobs(measure: Measure, wishes: Wishes) -> list[Job]:
    several = wishes.sizes or ((SIZE,) if wishes.quick or measure != "throughput" else SIZES)
    publishers = wishes.publishers
    if measure == "latency":
        rates = wishes.rates or (QUICK_RATES if wishes.quick else RATES)
        return [
            Job(measure, size, rate, publishers, wishes.subscribers or 1)
            for size in several
            for rate in rates
        ]
    if measure == "round_trip":
        return [Job(measure, size) for size in several]
    if measure == "fanout":
        usual = QUICK_SUBSCRIBERS if wishes.quick else SUBSCRIBERS
        return [
            Job(measure, size, None, publishers, wishes.subscribers or usual) for size in several
        ]
    return [Job(measure, size, None, publishers, 1) for size in several]
