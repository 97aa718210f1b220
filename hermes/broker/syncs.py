"""Syncs of the logs, for durable acknowledgements; and the storing of messages in logs that are not native
memory, which every acknowledgement and delivery waits for.

One sync serves everything that a pass has brought.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from hermes.broker.backed import CHOKE_BYTES, HAND_OVER_BYTES, Backed
from hermes.broker.guard import Guard, GuardHost
from hermes.broker.loop import Loop
from hermes.broker.refusals import Refusals
from hermes.broker.streams import ServedStream, Streams
from hermes.broker.turns import Turns
from hermes.errors import HermesError, StorageFull
from hermes.native.log import LogEvent
from hermes.spi.storage import Storage


class SyncsHost(GuardHost, Protocol):
    """A connection whose publishers wait for a disk, or for a log elsewhere."""

    def synced(self) -> bool:
        """More has been synced or stored; returns whether nothing is waited for any more."""

    def sync_failed(self, stream: ServedStream) -> None:
        """Messages appended to ``stream`` may never reach the disk."""


class Throttled(Protocol):
    """A connection that may be read from no more for a while."""

    paused: bool
    """The transport does not read from it."""

    @property
    def number(self) -> int:
        """Its number in the broker."""

    @property
    def holding(self) -> bool:
        """Whether it has reasons of its own to be paused."""

    def mark(self) -> None:
        """Have the transport told that something has changed."""


class Syncs:
    """The streams' syncs.  Belongs to the loop's thread."""

    def __init__(
        self,
        storage: Storage,
        streams: Streams,
        *,
        loop: Loop,
        turns: Turns,
        guard: Guard,
        refusals: Refusals,
    ) -> None:
        self._streams = streams
        self._loop = loop
        self._turns = turns
        self._guard = guard
        self._refusals = refusals
        self._durable = storage.durable
        self._always = storage.sync_interval_ns == 0
        self._wanted = False
        self._waiters: dict[int, SyncsHost] = {}
        self.running = False
        """The completion of a sync is awaited."""
        self.choked: dict[int, Throttled] = {}
        """Connections that are not read from until a log has caught up."""

    def watch(self) -> None:
        """The streams are open: have the loop watch their logs' descriptors."""
        for stream in self._streams:
            fd = stream.log.fileno()
            if fd >= 0:
                self._loop.watch(fd, partial(self._log_event, stream))

    def forget(self, number: int) -> None:
        """Drop the connection with that number, which has ended."""
        self._waiters.pop(number, None)
        self.choked.pop(number, None)

    # Syncing.

    def want(
        self, streams: int, waiter: SyncsHost, *, durable: bool
    ) -> list[tuple[ServedStream, int]]:
        """Schedule a store, or a sync, of the streams of a bit set after this pass.  Returns the
        streams and sequences to wait for."""
        targets = []
        for stream in self._streams.of_bits(streams):
            last = stream.appended_sequence
            if durable and stream.synced < last:
                stream.sync_wanted = self._wanted = True
            targets.append((stream, last))
        self._waiters[waiter.number] = waiter
        return targets

    def after_pass(self) -> None:
        """Begin the syncs that this pass's messages wait for: one for all of them."""
        if self._always:
            self.sync_all()
        if self._wanted:
            self._wanted = False
            for stream in self._streams:
                if stream.sync_wanted and not stream.syncing:
                    self._begin(stream)

    def sync_all(self) -> None:
        """Begin a sync of every stream that has something to sync."""
        for stream in self._streams:
            if not stream.syncing and self._durable and stream.synced < stream.last_sequence:
                self._begin(stream)

    def _begin(self, stream: ServedStream) -> None:
        stream.sync_wanted = False
        try:
            stream.log.sync_begin()
        except HermesError:
            self._failed(stream)
            return
        stream.syncing = self.running = True
        if stream.log.fileno() < 0:
            self._log_event(stream)

    def _log_event(self, stream: ServedStream) -> None:
        events = stream.log.events()
        status = stream.log.status()
        if stream.backed is None or LogEvent.SYNC in events:
            stream.syncing = False
        stream.synced = status.synced_sequence
        if LogEvent.SPACE in events:
            self._refusals.room()
        if stream.backed is not None:
            stream.backed.retry()
            if stream.backed.problem is None:
                self._refusals.room()
            self.stored(stream, stream.backed)
        elif status.failed and stream.synced < stream.last_sequence:
            self._failed(stream)
        self._acknowledge_reached()
        if stream.syncing:
            return
        if stream.sync_wanted:
            self._begin(stream)
        elif self._always and stream.log.fileno() >= 0:
            self.sync_all()
        self.running = any(other.syncing for other in self._streams)
        self._turns.look()

    def _acknowledge_reached(self) -> None:
        def look(waiter: SyncsHost) -> None:
            if waiter.synced():
                self._waiters.pop(waiter.number, None)

        self._guard.each(self._waiters, look)

    def _failed(self, stream: ServedStream) -> None:
        """No durable acknowledgement can come any more from this stream: say so instead of staying
        silent."""
        self._guard.each(self._waiters, lambda waiter: waiter.sync_failed(stream))

    # Logs elsewhere.

    def hand_over(self, stream: ServedStream, backed: Backed) -> None:
        """Give the log what has been appended."""
        backed.hand_over()
        self.stored(stream, backed)

    def stored(self, stream: ServedStream, backed: Backed) -> None:
        """Follow what a log elsewhere has by now: deliver, acknowledge, read on."""
        if backed.collect():
            stream.native.wake()
            self._acknowledge_reached()
        if backed.problem is not None and not isinstance(backed.problem, StorageFull):
            self._failed(stream)
        if self.choked and all(
            other.problem or other.behind_bytes < CHOKE_BYTES for other in self._streams.backed
        ):
            choked, self.choked = self.choked, {}
            for connection in choked.values():
                connection.paused = connection.holding
                connection.mark()

    def throttle(self, connection: Throttled) -> None:
        """Bound the bytes that logs elsewhere have not stored: ``connection``, which has brought some,
        is not read from while there are too many."""
        for stream in self._streams:
            backed = stream.backed
            if backed is None:
                continue
            if backed.unhanded_bytes >= HAND_OVER_BYTES:
                self.hand_over(stream, backed)
            if backed.problem is None and backed.behind_bytes >= CHOKE_BYTES:
                connection.paused = True
                self.choked[connection.number] = connection

    def recall(self, publisher: bytes) -> None:
        """Ask logs elsewhere what they have of a publisher that is about to open."""
        for backed in self._streams.backed:
            backed.recall(publisher)
