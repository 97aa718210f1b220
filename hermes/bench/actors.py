"""Contestants whose users are processes of :mod:`hermes.bench.actor`: all that we have.

:class:`Driven` makes a contestant of a :class:`~hermes.bench.contestant.Driver`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hermes.bench.contestant import Conditions, Driver, Job, Kind, Measure, Pass
from hermes.bench.stage import READY_S, Process, Stage, hear_all

Part = dict[str, Any]
Assignment = tuple[str, int, Part]
"""Which kind of process plays it, which of them, and what."""

BROKER_CORE, FIRST_USER_CORE = 0, 1
"""Where processes are pinned to, if they are."""


def usual_parts(job: Job) -> list[Assignment]:
    """A process for each user: subscribers first, so that they are there when something is sent."""
    if job.measure == "round_trip":
        return [("client", 0, {"role": "pingpong"})]
    paced = job.measure == "latency"
    hearing = [
        ("subscriber", number, {"role": "hear" if paced else "receive"})
        for number in range(job.subscribers)
    ]
    sending = [
        ("publisher", number, {"role": "pace" if paced else "publish"})
        for number in range(job.publishers)
    ]
    return [*hearing, *sending]


class ActorCast:
    """A :class:`~hermes.bench.contestant.Cast` of actors, and perhaps a broker beside them."""

    def __init__(
        self, stage: Stage, reference: str, where: dict[str, Any], broker: Sequence[Process] = ()
    ) -> None:
        self._stage = stage
        self._reference = reference
        self.where = where
        self._broker = list(broker)
        self._actors: dict[tuple[str, int], Process] = {}
        self._assigned: list[Process] = []
        self._topics = 0

    def parts(self, job: Job) -> list[Assignment]:
        """The parts of a job, and the process that plays each."""
        return usual_parts(job)

    def processes(self) -> Mapping[str, Sequence[Process]]:
        """The processes that take part in the current job."""
        found: dict[str, list[Process]] = {"broker": self._broker} if self._broker else {}
        for (kind, _), process in self._actors.items():
            if process in self._assigned:
                found.setdefault(kind, []).append(process)
        return found

    def gather(self, jobs: Sequence[Job]) -> None:
        """Start the processes; they get ready side by side."""
        for job in jobs:
            for kind, number, _ in self.parts(job):
                if (kind, number) not in self._actors:
                    self._actors[kind, number] = self.actor(kind, number)

    def most(self, job: Job) -> int | None:
        """Any number: nothing is kept."""
        return None

    def warm(self, job: Job) -> None:
        """Nothing: what a pass needs, the warm-up passes bring about."""

    def prepare(self, job: Job) -> None:
        """Connect everybody, in the order of the parts."""
        self._topics += 1
        self.gather([job])
        together: dict[Process, list[Part]] = {}
        counts = Counter(part["role"] for *_, part in self.parts(job))
        numbers = dict.fromkeys(counts, 0)
        for kind, number, part in self.parts(job):
            role = part["role"]
            whole = {
                "topic": f"bench.{job.measure}.{self._topics}",
                "size": job.size,
                "rate": job.rate,
                "index": numbers[role],
                "of": counts[role],
            } | part
            numbers[role] += 1
            together.setdefault(self._actors[kind, number], []).append(whole)
        self._assigned = list(together)
        for process, parts in together.items():
            process.tell({"do": "prepare", "where": self.where, "parts": parts})
            hear_all([process], READY_S, beside=self._broker)

    def play(self, job: Job, go: Pass) -> list[dict[str, Any]]:
        """Let everybody go, who receives first."""
        task = {
            "do": "play",
            "messages": go.messages,
            "start_ns": go.start_ns,
            "idle_s": go.idle_s,
            "first": go.first,
            "extra_s": go.extra_s,
        }
        for process in self._assigned:
            process.tell(task)
        answers = hear_all(
            self._assigned, go.timeout_s, beside=self._broker, meanwhile=self._stage.meanwhile
        )
        return [report for answer in answers for report in answer["reports"]]

    def finish(self) -> None:
        """Disconnect everybody; the processes stay for the next job."""
        for process in self._assigned:
            process.tell({"do": "finish"})
        hear_all(self._assigned, READY_S, beside=self._broker)
        self._assigned = []

    def actor(self, kind: str, number: int) -> Process:
        """Start a process for users."""
        name = kind if number == 0 else f"{kind} {number + 1}"
        return self._stage.start(
            name,
            sys.executable,
            "-m",
            "hermes.bench.actor",
            self._reference,
            core=FIRST_USER_CORE + number + (kind == "subscriber"),
            environment={"PYTHONUNBUFFERED": "1"},
            mercy_s=0,  # it has nothing to lose
        )


class Driven:
    """A contestant made of a driver, which stands at the top of a module."""

    def __init__(self, driver: Driver, reference: str, kind: Kind = "rival") -> None:
        self._driver = driver
        self._reference = reference
        self.kind: Kind = kind
        self.name = driver.name
        self.note = driver.note

    def obstacle(self) -> str | None:
        """The driver's obstacle."""
        return self._driver.obstacle()

    def api(self, job: Job) -> str | None:
        """The driver's calls for the job's measure."""
        measure: Measure = job.measure
        return self._driver.apis.get(measure)

    def enter(self, stage: Stage, conditions: Conditions) -> ActorCast:
        """Start the system; its users are started when a job needs them."""
        where = self._driver.serve(stage, conditions)
        return ActorCast(stage, self._reference, where, list(stage.processes))
