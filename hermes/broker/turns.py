"""Work whose cost grows with what the broker holds, done in steps of bounded length.

Between two steps every client is served: requests under way, subscriptions to be closed, topics to be
matched with filters that have come or gone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from hermes.broker.streams import ServedStream
from hermes.broker.subscriptions import Subscription

TURN_NS = 500_000
"""How long requests are worked on before others have their turn, ns: after one read, and in one pass on
requests of all connections."""
SWEEP_BUDGET = 16384
"""Topic names matched in one pass for filters that have come or gone: about 0.5 ms."""


class TurnsHost(Protocol):
    """A connection whose requests take several steps."""

    def go_on(self, ends_ns: int) -> bool:
        """Work on them until ``ends_ns``; returns whether some are left."""

    def mark(self) -> None:
        """Have the transport told that there may be output."""


class Turns:
    """The work that is left for later passes.  Belongs to the loop's thread."""

    def __init__(self) -> None:
        self.unfinished = False
        """Something is left: the loop makes another pass without waiting."""
        self.busy = False
        """:meth:`step` has something to do."""
        self.pulls: list[TurnsHost] = []
        """Connections to be pulled in the next pass: a reader has not finished its walk."""
        self._waiting: deque[TurnsHost] = deque()
        self._discarded: deque[Subscription] = deque()
        self._unswept: dict[ServedStream, None] = {}

    def pull(self, connection: TurnsHost) -> None:
        """Pull ``connection`` in the next pass."""
        self.pulls.append(connection)
        self.unfinished = True

    def wait(self, connection: TurnsHost) -> None:
        """Requests of ``connection`` are under way: have it go on, in turn with others."""
        self._waiting.append(connection)
        self.busy = self.unfinished = True

    def discard(self, subscription: Subscription) -> None:
        """``subscription`` has ended: close it, in turn with other work."""
        self._discarded.append(subscription)
        self.busy = self.unfinished = True

    def sweep(self, streams: Iterable[ServedStream]) -> None:
        """Filters have come or gone in ``streams``: match their topics, in turn with other work."""
        for stream in streams:
            self._unswept[stream] = None
            self.busy = self.unfinished = True

    def mark_pulls(self) -> None:
        """Mark the connections that were to be pulled in this pass."""
        pulls, self.pulls = self.pulls, []
        self.unfinished = self.busy
        for connection in pulls:
            connection.mark()

    def step(self) -> None:
        """Work for one turn."""
        ends = time.monotonic_ns() + TURN_NS
        if self._unswept:
            stream = next(iter(self._unswept))
            del self._unswept[stream]
            if stream.native.sweep(SWEEP_BUDGET):
                self._unswept[stream] = None  # behind the other streams
        while self._discarded and time.monotonic_ns() < ends:
            self._close_discarded()
        for _ in range(len(self._waiting)):
            connection = self._waiting.popleft()
            if connection.go_on(ends):
                self._waiting.append(connection)
            if time.monotonic_ns() >= ends:
                break
        self.busy = bool(self._waiting or self._discarded or self._unswept)
        self.look()

    def look(self) -> None:
        """Find out whether something is left."""
        self.unfinished = self.busy or bool(self.pulls)

    def close_discarded(self) -> None:
        """Close all subscriptions that have ended."""
        while self._discarded:
            self._close_discarded()

    def _close_discarded(self) -> None:
        subscription = self._discarded.popleft()
        streams = [reader.stream for reader in subscription.readers]
        subscription.close()
        self.sweep(streams)
