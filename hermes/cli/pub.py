"""``hermes pub``: a message, the same one many times, or each line of stdin.

Lines are split and sent a buffer at a time, in C; Python sees chunks, never a line.  Memory is
bounded by one chunk, one line, and the publisher's outbox.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import click

from hermes.cli.command import Command
from hermes.cli.exits import ExitCode
from hermes.cli.options import (
    Bytes,
    Count,
    Rate,
    client_options,
    intercept_option,
    intercepted,
    json_option,
)

if TYPE_CHECKING:
    from hermes.client import Publisher

Batch = tuple["memoryview | bytes", "memoryview | array[int]"]
"""Payloads joined, and the length of each."""

CHUNK = 4 << 20
"""Bytes read at once: large enough that a system call costs nothing per line, small enough for
the cache."""
PIPE_BYTES = 1 << 20
"""Bytes that stdin's pipe is asked to hold: Linux's own 64 KiB would mean sixteen times the calls."""
BATCH_BYTES = 1 << 20
"""Bytes of repeated payload per call."""
BATCH_COUNT = 65_536
"""Messages per call."""
STALL_NS = 50_000_000
"""With a rate: how late messages may be sent faster to keep it on average."""


@click.command(
    "pub",
    cls=Command,
    short_help="Publish messages.",
    examples=[
        ("One message", "hermes pub md.xnas.AAPL 'hello'"),
        (
            "Each line of a file; \\r and binary bytes are kept, only the newline is not",
            "hermes pub log.web --stdin < access.log",
        ),
        ("A line as soon as it is written", "tail -f app.log | hermes pub log.app --stdin"),
        (
            "A hundred thousand messages of 256 bytes, as fast as they go",
            "hermes pub load.test --count 100000 --size 256",
        ),
        (
            "Ten a second, each on disk before the command ends",
            "hermes pub tick 'x' --count 100 --rate 10 --ack durable",
        ),
    ],
    exits={
        ExitCode.OK: "every message was acknowledged as --ack asks (none: handed to the network)",
        ExitCode.TIMED_OUT: "acknowledgements did not come in time; stderr says how many are "
        "missing",
        ExitCode.UNREACHABLE: "no broker answers there, or the connection was lost",
        ExitCode.REFUSED: "the broker refused: too many topics, no durable storage",
        ExitCode.STORAGE: "the broker's disk is full or failing; stderr says which",
        ExitCode.INTERRUPTED: "interrupted (Ctrl-C); stderr says how many were acknowledged",
    },
)
@click.argument("topic")
@click.argument("message", required=False)
@click.option(
    "--stdin",
    "from_stdin",
    is_flag=True,
    help="Publish each line of standard input, without its newline.",
)
@click.option(
    "--count",
    type=Count(),
    metavar="N",
    help="Publish this many messages; with --stdin, stop after as many lines.",
)
@click.option("--size", type=Bytes(), help="Without MESSAGE: the size of a generated payload.")
@click.option(
    "--rate",
    type=Rate(),
    metavar="R",
    help="At most so many messages a second.  [default: no limit]",
)
@click.option(
    "--ack",
    type=click.Choice(["none", "appended", "durable"]),
    default="appended",
    show_default=True,
    help="Acknowledgement to wait for before the command ends: none, message in the broker's "
    "log, message on its disk.",
)
@client_options
@intercept_option
@json_option
def command(
    topic: str,
    message: str | None,
    from_stdin: bool,
    count: int | None,
    size: int | None,
    rate: float | None,
    ack: Literal["none", "appended", "durable"],
    url: str,
    timeout_ns: int,
    intercept: str | None,
    as_json: bool,
) -> None:
    """Publish MESSAGE on TOPIC, or each line of standard input, and wait for the acknowledgements.

    A topic is a dotted name, such as md.xnas.AAPL.  It needs no set-up: the first message makes it.
    """
    check_source(message, from_stdin=from_stdin, size=size)
    import hermes
    from hermes.native.patterns import check_given_topic

    check_given_topic(topic)  # before a missing broker is blamed
    url = intercepted(url, intercept)
    with hermes.connect(url, timeout=timeout_ns / 1e9, name="hermes pub") as client:
        limit = client.limits["message_max"]
        if from_stdin:
            source = LineSource(sys.stdin.fileno(), line_max=limit, count=count)
            batches = iter(source)
        else:
            payload = os.fsencode(message) if message is not None else generated(size or 0)
            batches = repeated(payload, count or 1)
        publisher = client.publisher(topic, ack=ack)
        Run(publisher, ack=ack, rate=rate, as_json=as_json).publish(batches)


def check_source(message: str | None, *, from_stdin: bool, size: int | None) -> None:
    """Exactly one of MESSAGE, ``--stdin`` and ``--size`` says what to publish."""
    given = [
        name
        for name, there in (
            ("MESSAGE", message is not None),
            ("--stdin", from_stdin),
            ("--size", size is not None),
        )
        if there
    ]
    if not given:
        raise click.UsageError("Nothing to publish: give a MESSAGE, --stdin, or --size BYTES.")
    if len(given) > 1:
        raise click.UsageError(
            f"Give one of {' and '.join(given)}, not both: each says what to publish."
        )


def generated(size: int) -> bytes:
    """``size`` bytes of printable text, so that ``hermes sub`` shows something."""
    alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789"
    return (alphabet * (size // len(alphabet) + 1))[:size]


def repeated(payload: bytes, count: int) -> Iterator[Batch]:
    """``payload``, ``count`` times."""
    batch = max(1, min(count, BATCH_COUNT, BATCH_BYTES // (len(payload) + 1)))
    joined = payload * batch
    lengths = array("I", [len(payload)]) * batch
    for _ in range(count // batch):
        yield joined, lengths
    rest = count % batch
    if rest:
        yield payload * rest, lengths[:rest]


class LineSource:
    """The lines of a descriptor, as soon as they can be read; the last may lack its newline."""

    def __init__(self, descriptor: int, *, line_max: int, count: int | None) -> None:
        """``line_max``: bytes of a line; ``count``: stop after so many, None: at the end."""
        from hermes.base.platform import widen_pipe
        from hermes.native.lines import COUNT_MAX, LineSplitter

        self._descriptor = descriptor
        self._line_max = line_max
        self._left = COUNT_MAX if count is None else count
        self._splitter = LineSplitter()
        self._buffer = bytearray(CHUNK)
        self._start = self._end = 0
        """``buffer[start:end]`` is what was read and is not in a batch yet."""
        self._done = 0
        widen_pipe(descriptor, PIPE_BYTES)

    def __iter__(self) -> Iterator[Batch]:
        """Batches of lines, valid until the next is asked for.

        Raises:
            MessageTooLarge: a line is too long; those before it have been yielded.
        """
        more = True
        while more and self._left:
            more = self._read()
            yield from self._complete_lines()
        size = self._end - self._start
        if self._left and size:
            self._check(size)
            yield memoryview(self._buffer)[self._start : self._end], array("I", [size])

    def _read(self) -> bool:
        """Read once behind what is left; False at the end of input."""
        held = self._end - self._start
        buffer = self._buffer
        if held == len(buffer):  # one unfinished line fills it
            self._check(held)
            self._buffer = bytearray(2 * held)  # not extended: views of the old one are about
        memoryview(self._buffer)[:held] = memoryview(buffer)[self._start : self._end]
        got = os.readv(self._descriptor, [memoryview(self._buffer)[held:]])
        self._start, self._end = 0, held + got
        return got > 0

    def _complete_lines(self) -> Iterator[Batch]:
        view = memoryview(self._buffer)
        while self._left:
            joined, lengths, consumed = self._splitter.split(view[self._start : self._end])
            if not consumed:
                return
            whole = len(lengths)
            if self._left < whole:
                lengths = lengths[: self._left]
                joined = joined[: sum(lengths)]
            if len(joined) > self._line_max:
                yield from self._up_to_long_line(joined, lengths)
            self._start += consumed
            self._done += len(lengths)
            self._left -= len(lengths)
            yield joined, lengths

    def _up_to_long_line(self, joined: memoryview, lengths: memoryview) -> Iterator[Batch]:
        """If a line is too long, yield those before it, then raise."""
        long = next((i for i, size in enumerate(lengths) if size > self._line_max), None)
        if long is not None:
            yield joined[: sum(lengths[:long])], lengths[:long]
            self._done += long
            self._check(lengths[long])

    def _check(self, size: int) -> None:
        if size > self._line_max:
            from hermes.errors import MessageTooLarge

            raise MessageTooLarge(
                f"line {self._done + 1:,} of standard input is longer than {self._line_max:,} "
                f"bytes, the broker's limit for a message; the {self._done:,} lines before it were "
                "sent"
            )


class Run:
    """One run of the command: sends batches, paces them, waits for acknowledgements, and
    reports.
    """

    def __init__(
        self, publisher: Publisher, *, ack: str, rate: float | None, as_json: bool
    ) -> None:
        from hermes.cli.output import Progress

        self._publisher = publisher
        self._ack = ack
        self._rate = rate
        self._as_json = as_json
        self._progress = Progress()
        self._started_ns = time.monotonic_ns()
        self._due_ns: float = self._started_ns
        """With a rate: when the next message may go."""
        self._messages = 0
        self._bytes = 0

    def publish(self, batches: Iterator[Batch]) -> None:
        """Send everything, then wait until it is acknowledged."""
        from hermes.cli.figures import plural
        from hermes.errors import HermesError

        try:
            for joined, lengths in batches:
                if self._rate is None:
                    self._send(joined, lengths)
                else:
                    self._send_paced(joined, lengths, self._rate)
            self._publisher.flush()
            self._publisher.close()
        except KeyboardInterrupt:
            self._progress.close()
            sys.stderr.write(
                f"hermes: interrupted after {self._messages:,} messages were sent; "
                f"{self._publisher.acked:,} of them are acknowledged\n"
            )
            raise
        except HermesError as error:
            self._progress.close()
            if self._publisher.sent and not self._as_json:
                acked = self._publisher.acked
                sys.stderr.write(
                    f"hermes: it ends here: the first {plural(acked, 'message')} are acknowledged, "
                    "what comes behind them may be lost\n"
                    if acked
                    else "hermes: it ends here: no message was acknowledged\n"
                )
            reason = error.__cause__
            if isinstance(reason, HermesError) and type(reason) is type(error):
                raise reason from None  # what the other adds is for programs
            raise
        finally:
            self._progress.close()
        self._report()

    def _send(self, joined: memoryview | bytes, lengths: memoryview | array[int]) -> None:
        self._publisher.send_many(joined, lengths)
        self._messages += len(lengths)
        self._bytes += len(joined)
        if self._progress.due():
            self._progress.show(self._summary("sent"))

    def _send_paced(
        self, joined: memoryview | bytes, lengths: memoryview | array[int], rate: float
    ) -> None:
        """Send what is due, at most ``rate`` a second; a short stall is made up for, a pause of
        the program that writes to stdin is not.
        """
        view = memoryview(joined)
        interval_ns = 1e9 / rate
        first = offset = 0
        while first < len(lengths):
            ahead_ns = self._due_ns - time.monotonic_ns()
            if ahead_ns > 0:
                time.sleep(ahead_ns / 1e9)
            now_ns = time.monotonic_ns()
            self._due_ns = max(self._due_ns, now_ns - STALL_NS)
            due = 1 + int((now_ns - self._due_ns) / interval_ns)
            batch = lengths[first : first + due]
            size = sum(batch)
            self._send(view[offset : offset + size], batch)
            self._due_ns += len(batch) * interval_ns
            first += len(batch)
            offset += size

    def _elapsed_s(self) -> float:
        return (time.monotonic_ns() - self._started_ns) / 1e9

    def _summary(self, word: str) -> str:
        from hermes.cli.figures import format_bytes, format_count

        elapsed_s = self._elapsed_s() or 1e-9
        sent, size = format_count(self._messages), format_bytes(self._bytes)
        rate = format_count(self._messages / elapsed_s)
        speed = format_bytes(self._bytes / elapsed_s)
        return f"{sent} messages, {size} {word} in {elapsed_s:.1f} s ({rate} messages/s, {speed}/s)"

    def _report(self) -> None:
        if self._as_json:
            from hermes.cli.output import print_json

            elapsed_s = self._elapsed_s()
            print_json(
                {
                    "messages": self._messages,
                    "bytes": self._bytes,
                    "ack": self._ack,
                    "seconds": round(elapsed_s, 6),
                }
            )
        elif sys.stderr.isatty() and self._messages > 1:
            word = "handed to the network" if self._ack == "none" else self._ack
            sys.stderr.write(self._summary(word) + "\n")
