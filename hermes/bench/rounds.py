"""The order of a run: contestants alternate round by round, so that drift hits all of them; one
that fails is left out from then on, and says why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from hermes.base.platform import usable_cores
from hermes.bench.contestant import Conditions, Contestant, Job
from hermes.bench.measuring import Length, Sample, measure
from hermes.bench.stage import Process, Stage
from hermes.errors import HermesError

JOB_S = 0.25
"""Seconds that a job takes beside its passes, about: its share of starting processes, and connecting."""
OVERHEAD = 1.9
"""Seconds that its passes take per second of the measured one, warm-up included."""
SECONDS_MIN = 0.05
"""A pass is not shortened further."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs of a run, and their conditions."""

    groups: tuple[tuple[Job, ...], ...]
    """Jobs that a contestant does in one visit, before the next has its turn."""
    length: Length
    repeat: int
    budget_s: float | None = None
    """Seconds the whole run may take: passes are shortened to fit.  None: they last as long as they
    should."""
    conditions: Conditions = field(default_factory=Conditions)
    pin: bool = False
    directory: Path | None = None
    """Place of logs and other files of a visit; None: the temporary directory."""

    @property
    def jobs(self) -> list[Job]:
        """All of them."""
        return [job for group in self.groups for job in group]


@dataclass(slots=True)
class Found:
    """The result of one contestant."""

    contestant: Contestant
    samples: dict[Job, list[Sample]] = field(default_factory=dict)
    obstacle: str | None = None
    """Why it was not started."""
    failure: str | None = None
    """Why it was given up."""


class Budget:
    """How long the next pass may last, if the whole has a bound."""

    def __init__(self, plan: Plan, jobs: int) -> None:
        self._plan = plan
        self._jobs = jobs
        self._end = time.monotonic() + (plan.budget_s or 0.0)

    def length(self, done: int) -> Length:
        """Return the length of the next job, when ``done`` are done."""
        plan = self._plan
        if plan.budget_s is None:
            return plan.length
        share = (self._end - time.monotonic()) / max(1, self._jobs - done)
        seconds = (share - JOB_S) / OVERHEAD
        shortened = min(plan.length.seconds, max(SECONDS_MIN, seconds))
        return Length(shortened, plan.length.messages)


class Observer(Protocol):
    """A follower of a run."""

    def visit(self, text: str, done: int, of: int) -> None:
        """``done`` of ``of`` jobs are done; ``text`` is what is next."""

    def going(self, contestant: Contestant, job: Job, processes: Sequence[Process]) -> None:
        """The measured pass of a job begins; ``processes``: all of the contestant's."""


class Silent:
    """Follows nothing."""

    def visit(self, text: str, done: int, of: int) -> None:
        """Nothing."""

    def going(self, contestant: Contestant, job: Job, processes: Sequence[Process]) -> None:
        """Nothing."""


def play(
    contestants: Sequence[Contestant],
    plan: Plan,
    observer: Observer | None = None,
) -> list[Found]:
    """All rounds."""
    told = observer or Silent()
    found = [Found(contestant, obstacle=contestant.obstacle()) for contestant in contestants]
    able = [each for each in found if each.obstacle is None]
    total = sum(_possible(each, group) for group in plan.groups for each in able) * plan.repeat
    done = 0
    budget = Budget(plan, total)
    for number in range(plan.repeat):
        for group in plan.groups:
            for each in able:
                jobs = [job for job in group if each.contestant.api(job) is not None]
                if not jobs or each.failure is not None:
                    done += len(jobs)
                    continue
                where = f"round {number + 1} of {plan.repeat}: {each.contestant.name}"
                done = _visit(each, jobs, plan, told, budget, where, done, total)
    return found


def _possible(each: Found, group: Sequence[Job]) -> int:
    return sum(each.contestant.api(job) is not None for job in group)


def _visit(
    each: Found,
    jobs: Sequence[Job],
    plan: Plan,
    told: Observer,
    budget: Budget,
    where: str,
    done: int,
    total: int,
) -> int:
    """All jobs of one visit; returns how many are done then."""
    cores = usable_cores() if plan.pin else None
    goal = done + len(jobs)
    try:
        with Stage(directory=plan.directory, cores=cores) as stage:
            told.visit(f"{where} starts", done, total)
            cast = each.contestant.enter(stage, plan.conditions)
            cast.gather(jobs)
            for job in jobs:
                told.visit(f"{where}: {job}", done, total)
                if plan.conditions.warm and job.measure in ("throughput", "fanout"):
                    cast.warm(job)
                going = partial(told.going, each.contestant, job, stage.processes)
                sample = measure(cast, job, budget.length(done), going)
                each.samples.setdefault(job, []).append(sample)
                done += 1
    except (HermesError, OSError) as error:
        each.failure = str(error) or type(error).__name__
    return goal
