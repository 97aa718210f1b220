"""``hermes demo``: a real broker, an injector and a subscriber, and what it took each message to
get through.

Three processes besides this one, as in real life: nothing shares an interpreter.  The injector
follows a schedule that is fixed before it starts; latency is measured from the time at which a
message was *due*, so that a stall anywhere shows in every message it held up
(``docs/decisions/0060``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from hermes.base.closing import undisturbed
from hermes.cli.command import Command
from hermes.cli.exits import ExitCode
from hermes.cli.options import Bytes, Count, Rate, UrlText, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MESSAGES = 20_000
RATE = 4_000.0
SIZE = 256
SIZE_MIN = 16
"""Bytes: the due time and the number of the message travel in the payload."""
SEGMENT = 64 << 20
"""Bytes: small enough for any temporary directory, large enough for any message."""
START_S = 20.0
"""How long the broker and the subscriber may take to start."""
IDLE_S = 15.0
"""How long nothing may come before the subscriber gives up."""
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
    import signal

    from hermes.cli.output import Progress, print_json
    from hermes.plugins.discovery import default_plugins
    from hermes.spi.url import parse_url

    default_plugins().transport_of(parse_url(transport))  # before a process is blamed
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left behind
    with Progress(enabled=not as_json) as progress:
        burst = min(burst, BURST_BYTES // size)
        result = run(Plan(messages, rate, size, transport, burst), progress)
    if as_json:
        print_json(result.as_json())
    else:
        show(result)
    if not result.sound:
        sys.stderr.write(f"hermes: {result.verdict()}\n")
        raise SystemExit(int(ExitCode.FAILED))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do."""

    messages: int
    rate: float
    size: int
    transport: str
    burst: int


@dataclass(frozen=True, slots=True)
class Burst:
    """What the burst came to."""

    sent: int
    delivered: int
    seconds: float
    """From the first send to the last delivery."""

    @property
    def throughput(self) -> float:
        """Deliveries a second."""
        return self.delivered / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured."""

    transport: str
    storage: str
    size: int
    rate: float
    sent: int
    delivered: int
    duplicates: int
    disordered: int
    seconds: float
    """From the first message's due time to the last delivery."""
    latencies: Sequence[int]
    """Each delivery's, ns, lowest first."""
    burst: Burst | None = None

    @property
    def sound(self) -> bool:
        """True if every message was delivered, once and in order."""
        complete = self.burst is None or self.burst.delivered == self.burst.sent
        exact = self.delivered == self.sent and not self.duplicates and not self.disordered
        return complete and exact

    @property
    def throughput(self) -> float:
        """Deliveries a second."""
        return self.delivered / self.seconds if self.seconds > 0 else 0.0

    def latency_ns(self) -> dict[str, int]:
        """Minimum, percentiles and maximum."""
        if not self.delivered:
            return {}
        total = len(self.latencies)
        found = {"min": self.latencies[0]}
        for percentile in PERCENTILES:
            above = total - math.ceil(total * percentile / 100)
            if above >= ABOVE_MIN:
                found[f"p{percentile:g}"] = self.latencies[total - above - 1]
        return {**found, "max": self.latencies[-1]}

    def verdict(self) -> str:
        """What went wrong, in words."""
        text = (
            f"of {self.sent:,} messages {self.delivered:,} were delivered; "
            f"{self.duplicates:,} twice, {self.disordered:,} out of order"
        )
        if self.burst is not None:
            text += f"; of {self.burst.sent:,} in the burst {self.burst.delivered:,}"
        return text

    def as_json(self) -> dict[str, Any]:
        """The shape that docs/cli.md documents."""
        return {
            "transport": self.transport,
            "storage": self.storage,
            "size": self.size,
            "rate": self.rate,
            "sent": self.sent,
            "delivered": self.delivered,
            "delivered_percent": 100.0 * self.delivered / self.sent,
            "duplicates": self.duplicates,
            "disordered": self.disordered,
            "seconds": round(self.seconds, 6),
            "messages_per_second": round(self.throughput, 3),
            "bytes_per_second": round(self.throughput * self.size, 3),
            "latency_ns": self.latency_ns(),
            "burst": None
            if self.burst is None
            else {
                "sent": self.burst.sent,
                "delivered": self.burst.delivered,
                "seconds": round(self.burst.seconds, 6),
                "messages_per_second": round(self.burst.throughput, 3),
                "bytes_per_second": round(self.burst.throughput * self.size, 3),
            },
        }


class Child:
    """A process of the demo, which reports in JSON lines on its stdout."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hermes.cli.demo_roles", *arguments],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches us alone; we end them in order
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        assert self._process.stdin is not None
        self._input: IO[bytes] = self._process.stdin
        self.output: IO[bytes] = self._process.stdout
        self._errors: IO[bytes] = self._process.stderr

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def go(self) -> None:
        """Tell it to go on."""
        try:
            self._input.write(b"go\n")
            self._input.flush()
        except BrokenPipeError:
            raise self.failure() from None

    def check(self) -> None:
        """Raise if it has ended with an error."""
        if self._process.poll() not in (None, 0):
            raise self.failure()

    def failure(self) -> Exception:
        """What it said before it ended."""
        from hermes.errors import HermesError

        said = self._errors.read().decode(errors="replace").strip()
        return HermesError(
            f"the {self.name} ended with code {self._process.wait()}: {said or 'it said nothing'}"
        )

    def report(self) -> dict[str, Any]:
        """The next line it reports; waits for it.

        Raises:
            HermesError: it ended instead.
        """
        line = self.output.readline()
        if not line:
            raise self.failure()
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Stop it, gently first; never leaves it running."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.output.close()
        self._errors.close()
        with contextlib.suppress(BrokenPipeError):
            self._input.close()


def run(plan: Plan, progress: Any) -> Result:
    """Start everything, wait for the end, stop everything."""
    import tempfile

    with contextlib.ExitStack() as stack:
        # Removed last, when nothing runs any more.
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hermes-demo-")))
        progress.show("starting a broker ...")
        ready = place / "ready.json"
        storage = f"mmap:{place / 'data'}"
        broker = begin(
            stack,
            "broker",
            [
                "broker",
                f"--transport={plan.transport}",
                f"--storage={storage}",
                f"--segment={SEGMENT}",
                "--retention=0",
                f"--ready-file={ready}",
            ],
        )
        url = await_ready(broker, ready)

        progress.show("starting a subscriber and an injector ...")
        latencies = place / "latencies"
        idle_s = IDLE_S + 1 / plan.rate
        subscriber = begin(
            stack,
            "subscriber",
            ["subscriber", url, *map(str, (plan.messages, idle_s, plan.burst, latencies))],
        )
        subscriber.report()  # it is subscribed: what is sent from now on reaches it
        injector = begin(
            stack,
            "injector",
            ["injector", url, *map(str, (plan.messages, plan.rate, plan.size, plan.burst))],
        )
        start_ns = int(injector.report()["start_ns"])

        last = follow(plan, subscriber, [broker, injector], start_ns, progress)
        sent = int(injector.report()["sent"])
        progress.show(f"a burst of {plan.burst:,} messages ...")
        return Result(
            transport=url,
            storage=storage,
            size=plan.size,
            rate=plan.rate,
            sent=sent,
            delivered=int(last["delivered"]),
            duplicates=int(last["duplicates"]),
            disordered=int(last["disordered"]),
            seconds=max(0, int(last["last_ns"]) - start_ns) / 1e9,
            burst=run_burst(subscriber, injector) if plan.burst else None,
            latencies=read_latencies(latencies),
        )


def begin(stack: contextlib.ExitStack, name: str, arguments: list[str]) -> Child:
    """Start a process that ends with ``stack``, whenever Ctrl-C is pressed."""
    with undisturbed():
        child = Child(name, arguments)
        stack.callback(child.end)
    return child


def run_burst(subscriber: Child, injector: Child) -> Burst:
    """Have the injector begin, and wait for both."""
    injector.go()
    received = subscriber.report()
    sent = injector.report()
    return Burst(
        sent=int(sent["sent"]),
        delivered=int(received["delivered"]),
        seconds=max(0, int(received["last_ns"]) - int(sent["start_ns"])) / 1e9,
    )


def await_ready(broker: Child, ready: Path) -> str:
    """The URL of the broker's listener, once it is bound."""
    from hermes.errors import Timeout

    deadline = time.monotonic() + START_S
    while not ready.exists():
        broker.check()
        if time.monotonic() > deadline:
            raise Timeout(f"the broker did not start within {START_S:g} s")
        time.sleep(0.01)
    listeners = json.loads(ready.read_text())["listeners"]
    return str(listeners[0]["url"])


def follow(
    plan: Plan, subscriber: Child, others: list[Child], start_ns: int, progress: Any
) -> dict[str, Any]:
    """Show how far the subscriber is, until it has all of the paced messages."""
    messages, scheduled_s = plan.messages, plan.messages / plan.rate
    while True:
        report = subscriber.report()
        if report.get("done"):
            return report
        for child in others:
            child.check()
        delivered = int(report["delivered"])
        elapsed = max(0.0, (time.monotonic_ns() - start_ns) / 1e9)
        done = int(BAR * delivered / messages)
        progress.show(
            f"[{'#' * done}{'.' * (BAR - done)}] {delivered:,} of {messages:,} delivered, "
            f"{elapsed:.1f} of {scheduled_s:.1f} s"
        )


def read_latencies(path: Path) -> list[int]:
    """The latencies in ``path``, lowest first: ns, 64 bits each, at least 1."""
    from array import array

    latencies = array("q")
    latencies.frombytes(path.read_bytes())
    return sorted(max(latency, 1) for latency in latencies)


def show(result: Result) -> None:
    """The table and the histogram."""
    from hermes.cli.figures import format_bytes, format_count, format_duration
    from hermes.cli.output import print_table

    percent = 100.0 * result.delivered / result.sent
    rows = [
        (
            "sent",
            f"{result.sent:,} messages of {format_bytes(result.size)} at "
            f"{format_count(result.rate)}/s",
        ),
        ("delivered", f"{result.delivered:,} ({percent:.6g} %)"),
    ]
    for name, value in result.latency_ns().items():
        rows.append((f"latency {name}", format_duration(value)))
    rows.append(
        (
            "throughput, paced",
            f"{format_count(result.throughput)} messages/s, "
            f"{format_bytes(result.throughput * result.size)}/s",
        )
    )
    if result.burst is not None:
        burst, rate = result.burst, result.burst.throughput
        rows.append(
            (
                "throughput, burst",
                f"{format_count(rate)} messages/s, {format_bytes(rate * result.size)}/s",
            )
        )
        share = 100.0 * burst.delivered / burst.sent
        rows.append(("delivered, burst", f"{burst.delivered:,} ({share:.6g} %)"))
    cores = os.cpu_count()
    click.echo(f"{result.transport}, mmap log, 4 processes on {cores} cores")
    print_table(["", ">measured"], rows)
    if result.delivered:
        click.echo("One-way latency, from the intended send time to the subscriber's hands")
        for line in bars(result.latencies):
            click.echo(line)


def bars(latencies: Sequence[int]) -> Iterator[str]:
    """A histogram of sorted latencies: a line for each bucket, whose bounds grow by one ratio."""
    from bisect import bisect_right

    from hermes.cli.figures import format_duration

    low, high = latencies[0], max(latencies[-1], latencies[0] + 1)
    ratio = (high / low) ** (1 / BARS)
    edges = [low * ratio ** (i + 1) for i in range(BARS - 1)] + [high]
    through = [0, *(bisect_right(latencies, edge) for edge in edges)]
    counts = [after - before for before, after in itertools.pairwise(through)]
    most, total = max(counts), len(latencies)
    for edge, count in zip(edges, counts, strict=True):
        bar = "█" * round(BAR_WIDTH * count / most) or ("▏" if count else "")
        yield f"  <= {format_duration(edge):>8} {bar:<{BAR_WIDTH}} {100 * count / total:7.3f} %"
