"""Do acknowledgements make the tail?  One way at a fixed rate, with ``ack="appended"`` and with none.

    python -m benchmarks.system.acks [--rate 10000] [--duration 10] [--rounds 5] [--before CHECKOUT]

Control: the C relay of ``hermes bench``, which copies bytes and knows neither log nor acknowledgement.
``--before``: a checkout of another commit, built in place, whose broker and clients take turns with
ours.  All contestants alternate round by round; percentiles are of all messages of all rounds.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from hermes.bench.contestant import Conditions, Contestant, Job
from hermes.bench.controls import CONTROLS, RELAY
from hermes.bench.histogram import merged, summary
from hermes.bench.own import HermesCast, TransportContestant
from hermes.bench.plan import Wishes, plan
from hermes.bench.rounds import play
from hermes.bench.stage import Stage
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url

SIZE = 256
"""Bytes of a payload."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """TCP with one level of acknowledgement, perhaps of another checkout."""

    name: str
    ack: str
    checkout: Path | None = None
    kind = "hermes"
    note = ""

    def obstacle(self) -> str | None:
        """None."""
        return None

    def api(self, job: Job) -> str | None:
        """One call a message at both ends."""
        return f"send, ack {self.ack}; receive"

    def enter(self, stage: Stage, conditions: Conditions) -> HermesCast:
        """Start a broker and its users; those are told the level."""
        url = parse_url("tcp://127.0.0.1:0")
        before = dict(os.environ)
        if self.checkout is not None:  # not the checkout that is the working directory
            os.environ |= {"PYTHONPATH": str(self.checkout), "PYTHONSAFEPATH": "1"}
        try:
            tcp = TransportContestant(str(url), url, default_plugins())
            cast = tcp.enter(stage, conditions)
            cast.where["ack"] = self.ack
            cast.gather([Job("latency", SIZE, 1.0)])
        finally:
            os.environ.clear()
            os.environ |= before
        return cast


def main() -> None:
    """Play all rounds and print a row for each contestant."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.system.acks", description=__doc__)
    parser.add_argument("--rate", type=float, default=10_000.0, help="messages a second")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds of a measured pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, built in place")
    options = parser.parse_args()
    rows: list[Contestant] = [
        Acknowledged("acknowledged", "appended"),
        Acknowledged("not acknowledged", "none"),
        *(control for control in CONTROLS if control.name == RELAY),
    ]
    if options.before is not None:
        rows.append(Acknowledged("acknowledged, before", "appended", options.before.absolute()))
    wishes = Wishes(
        measures=("latency",),
        sizes=(SIZE,),
        rates=(options.rate,),
        duration_s=options.duration,
        repeat=options.rounds,
    )
    print(f"{'one way, us':24}{'p50':>8}{'p99':>8}{'p99.9':>8}{'max':>9}  p99 of each round")
    for found in play(rows, plan(wishes)):
        samples = [sample for row in found.samples.values() for sample in row]
        if found.failure or found.obstacle or not samples:
            print(f"{found.contestant.name:24}{found.failure or found.obstacle}")
            continue
        whole = summary(merged(sample.histogram for sample in samples if sample.histogram))
        each = " ".join(f"{sample.latency['p99_us']:.0f}" for sample in samples)
        print(
            f"{found.contestant.name:24}{whole['p50_us']:8.0f}{whole['p99_us']:8.0f}"
            f"{whole['p999_us']:8.0f}{whole['max_us']:9.0f}  {each}"
        )


if __name__ == "__main__":
    main()
