"""``hermes sub``: messages to stdout, whole batches at a time.

``raw`` never enters Python per message: C writes the payloads of a batch, each with its newline,
into a buffer that goes out in one system call.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

import click

from hermes.cli.command import Command
from hermes.cli.exits import ExitCode, complain
from hermes.cli.formats import json_line, text_line
from hermes.cli.options import (
    Count,
    Duration,
    Name,
    StartPoint,
    client_options,
    intercept_option,
    intercepted,
    json_option,
)
from hermes.cli.output import reader_gone, write_all

if TYPE_CHECKING:
    from hermes.client import Batch, Subscription
    from hermes.errors import GapDetected

COMMIT_NS = 200_000_000
"""Between two commits of a durable position: what a kill may make us see twice."""
LOOK_NS = 500_000_000
"""How long a quiet topic may keep us from seeing that the reader of the output has gone."""
COUNT_MAX = 2**63 - 1
LINES = 1024
"""Messages formatted before they are written: bounds the text held in memory."""


@click.command(
    "sub",
    cls=Command,
    short_help="Subscribe, and write messages to stdout.",
    examples=[
        ("Everything from now on, under md.", "hermes sub 'md.>'"),
        (
            "From the oldest message kept; stop after three; one JSON object a line",
            "hermes sub 'md.>' --from earliest --count 3 --json",
        ),
        (
            "The newest message of each topic, for one second",
            "hermes sub '>' --from last --duration 1",
        ),
        (
            "Since half past nine, payloads only, to a file",
            "hermes sub 'log.*' --from 2026-01-31T09:30 --duration 5 --format raw > out.txt",
        ),
        (
            "Go on where the last run of that name stopped",
            "hermes sub orders --durable billing --from earliest",
        ),
    ],
    exits={
        ExitCode.OK: "the count was reached; without --count, the time asked for is over",
        ExitCode.TIMED_OUT: "the time ran out before the count was reached, or the broker did "
        "not answer",
        ExitCode.GAP: "messages are missing; stderr says which, stdout has all before them; with "
        "--duration and no --count, also those behind them",
        ExitCode.UNREACHABLE: "no broker answers there, or the connection was lost",
        ExitCode.REFUSED: "the broker refused the subscription",
        ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
        ExitCode.PIPE_CLOSED: "whoever read the output has gone",
    },
)
@click.argument("pattern")
@click.option(
    "--from",
    "start",
    type=StartPoint(),
    metavar="latest|earliest|last|SEQUENCE|TIME",
    default="latest",
    show_default=True,
    help="Where to begin: what comes from now on, the oldest message kept, the newest of each "
    "topic, a sequence, or a time (ISO 8601, or @SECONDS since 1970).  With --durable: where to "
    "begin the first time.",
)
@click.option("--count", type=Count(), metavar="N", help="Stop after this many messages.")
@click.option("--duration", "duration_ns", type=Duration(), help="Stop after this long.")
@click.option(
    "--durable",
    type=Name(),
    metavar="NAME",
    help="Keep the position under this name, in the broker, and go on from it next time.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["raw", "text", "json"]),
    help="raw: payload and newline.  text: topic, sequence, payload.  json: one object a line.  "
    "[default: text on a terminal, else raw]",
)
@client_options
@intercept_option
@json_option
def command(
    pattern: str,
    start: Literal["latest", "earliest", "last"] | int | datetime,
    count: int | None,
    duration_ns: int | None,
    durable: str | None,
    form: str | None,
    url: str,
    timeout_ns: int,
    intercept: str | None,
    as_json: bool,
) -> None:
    """Subscribe to PATTERN and write its messages to standard output, in order.

    In a pattern, * stands for any one token and > at the end for one or more: md.*.AAPL, md.>,
    and > for everything. Quote it, so that the shell leaves it alone.  --json is --format json.
    """
    if as_json and form not in (None, "json"):
        raise click.UsageError(f"--json is --format json: leave out --format {form}.")
    if durable is not None and start not in ("latest", "earliest"):
        raise click.UsageError(
            "With --durable, --from is latest or earliest: the position kept under the name "
            "decides."
        )
    form = "json" if as_json else form or ("text" if sys.stdout.isatty() else "raw")
    import hermes
    from hermes.native.patterns import check_given_pattern

    check_given_pattern(pattern)  # before a missing broker is blamed
    url = intercepted(url, intercept)
    # The time runs from here: a broker that is slow to answer does not make the command longer.
    deadline_ns = None if duration_ns is None else time.monotonic_ns() + duration_ns
    writer = WRITERS[form](sys.stdout.fileno())
    with (
        hermes.connect(url, timeout=timeout_ns / 1e9, name="hermes sub") as client,
        client.subscribe(pattern, start=start, durable=durable) as subscription,
    ):
        run = Run(
            subscription,
            writer,
            durable=durable is not None,
            count=count,
            deadline_ns=deadline_ns,
            as_json=as_json,
        )
        reached = run.receive()
    if run.gaps:
        raise SystemExit(int(ExitCode.GAP))
    if not reached:
        raise SystemExit(int(ExitCode.TIMED_OUT if count is not None else ExitCode.OK))


class Run:
    """One run of the command: takes batches, writes them, and keeps the durable position."""

    def __init__(
        self,
        subscription: Subscription,
        writer: Writer,
        *,
        durable: bool,
        count: int | None,
        deadline_ns: int | None,
        as_json: bool,
    ) -> None:
        from hermes.cli.output import Progress

        self._subscription = subscription
        self._durable = durable
        self._writer = writer
        self._left = COUNT_MAX if count is None else count
        self._counted = count is not None
        self._deadline_ns = deadline_ns
        self._as_json = as_json
        self.gaps = 0
        """Gaps that the run has gone on behind."""
        self._positions: dict[str, int] = {}
        """Written, and not committed yet; empty without a durable name."""
        self._commit_ns = 0
        self._messages = 0
        self._started_ns = time.monotonic_ns()
        self._descriptor = sys.stdout.fileno()
        self._progress = Progress(enabled=not sys.stdout.isatty())

    def receive(self) -> bool:
        """Write messages until the count is reached (True) or the time is over (False).

        Raises:
            GapDetected: messages are missing; what was before them is written.
            BrokenPipeError: the reader of the output has gone.
        """
        from hermes.errors import GapDetected

        with self._progress:
            try:
                while self._left:
                    try:
                        batch = self._next()
                    except GapDetected as gap:
                        self._report(gap)
                        continue
                    if batch is None:
                        return False
                    self._write(batch)
                    if self._positions and time.monotonic_ns() >= self._commit_ns:
                        self._commit()
            finally:
                if self._positions:
                    self._commit()
            return True

    def _report(self, gap: GapDetected) -> None:
        """Report the missing messages, and go on if all that was asked for is a time.

        Raises:
            GapDetected: a count was asked for, or the run has no end; the next one goes on behind it.
        """
        if self._durable:
            self._positions[gap.stream] = gap.position
        if self._counted or self._deadline_ns is None:
            raise gap
        self.gaps += 1
        complain(str(gap), kind=type(gap).__name__, code=ExitCode.GAP, as_json=self._as_json)

    def _next(self) -> Batch | None:
        """The next batch; None when the time has passed.

        Raises:
            BrokenPipeError: the reader of the output has gone.
        """
        from hermes.errors import Timeout

        while True:
            now_ns = time.monotonic_ns()
            waits = [LOOK_NS]
            if self._deadline_ns is not None:
                waits.append(max(0, self._deadline_ns - now_ns))
            if self._positions:  # a durable position is owed: store it before a long wait
                waits.append(COMMIT_NS)
            try:
                return next(self._subscription.batches(min(waits) / 1e9))
            except Timeout:
                if reader_gone(self._descriptor):
                    raise BrokenPipeError from None
                if self._deadline_ns is not None and time.monotonic_ns() >= self._deadline_ns:
                    return None
                if self._positions:
                    self._commit()

    def _write(self, batch: Batch) -> None:
        from hermes.client.position import Position

        written = self._writer.write(batch, self._left)
        self._left -= written
        self._messages += written
        if self._durable:
            whole = written == len(batch)
            through = batch.through if whole else batch.messages()[written - 1].sequence
            # With the epoch it was had in: the commit may go to a broker whose log went back.
            epoch = self._subscription.positions[batch.stream].epoch
            self._positions[batch.stream] = Position(through, epoch)
        if self._progress.due():
            from hermes.cli.figures import format_count

            elapsed_s = (time.monotonic_ns() - self._started_ns) / 1e9
            rate = format_count(self._messages / elapsed_s)
            self._progress.show(f"{format_count(self._messages)} messages ({rate}/s)")

    def _commit(self) -> None:
        positions, self._positions = self._positions, {}
        self._subscription.commit(positions)
        self._commit_ns = time.monotonic_ns() + COMMIT_NS


class Writer(Protocol):
    """Puts a batch's messages on a descriptor."""

    def write(self, batch: Batch, count_max: int) -> int:
        """Write at most ``count_max`` messages; returns how many."""


class RawWriter:
    """Payload, newline."""

    def __init__(self, descriptor: int) -> None:
        from hermes.native.lines import LineJoiner

        self._descriptor = descriptor
        self._joiner = LineJoiner()

    def write(self, batch: Batch, count_max: int) -> int:
        """See :class:`Writer`."""
        frames = batch.frames
        written = 0
        while len(frames) and written < count_max:
            lines, count, consumed = self._joiner.join(frames, count_max - written)
            write_all(self._descriptor, lines)
            frames = frames[consumed:]
            written += count
        return written


class FormattedWriter:
    """One formatted line per message."""

    def __init__(self, descriptor: int, line: Callable[[str, str, int, int, bytes], bytes]) -> None:
        self._descriptor = descriptor
        self._line = line

    def write(self, batch: Batch, count_max: int) -> int:
        """See :class:`Writer`."""
        messages = batch.messages()[:count_max]
        for first in range(0, len(messages), LINES):
            lines = [
                self._line(m.topic, m.stream, m.sequence, m.timestamp_ns, m.payload)
                for m in messages[first : first + LINES]
            ]
            write_all(self._descriptor, b"".join(lines))
        return len(messages)


WRITERS: dict[str, Callable[[int], Writer]] = {
    "raw": RawWriter,
    "text": lambda descriptor: FormattedWriter(descriptor, text_line),
    "json": lambda descriptor: FormattedWriter(descriptor, json_line),
}
