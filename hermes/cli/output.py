"""Output of commands: JSON for scripts, tables for people, progress for the patient."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from hermes.base.closing import Closable
from hermes.base.shown import printable

PROGRESS_NS = 200_000_000
"""Between two progress lines: often enough to look alive, too seldom to cost anything."""
WIDTH_PIPED = 120
"""Columns of a table that goes to a file or a pipe."""


def print_json(value: Any) -> None:
    """One JSON document on one line of stdout."""
    import json

    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; columns whose head begins with ``>`` are aligned to the right.

    With the extra ``cli`` it folds to the width of the terminal; without, its lines are as long as they
    have to be.
    """
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        _print_plain(columns, [list(map(printable, row)) for row in rows])
        return
    width = None if sys.stdout.isatty() else WIDTH_PIPED
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(printable, row))
    Console(width=width, highlight=False, markup=False).print(table)


def _print_plain(columns: Sequence[str], rows: list[list[str]]) -> None:
    heads = [column.removeprefix(">") for column in columns]
    widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    for row in (heads, ["-" * width for width in widths], *rows):
        cells = (
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        )
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def say(text: str = "") -> None:
    """One line on stdout, whatever names stand in it."""
    sys.stdout.write(printable(text) + "\n")


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Write every byte, however many calls it takes.

    Raises:
        BrokenPipeError: the reader has gone.
    """
    written = 0
    view = memoryview(data)
    while written < len(view):
        try:
            written += os.write(descriptor, view[written:])
        except BlockingIOError:  # somebody made our stdout non-blocking (a shell's job control may)
            import select

            select.select([], [descriptor], [])


def reader_gone(descriptor: int) -> bool:
    """True if ``descriptor`` is a pipe that nobody reads any more."""
    import select

    poll = select.poll()
    poll.register(descriptor, 0)  # errors are reported unasked
    return any(events & select.POLLERR for _, events in poll.poll(0))


class Progress(Closable):
    """One line on stderr, rewritten in place; silent unless stderr is a terminal.

    It has no thread: a second Python thread would cost the first one more than all it shows (the
    GIL).
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled and sys.stderr.isatty()
        self._next_ns = time.monotonic_ns() + PROGRESS_NS
        self._shown = False

    def due(self) -> bool:
        """True if the line should be drawn again."""
        return self._enabled and time.monotonic_ns() >= self._next_ns

    def show(self, text: str) -> None:
        """Draw the line."""
        if not self._enabled:
            return
        self._next_ns = time.monotonic_ns() + PROGRESS_NS
        self._shown = True
        sys.stderr.write(f"\r\x1b[K{printable(text)}")
        sys.stderr.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
