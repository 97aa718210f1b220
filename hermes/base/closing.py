"""The end of things that hold memory, a descriptor or a process: imports nothing of Hermes."""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from enum import IntEnum
from types import TracebackType
from typing import Self


class AtExit(IntEnum):
    """Stages in which a program ends, in order: clients still need brokers, and both need channels."""

    CLIENTS = 0
    BROKERS = 1
    CHANNELS = 2


_at_exit: list[tuple[AtExit, Callable[[], object]]] = []


def at_exit(stage: AtExit, function: Callable[[], object]) -> None:
    """Call ``function`` when the program ends, with others of Hermes in the order of their stages.

    Threads that are no daemons have ended by then, the others still run, and new ones can be started.
    ``function`` has to bound the time it takes.
    """
    _at_exit.append((stage, function))


def _end() -> None:
    for _, function in sorted(_at_exit, key=lambda entry: entry[0]):
        function()


atexit.register(_end)


class Closable(ABC):
    """A resource that must be closed, and is closed at the end of a ``with`` block."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Let go.  Idempotent: closing again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """In the main thread, keep SIGINT and SIGTERM until the end of the block.

    For a few statements that make something and note that it has to be ended: a signal between the
    two would leave it behind.  What is started meanwhile has the system's own handlers.
    """
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):  # neither ignored nor the system's own
                handlers[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
