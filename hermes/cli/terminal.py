"""The process's three streams as a command finds them, whatever they are.

A stream may be closed, of any encoding, a full pipe, or a terminal that obeys what strangers have
named their topics.  :func:`prepare` is called once, before anything is written; what is written to
``sys.stdout`` and ``sys.stderr`` afterwards passes :class:`Stream`.
"""

from __future__ import annotations

import io
import os
import re
import select
import sys
from typing import TextIO

from hermes.base.shown import printable_lines, redacted_prose
from hermes.cli.output import write_all

STDIN, STDOUT, STDERR = 0, 1, 2
OFFER_BYTES = select.PIPE_BUF
"""Bytes that a writable pipe takes in one piece."""
OFFER_NS = 1_000_000_000
"""How long a broker waits for a reader of its output, ns: it has other things to do."""

_OWN = re.compile(r"(\x1b\[[0-9;]*[mK]|\r(?=\x1b\[K))")
"""Escape sequences of our own libraries: colours, and the removal of a line."""


class Descriptor(io.RawIOBase):
    """The writing end of a descriptor, which it does not own; waits where it is non-blocking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: object) -> int:
        """All of ``data``; what cannot be written to stderr is lost: nobody could be told."""
        view = memoryview(data)  # type: ignore[arg-type]
        try:
            write_all(self._descriptor, view)
        except OSError:
            if self._descriptor != STDERR:
                raise
        return len(view)


class Stream(io.TextIOWrapper):
    """Text to a descriptor, in which nothing is left that a terminal would obey; what its encoding
    does not have is escaped."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__(
            io.BufferedWriter(Descriptor(descriptor)),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=descriptor == STDERR or os.isatty(descriptor),
        )
        self._terminal = os.isatty(descriptor)
        self._complaints = descriptor == STDERR

    def write(self, text: str) -> int:
        if self._complaints:  # also those of click, and tracebacks
            text = redacted_prose(text)
        if text.isascii() and text.isprintable():
            return super().write(text)
        if not self._terminal:
            super().write(printable_lines(text))
        else:
            parts = _OWN.split(text)  # every second one is our own
            parts[::2] = map(printable_lines, parts[::2])
            super().write("".join(parts))
        return len(text)


def prepare() -> None:
    """Make the three streams usable.

    A descriptor that is closed would be given to the next socket or file that is opened, which
    would then get our output: it is pointed at nothing instead.  Reading a standard input that was
    closed is an error, and so is writing to a standard output; complaints just vanish.
    """
    for descriptor in (STDIN, STDOUT, STDERR):
        _keep_taken(descriptor)
    if sys.stdin is None:
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _renewed(sys.stdout, STDOUT)
    sys.stderr = _renewed(sys.stderr, STDERR)


def offer(text: str) -> bool:
    """Write to stdout what nobody may want, without waiting for a reader for longer than a second;
    False if not all of it was taken."""
    try:
        sys.stdout.flush()
        data = printable_lines(text).encode(sys.stdout.encoding or "utf-8", "backslashreplace")
        for first in range(0, len(data), OFFER_BYTES):
            if not writable(sys.stdout.fileno(), OFFER_NS):
                return False
            write_all(sys.stdout.fileno(), data[first : first + OFFER_BYTES])
    except io.UnsupportedOperation:  # a test's buffer
        sys.stdout.write(text)
    except OSError:
        return False
    return True


def writable(descriptor: int, timeout_ns: int) -> bool:
    """Whether ``descriptor`` takes ``OFFER_BYTES`` without making its writer wait."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(timeout_ns // 1_000_000))


def _keep_taken(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        wrong = {STDIN: os.O_WRONLY, STDOUT: os.O_RDONLY, STDERR: os.O_WRONLY}[descriptor]
        null = os.open(os.devnull, wrong)
        if null != descriptor:
            os.dup2(null, descriptor, inheritable=True)
            os.close(null)
        else:
            os.set_inheritable(descriptor, True)


def _renewed(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return Stream(descriptor, "utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    encoding = stream.encoding
    stream.flush()
    stream.detach()  # or its end would close the descriptor
    return Stream(descriptor, encoding)
