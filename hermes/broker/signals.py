"""A broker that has the process to itself: which signals end it, and what becomes of the garbage
collector.  The main thread's.
"""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import FrameType


class Stoppable(Protocol):
    """A broker, as far as signals end it."""

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""

    def stop(self) -> None:
        """Ask it to stop in order."""

    def abort(self) -> None:
        """Ask it to stop at once."""


class Signals:
    """The signals of a process that is a broker.

    SIGTERM, SIGINT and SIGQUIT: the first stops the broker in order, the second has it end at once,
    as the first does if it was asked to stop before.  SIGHUP stops it in order as well, however
    often it comes (a terminal that is closed sends it twice), unless it was ignored from the start,
    as by ``nohup``.  SIGUSR1 and SIGUSR2 do nothing.  While the broker is not ``opened``, those that
    stop it interrupt its opening.
    """

    def __init__(self, broker: Stoppable, *, opened: bool) -> None:
        self._broker = broker
        self.opened = opened
        """Clients may be connected: stop in order."""
        self.count = 0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle them inside; as before afterwards."""
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            signal.SIGTERM: self._on_signal,
            signal.SIGINT: self._on_signal,
            signal.SIGQUIT: self._on_signal,
            signal.SIGUSR1: self._ignore,
            signal.SIGUSR2: self._ignore,
        }
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._on_signal
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ignore(self, number: int, frame: FrameType | None) -> None:
        """Not by SIG_IGN, which programs that are started would inherit."""

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.opened:
            self._broker.stop()
            return
        self.count += 1
        if not self.opened:
            raise KeyboardInterrupt
        if self.count > 1 or self._broker.stopping:
            self._broker.abort()
        else:
            self._broker.stop()


def quiet_collector() -> None:
    """Freeze the objects made so far, so that later collections skip them."""
    gc.collect()
    gc.freeze()
