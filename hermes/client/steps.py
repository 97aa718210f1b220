"""Sequences that wait, written once for every kind of client.

A sequence (opening a publisher, a flush, a query) is a generator: it changes state, has frames sent,
and yields an :class:`Until` where it has to wait.  Its driver does the waiting: a thread that blocks
(:func:`follow`), or an event loop (:mod:`hermes.aio.connection`).  A wait that fails raises at the
``yield``.  A sequence may be abandoned at any ``yield``, without the client's lock: what it leaves
open is ended by the call that began it.  Knows no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from hermes.errors import Timeout

T = TypeVar("T")


class Until:
    """A wait until ``ready()``, which may be asked any number of times, before and after."""

    __slots__ = ("late", "ready", "what")

    def __init__(
        self, ready: Callable[[], bool], late: Callable[[], Timeout], what: str = ""
    ) -> None:
        self.ready = ready
        self.late = late
        """Makes the error to raise if the deadline passes first."""
        self.what = what
        """Text before the message if another thread held the client until the deadline."""


Steps = Generator[Until, None, T]


def follow(steps: Steps[T], wait: Callable[[Until], object]) -> T:
    """Run ``steps`` to the end in this thread, which ``wait`` blocks; what they return."""
    try:
        until = next(steps)
        while True:
            try:
                wait(until)
            except BaseException as error:
                until = steps.throw(error)
            else:
                until = next(steps)
    except StopIteration as end:
        found: T = end.value
        return found
    finally:
        steps.close()
