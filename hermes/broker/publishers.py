"""The publishers of one connection: what they bring, and what they are told of it.

An acknowledgement leaves with the connection's next output.  One that promises the disk, or a log
elsewhere, waits until that has what the publisher sent.  Knows neither input nor output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from hermes.broker.owners import stored_publisher_id
from hermes.native.stream import Ingest
from hermes.spi.transport import Peer
from hermes.wire import messages as m
from hermes.wire.server import ServerProtocol, ServerState

if TYPE_CHECKING:
    from hermes.broker.connection import Connection
    from hermes.broker.kernel import Kernel
    from hermes.broker.streams import ServedStream

_OPEN = ServerState.OPEN


class Publisher:
    """One open publisher of a connection: what it was told, what it waits for."""

    __slots__ = (
        "connection",
        "durable",
        "id",
        "level",
        "pending",
        "publisher_id",
        "stored_id",
        "through",
    )

    def __init__(
        self, connection: Connection, id: int, publisher_id: bytes, level: m.AckLevel
    ) -> None:
        self.connection = connection
        self.id = id
        self.publisher_id = publisher_id
        """Its 16 bytes, as the client chose them."""
        self.stored_id = stored_publisher_id(connection.owner, publisher_id)
        """The 16 bytes that the logs know it by."""
        self.level = level
        self.durable = level == "durable"
        self.through = 0
        """Acknowledge up to here as ``level`` says, with the next output; 0: nothing to say."""
        self.pending: list[tuple[int, list[tuple[ServedStream, int]]]] = []
        """(through, what must be synced or stored: stream and sequence), oldest first; at most
        two."""


class Sink:
    """What the protocol feeds: the native ingest, and what its calls came to since they were last
    looked at."""

    __slots__ = ("_feed", "batches", "duplicates", "messages", "moved", "touched")

    def __init__(self, ingest: Ingest) -> None:
        self._feed = ingest.feed
        self.moved = 0
        """Bit set of the streams appended to, until the connection clears it."""
        self.touched = False
        self.messages = 0
        self.batches = 0
        self.duplicates = 0

    def feed(self, data: Any, size: int, now_ns: int) -> Any:
        """Take what can be taken; see ``hm_ingest_feed``."""
        feed = self._feed(data, size, now_ns)
        batches = feed.batches
        if batches:
            self.batches += batches
        if feed.touched:
            self.touched = True
            self.moved |= feed.streams
            self.messages += feed.messages
            self.duplicates += feed.duplicates
        return feed

    def account(self, messages: int, batches: int, duplicates: int) -> None:
        """Count what was fed by another way."""
        self.messages += messages
        self.batches += batches
        self.duplicates += duplicates

    def totals(self) -> dict[str, object]:
        """For ``hermes stats``."""
        return {
            "messages_in": self.messages,
            "batches_in": self.batches,
            "duplicates": self.duplicates,
        }


class Acknowledging(ABC):
    """What a connection does for its publishers.  Belongs to the loop's thread."""

    __slots__ = (
        "_acks",
        "_ingest",
        "_kernel",
        "_marked",
        "_protocol",
        "_publishers",
        "_sink",
        "number",
        "peer",
    )

    def __init__(self, kernel: Kernel, peer: Peer, number: int) -> None:
        self.peer = peer
        self.number = number
        self._kernel = kernel
        self._marked = False
        self._ingest = Ingest(kernel.streams.router, kernel.limits.message_max)
        self._sink = Sink(self._ingest)
        self._protocol = ServerProtocol(self._sink, kernel.limits)
        self._publishers: dict[int, Publisher] = {}
        self._acks: list[Publisher] = []

    @abstractmethod
    def mark(self) -> None:
        """Have the transport told that there may be output."""

    @abstractmethod
    def refuse(self, code: str, message: str) -> None:
        """End the connection with an error."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """End the connection because of an unexpected error in serving it."""

    @abstractmethod
    def connection_lost(self, error: Exception | None) -> None:
        """Forget everything."""

    @abstractmethod
    def _after_events(self) -> None:
        """Follow the protocol's state where it leads out of OPEN."""

    # What the kernel calls.

    def synced(self) -> bool:
        """A sync ended: acknowledge what it covered; True if nothing waits for another."""
        waits = False
        for publisher in self._publishers.values():
            if publisher.pending:
                self._acknowledge_synced(publisher)
                waits = waits or bool(publisher.pending)
        if self._acks:
            self.mark()
        elif self._protocol.state is not _OPEN:
            self._after_events()
        return not waits

    def sync_failed(self, place: ServedStream) -> None:
        """What was appended to ``place`` is not on disk and may never be: end the connections that
        wait for it."""
        waiting = any(
            target is place
            for publisher in self._publishers.values()
            for _, targets in publisher.pending
            for target, _ in targets
        )
        if waiting:
            for publisher in self._publishers.values():
                publisher.pending.clear()
            problem = place.backed.problem if place.backed is not None else None
            self.refuse(
                "storage_failed",
                f"stream {place.name!r} could not be synced to disk: what was not acknowledged as "
                "durable may be lost"
                if problem is None
                else f"stream {place.name!r} could not be stored: what was not acknowledged may be "
                f"lost ({problem})",
            )

    def publisher_taken(self, publisher: Publisher, newer: Publisher) -> None:
        """``newer`` has the id of our ``publisher``, which ends here unless it is opened again."""
        if self._publishers.get(publisher.id) is not publisher:
            return  # opened again by ourselves
        self._ingest.refuse(publisher.id)
        self._kernel.refusals += 1
        where = (
            f"as publisher {newer.id}"
            if newer.connection is self
            else f"by another connection ({newer.connection.peer.address})"
        )
        self._protocol.error(
            "publisher_taken",
            f"publisher id {publisher.publisher_id.hex()} was opened {where}: let one program use it "
            "at a time, or use another id",
            publisher=publisher.id,
            fatal=False,
        )
        self.mark()

    # Inside.

    def _acknowledge(self) -> None:
        """Note how far each publisher has come; the acknowledgements leave with the pass's
        output."""
        self._sink.touched = False
        self._note(self._ingest.touched())

    def _note(self, touched: list[tuple[int, int, int]]) -> None:
        for number, through, streams in touched:
            publisher = self._publishers.get(number)
            if publisher is None or publisher.level == "none":
                continue
            if publisher.durable or self._kernel.backed:
                self._await_stored(publisher, through, streams)
                continue
            if not publisher.through:
                self._acks.append(publisher)
            publisher.through = through
        if self._acks and not self._marked:
            self.mark()

    def _await_stored(self, publisher: Publisher, through: int, streams: int) -> None:
        targets = self._kernel.want_stored(streams, self, durable=publisher.durable)
        if len(publisher.pending) >= 2:
            publisher.pending.pop()  # no sync has begun for it that does not also cover this one
        publisher.pending.append((through, targets))
        self._acknowledge_synced(publisher)  # sent again and on disk already: no sync would tell

    def _acknowledge_synced(self, publisher: Publisher) -> None:
        pending, durable = publisher.pending, publisher.durable
        while pending and all(
            place.reached(durable=durable) >= sequence for place, sequence in pending[0][1]
        ):
            if not publisher.through:
                self._acks.append(publisher)
            publisher.through = pending.pop(0)[0]

    def _waits_for_sync(self) -> bool:
        return any(publisher.pending for publisher in self._publishers.values())


def publisher_level(publisher: Publisher) -> Any:
    """The level to state in an Ack."""
    return "durable" if publisher.durable else "appended"
