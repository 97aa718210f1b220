"""One-way latency at a fixed rate: rows that take turns pass by pass, and what is made of them.

Open loop: a message counts from when it was to be sent, whatever held it up, and every message of a
pass counts.  All rows of a round are there from its beginning, asleep but for the one whose turn it
is: what holds up the machine for a while meets all of them alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.system.harness import (
    HERE,
    RESULT_TIMEOUT_S,
    Metrics,
    Round,
    Scale,
    begin,
    compiled,
)
from hermes.bench.histogram import histogram_of, summary
from hermes.bench.stage import Process

RATE = 20_000
STEADY_BYTES = 64
LATE_NS = 300_000
"""Longer than a repeat takes: what is later than that has another reason."""
SPIN = "5ms"
"""A broker polls for so long after the last message: it does not sleep between two of a pass, and has
begun to before those of the next row count."""
BROKER_CORE, CLIENT_CORE = 0, 1

Player = Callable[[Round, "Passes"], Process]
"""Sets up one row's processes; returns the role that reports each pass, and is ready for the next."""


@dataclass(frozen=True, slots=True)
class Passes:
    """How a round is divided."""

    number: int
    messages: int
    """In each, after a tenth as many that do not count."""

    @classmethod
    def of(cls, scale: Scale) -> Passes:
        """A tenth of a second each: most hold no stall of the machine, and those that do show in
        what is said of all messages."""
        return cls(scale.pick(30, 2), 2_000)

    def __str__(self) -> str:
        return f"{self.number} passes of {self.messages:,} messages"


def echo(stage: Round, passes: Passes) -> Process:
    """A datagram there and back without anything around it: the machine's own stalls."""
    program = compiled(HERE / "udp_echo.c")
    port = stage.start("echo", program, "doze", core=BROKER_CORE, mercy_s=0).line()
    numbers = map(str, (STEADY_BYTES, passes.messages, RATE, passes.number))
    return stage.start("steady", program, "steady", port, *numbers, core=CLIENT_CORE, mercy_s=0)


def through_broker(
    stage: Round, passes: Passes, *, listen: str, dial: Callable[[str], str]
) -> Process:
    """One thread publishes and receives; ``dial`` makes its URL of the broker's."""
    url = stage.broker(listen, idle="adaptive", spin=SPIN).where["url"]
    numbers = (RATE, STEADY_BYTES, passes.messages, passes.number)
    return stage.python("udp_roles", "steady", dial(url), *numbers, core=CLIENT_CORE)


class Turns:
    """The rows of one question, whose passes take turns in every round."""

    def __init__(self, players: Mapping[str, Player], passes: Passes) -> None:
        self._players = players
        self._passes = passes
        self._rows: dict[str, Metrics] = {}

    def row(self, stage: Round, *, name: str) -> Metrics:
        """One row of the round; whichever is asked for first has all of them played."""
        if name not in self._rows:
            self._rows = self._play(stage)
        return self._rows.pop(name)

    def _play(self, stage: Round) -> dict[str, Metrics]:
        roles = {name: play(stage, self._passes) for name, play in self._players.items()}
        took: dict[str, list[list[int]]] = {name: [] for name in roles}
        for _ in range(self._passes.number):
            for name, role in roles.items():
                role.hear()
                begin(role)
                took[name].append(role.hear(RESULT_TIMEOUT_S)["one_way_ns"])
        return {name: figures(passes) for name, passes in took.items()}


def figures(passes: list[list[int]]) -> Metrics:
    """The median pass's percentiles, and those of all messages of all passes together."""
    each = [summary(histogram_of(took)) for took in passes]
    together = [ns for took in passes for ns in took]
    of_all = summary(histogram_of(together))
    return {
        "p50_us": statistics.median(found["p50_us"] for found in each),
        "p99_us": statistics.median(found["p99_us"] for found in each),
        "all_p99_us": of_all["p99_us"],
        "all_p999_us": of_all["p999_us"],
        "max_us": of_all["max_us"],
        "over_300_us_percent": 100 * sum(ns > LATE_NS for ns in together) / len(together),
    }
