"""The interface of a system that is measured: the engine's only view of a transport of Hermes, a control,
or another broker.

There are two ways in.  The short one is a :class:`Driver`: how to start the system's processes, and
how its users send and receive.  Wrap it in :class:`hermes.bench.actors.Driven` and it is a
contestant; everything that must be equal for all (schedules, clocks, payloads, histograms, who
counts what) is then the engine's.  The long one is a :class:`Contestant` of one's own.

A driver is looked up by ``module:attribute`` in the processes of its users, too: it is made at the
top of a module, and that module can be imported there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hermes.bench.stage import Process, Stage

Measure = Literal["throughput", "latency", "round_trip", "fanout"]
MEASURES: tuple[Measure, ...] = ("throughput", "latency", "round_trip", "fanout")
Kind = Literal["hermes", "control", "rival"]
Idle = Literal["block", "adaptive", "spin"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Settings that are the same for all contestants of a run."""

    idle: Idle = "adaptive"
    """How who waits does it: sleep, spin briefly and then sleep, or spin."""
    storage: str = "mmap"
    """Storage in which brokers of Hermes keep their logs."""
    job_bytes: int = 1 << 30
    """Most bytes of messages that one pass sends: so much must be kept, however far a subscriber
    lags behind."""
    warm: bool = True
    """Whether a log is filled once before throughput is measured, so that its memory is in place."""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to measure of a contestant."""

    measure: Measure
    size: int
    """Bytes of a payload."""
    rate: float | None = None
    """Messages a second that are offered, in all; latency only."""
    publishers: int = 1
    subscribers: int = 1

    @property
    def key(self) -> tuple[str, int, float]:
        """A tuple that differs from those of the other jobs of a run."""
        return (self.measure, self.size, self.rate or 0.0)

    def __str__(self) -> str:
        rate = "" if self.rate is None else f" at {self.rate:,.0f}/s"
        return f"{self.measure.replace('_', ' ')}, {self.size:,} B{rate}"


@dataclass(frozen=True, slots=True)
class Pass:
    """One go of a job: a warm-up, or the measured one."""

    messages: int
    """Messages published by all publishers together."""
    start_ns: int
    """When the first is due (CLOCK_MONOTONIC); paced passes only."""
    idle_s: float
    """How long nothing may come before who receives gives up: what is missing then is lost."""
    timeout_s: float
    """How long the whole may take before the contestant counts as stuck."""
    first: int = 0
    """Number of the first message: tells a late one of an earlier pass from ours."""
    extra_s: float = 0.0
    """How long a subscriber that has everything looks for more, which would be duplicates."""


class Publisher(Protocol):
    """A user of the system who sends; lives in a process of its own."""

    def send(self, payload: bytes) -> None:
        """One message, on the wire when this returns: what latency is measured with."""

    def burst(self, payload: bytes, count: int) -> None:
        """``count`` messages by the fastest documented way: what throughput is measured with."""

    def flush(self) -> None:
        """Wait until everything is with the broker, if the system can tell."""

    def close(self) -> None:
        """End it."""


class Subscriber(Protocol):
    """A user of the system who receives; is subscribed when it has been made."""

    def receive(self, timeout_s: float) -> bytes | memoryview | None:
        """The next message's payload; None: nothing came in time."""

    def drain(self, timeout_s: float) -> int:
        """How many messages came together, by the fastest documented way; 0: none in time."""

    def close(self) -> None:
        """End it."""


class Driver(Protocol):
    """A system, as its users know it.

    A driver may have a method ``pair(where, topic)``, which returns a publisher and a subscriber
    that share a connection: round trips are measured with those.
    """

    name: str
    """Name of its rows."""
    note: str
    """A note on its settings for readers of a result."""
    apis: Mapping[Measure, str]
    """Calls with which each measure is taken; a measure that is not here cannot be taken."""

    def obstacle(self) -> str | None:
        """None if it can run here, else why not, and what to do."""

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """Start the system's processes (``stage.start``); returns what its users need to find it,
        as JSON.  A system without a broker starts nothing."""

    def publisher(self, where: dict[str, Any], topic: str) -> Publisher:
        """A user who sends to ``topic``.  Called in that user's process."""

    def subscriber(self, where: dict[str, Any], topic: str) -> Subscriber:
        """A user who receives what is sent to ``topic`` from now on.  Called in its process."""


class Cast(Protocol):
    """A contestant on stage: it runs until the stage ends."""

    def processes(self) -> Mapping[str, Sequence[Process]]:
        """Its processes, by what they are: broker, publisher, subscriber, or another word."""

    def gather(self, jobs: Sequence[Job]) -> None:
        """Start everybody who will be needed for these jobs, all at once."""

    def warm(self, job: Job) -> None:
        """Bring it to the state in which it would be after hours of work.  Once, before jobs whose
        result depends on it."""

    def most(self, job: Job) -> int | None:
        """Messages that one pass may have: what can be kept for a subscriber that lags; None: any
        number."""

    def prepare(self, job: Job) -> None:
        """Have everybody connected and waiting."""

    def play(self, job: Job, go: Pass) -> list[dict[str, Any]]:
        """One pass; what each part reports, see :mod:`hermes.bench.parts`."""

    def finish(self) -> None:
        """The end of the job: who was connected for it disconnects."""


class Contestant(Protocol):
    """A system that is measured."""

    @property
    def name(self) -> str:
        """Name of its rows."""

    @property
    def kind(self) -> Kind:
        """A transport of Hermes, a control, or a rival."""

    @property
    def note(self) -> str:
        """A note on it for readers of a result."""

    def obstacle(self) -> str | None:
        """None if it can run here, else why not, and what to do."""

    def api(self, job: Job) -> str | None:
        """The calls with which a job is measured; None: it cannot be."""

    def enter(self, stage: Stage, conditions: Conditions) -> Cast:
        """Start its processes."""
