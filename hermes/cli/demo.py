"""``hermes demo``: a plan of :mod:`hermes.bench` with one table: a broker, an injector and a
subscriber, and the time each message took from one to the other.

Each is a process of its own, as in real life: nothing shares an interpreter.  The injector follows a
schedule that is fixed before it starts; latency is measured from the time at which a message was
*due*, so that a stall anywhere shows in every message it held up (``docs/decisions/0060``).
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from hermes.cli.command import Command
from hermes.cli.exits import ExitCode
from hermes.cli.options import Bytes, Count, Rate, UrlText, json_option

if TYPE_CHECKING:
    from hermes.bench.histogram import Histogram
    from hermes.bench.measuring import Sample
    from hermes.bench.own import TransportContestant
    from hermes.cli.output import Progress

MESSAGES = 20_000
RATE = 4_000.0
SIZE = 256
SIZE_MIN = 16
"""Bytes: the due time and the number of the message travel in the payload."""
IDLE_S = 15.0
"""Silence after which what is missing is lost."""
EXTRA_S = 0.1
"""How long the subscriber looks for messages beyond the last: they would be duplicates."""
BURST = 500_000
BURST_BYTES = 256 << 20
"""Bytes of payload in the burst, at most: it all stays in a temporary directory for a moment."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
ABOVE_MIN = 10
"""Latencies above a percentile, at least: with fewer it says little more than the maximum does."""
BAR = 24
"""Characters of the progress bar."""
BARS = 12
"""Rows of the little histogram."""
BAR_WIDTH = 44


@click.command(
    "demo",
    cls=Command,
    short_help="Measure a broker on this machine, with nothing set up.",
    examples=[
        ("Five seconds, one table", "hermes demo"),
        ("The original battle test", "hermes demo --messages 1000 --rate 200"),
        (
            "Larger messages, faster, for a script",
            "hermes demo --messages 100000 --rate 20000 --size 1KiB --json",
        ),
    ],
    exits={
        ExitCode.OK: "every message was delivered, once and in order",
        ExitCode.FAILED: "messages were lost, or one of the processes failed; stderr says which",
        ExitCode.INTERRUPTED: "interrupted (Ctrl-C); nothing is left behind",
    },
)
@click.option(
    "--messages",
    type=Count(),
    default=MESSAGES,
    show_default=True,
    metavar="N",
    help="Messages to send.",
)
@click.option(
    "--rate",
    type=Rate(),
    default=RATE,
    show_default=True,
    metavar="R",
    help="Messages a second, evenly spaced.",
)
@click.option(
    "--size",
    type=Bytes(),
    default=str(SIZE),
    show_default=True,
    help=f"Bytes of a payload, at least {SIZE_MIN}.",
)
@click.option(
    "--transport",
    type=UrlText(),
    default="tcp://127.0.0.1:0",
    show_default=True,
    metavar="URL",
    help="Listener of the broker: a transport's name or URL.",
)
@click.option(
    "--burst",
    type=Count(0),
    default=BURST,
    show_default=True,
    metavar="N",
    help="Messages sent as fast as they go, after the paced ones; 0: none.",
)
@json_option
def command(
    messages: int, rate: float, size: int, transport: str, burst: int, as_json: bool
) -> None:
    """Start a broker with its log in a temporary directory, send messages through it, and measure.

    The broker, an injector and a subscriber run as processes of their own, which talk over the
    transport.  The table shows what was sent and delivered, the one-way latency from each
    message's intended send time to the subscriber's hands, and the throughput: at that pace, and of
    a burst in which both ends use batches.  Everything is removed afterwards.
    """
    if size < SIZE_MIN:
        raise click.BadParameter(
            f"must be at least {SIZE_MIN} bytes: the time of sending travels in it",
            param_hint="--size",
        )
    from hermes.bench.own import TransportContestant
    from hermes.cli.output import Progress, print_json
    from hermes.plugins.discovery import default_plugins
    from hermes.spi.url import parse_url

    url, plugins = parse_url(transport), default_plugins()
    plugins.transport_of(url)  # before a process is blamed
    plan = DemoPlan(messages, rate, size, min(burst, BURST_BYTES // size))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left behind
    with Progress(enabled=not as_json) as progress:
        result = run(TransportContestant(transport, url, plugins), plan, progress)
    if as_json:
        print_json(result.as_json())
    else:
        show(result)
    if not result.sound:
        sys.stderr.write(f"hermes: {result.verdict()}\n")
        raise SystemExit(int(ExitCode.FAILED))


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The messages of a run."""

    messages: int
    rate: float
    size: int
    burst: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Figures of a run."""

    plan: DemoPlan
    where: dict[str, Any]
    """URL of the broker's listener and of its storage."""
    processes: int
    paced: Sample
    burst: Sample | None = None

    @property
    def sound(self) -> bool:
        """True if every message was delivered, once and in order."""
        exact = not (self.paced.lost or self.paced.duplicates or self.paced.disordered)
        return exact and not (self.burst and self.burst.lost)

    @property
    def latencies(self) -> Histogram:
        """The one-way latency of each paced message that was delivered."""
        from hermes.bench.histogram import merged

        return merged(filter(None, [self.paced.histogram]))

    def latency_ns(self) -> dict[str, int]:
        """Minimum, percentiles and maximum."""
        found = self.latencies
        if not found.count:
            return {}
        shown = {
            f"p{percentile:g}": found.at(percentile)
            for percentile in PERCENTILES
            if found.count - math.ceil(found.count * percentile / 100) >= ABOVE_MIN
        }
        return {"min": found.lowest, **shown, "max": found.highest}

    def verdict(self) -> str:
        """The counts of what went wrong, in words."""
        text = (
            f"of {self.paced.sent:,} messages {self.paced.delivered:,} were delivered; "
            f"{self.paced.duplicates:,} twice, {self.paced.disordered:,} out of order"
        )
        if self.burst is not None:
            text += f"; of {self.burst.sent:,} in the burst {self.burst.delivered:,}"
        return text

    def as_json(self) -> dict[str, Any]:
        """The shape that docs/cli.md documents."""
        return {
            "transport": self.where["url"],
            "storage": self.where["storage"],
            "size": self.plan.size,
            "rate": self.plan.rate,
            **self._counted(
                self.paced,
                delivered_percent=100.0 * self.paced.delivered / self.paced.sent,
                duplicates=self.paced.duplicates,
                disordered=self.paced.disordered,
            ),
            "latency_ns": self.latency_ns(),
            "burst": None if self.burst is None else self._counted(self.burst),
        }

    def _counted(self, sample: Sample, **more: float) -> dict[str, Any]:
        return {
            "sent": sample.sent,
            "delivered": sample.delivered,
            **more,
            "seconds": round(sample.seconds, 6),
            "messages_per_second": round(sample.msgs_per_s, 3),
            "bytes_per_second": round(sample.msgs_per_s * self.plan.size, 3),
        }


@dataclass(slots=True)
class Bar:
    """The schedule of the paced messages as a line on the terminal."""

    progress: Progress
    seconds: float
    """Length of the schedule."""
    begun: float = 0.0
    """When it started; 0: there is none now."""

    def begin(self) -> None:
        """The schedule starts now."""
        self.begun = time.monotonic()

    def draw(self) -> None:
        """Show how far it is, while there is one."""
        if self.begun:
            elapsed = min(time.monotonic() - self.begun, self.seconds)
            done = int(BAR * elapsed / self.seconds)
            bar = f"[{'#' * done}{'.' * (BAR - done)}]"
            self.progress.show(f"{bar} {elapsed:.1f} of {self.seconds:.1f} s")


def run(contestant: TransportContestant, plan: DemoPlan, progress: Progress) -> DemoResult:
    """Measure the paced messages, then the burst, all of one broker.

    Raises:
        Failed: a process died or got stuck.
    """
    from hermes.bench.contestant import Conditions, Job
    from hermes.bench.measuring import Length, measure
    from hermes.bench.own import FRAME_BYTES, SEGMENT
    from hermes.bench.stage import Stage

    paced, burst = Job("latency", plan.size, plan.rate), Job("throughput", plan.size)
    kept = (plan.messages + plan.burst) * (plan.size + FRAME_BYTES) + SEGMENT
    bar = Bar(progress, plan.messages / plan.rate)
    with Stage(meanwhile=bar.draw) as stage:
        progress.show("starting a broker ...")
        cast = contestant.enter(stage, Conditions(job_bytes=kept, warm=False))
        progress.show("starting a subscriber and an injector ...")
        cast.gather([paced])
        length = Length(0.0, plan.messages, IDLE_S, EXTRA_S, warmed=False)
        first = measure(cast, paced, length, bar.begin)
        bar.begun = 0.0
        second = None
        if plan.burst:
            progress.show(f"a burst of {plan.burst:,} messages ...")
            second = measure(cast, burst, replace(length, messages=plan.burst))
        processes = 1 + sum(process.alive for process in stage.processes)
        return DemoResult(plan, cast.where, processes, first, second)


def show(result: DemoResult) -> None:
    """The table and the histogram."""
    from hermes.cli.figures import format_bytes, format_count, format_duration
    from hermes.cli.output import print_table

    def throughput(sample: Sample) -> str:
        rate = sample.msgs_per_s
        return f"{format_count(rate)} messages/s, {format_bytes(rate * result.plan.size)}/s"

    def delivered(sample: Sample) -> str:
        return f"{sample.delivered:,} ({100.0 * sample.delivered / sample.sent:.6g} %)"

    plan, paced, burst = result.plan, result.paced, result.burst
    sent = f"{paced.sent:,} messages of {format_bytes(plan.size)} at {format_count(plan.rate)}/s"
    rows = [("sent", sent), ("delivered", delivered(paced))]
    for name, value in result.latency_ns().items():
        rows.append((f"latency {name}", format_duration(value)))
    rows.append(("throughput, paced", throughput(paced)))
    if burst is not None:
        rows.append(("throughput, burst", throughput(burst)))
        rows.append(("delivered, burst", delivered(burst)))
    url, cores = result.where["url"], os.cpu_count()
    click.echo(f"{url}, mmap log, {result.processes} processes on {cores} cores")
    print_table(["", ">measured"], rows)
    if paced.delivered:
        click.echo("One-way latency, from the intended send time to the subscriber's hands")
        for line in bars(result.latencies):
            click.echo(line)


def bars(latencies: Histogram) -> Iterator[str]:
    """A histogram in lines: one for each bucket, whose bounds grow by one ratio."""
    from hermes.cli.figures import format_duration

    low, high = latencies.lowest, max(latencies.highest, latencies.lowest + 1)
    ratio = (high / low) ** (1 / BARS)
    edges = [low * ratio ** (i + 1) for i in range(BARS - 1)] + [high]
    through = [0, *map(latencies.through, edges)]
    counts = [after - before for before, after in itertools.pairwise(through)]
    most, total = max(counts), latencies.count
    for edge, count in zip(edges, counts, strict=True):
        bar = "█" * round(BAR_WIDTH * count / most) or ("▏" if count else "")
        yield f"  <= {format_duration(edge):>8} {bar:<{BAR_WIDTH}} {100 * count / total:7.3f} %"
