"""A broker that has the process to itself: which signals end it, and what becomes of the garbage
collector.  The main thread's.
"""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    from hermes.broker.broker import Broker


class Signals:
    """SIGTERM and SIGINT: the first stops a broker, the second has it end at once, as the first does
    if it was asked to stop before; while it is not ``opened`` they interrupt whoever opens it."""

    def __init__(self, broker: Broker, *, opened: bool) -> None:
        self._broker = broker
        self.opened = opened
        """Clients may be connected: stop in order."""
        self.count = 0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle them inside; as before afterwards."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if not self.opened:
            raise KeyboardInterrupt
        if self.count > 1 or self._broker.stopping:
            self._broker.abort()
        else:
            self._broker.stop()


def quiet_collector() -> None:
    """What is there at the start stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
