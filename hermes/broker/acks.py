"""The acknowledgements of one connection: what its publishers bring, and what they are told of it.

An acknowledgement leaves with the connection's next output.  One that promises the disk, or a log
elsewhere, waits until that has what the publisher sent.  Knows neither input nor output.
"""

from __future__ import annotations

from typing import Any, Protocol

from hermes.broker.context import Context
from hermes.broker.publishers import Publisher
from hermes.broker.streams import ServedStream
from hermes.broker.syncs import SyncsHost
from hermes.native.stream import Ingest
from hermes.wire.server import ServerProtocol, ServerState

_OPEN = ServerState.OPEN


class AcksHost(SyncsHost, Protocol):
    """The connection whose publishers are acknowledged."""

    @property
    def marked(self) -> bool:
        """Whether the transport has been told that there may be output."""

    def mark(self) -> None:
        """Have the transport told that there may be output."""

    def refuse(self, code: str, message: str) -> None:
        """End the connection with an error."""

    def follow_state(self) -> None:
        """Follow the protocol's state where it leads out of OPEN."""


class Sink:
    """The native ingest of one connection, with counts of what it took."""

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


class Acks:
    """The acknowledgements of one connection's publishers.  Belongs to the loop's thread."""

    __slots__ = ("_connection", "_context", "_ingest", "_protocol", "_sink", "due", "publishers")

    def __init__(
        self,
        connection: AcksHost,
        context: Context,
        protocol: ServerProtocol,
        ingest: Ingest,
        sink: Sink,
    ) -> None:
        self._connection = connection
        self._context = context
        self._protocol = protocol
        self._ingest = ingest
        self._sink = sink
        self.publishers: dict[int, Publisher] = {}
        """The open publishers, by their number on the connection."""
        self.due: list[Publisher] = []
        """Publishers with an acknowledgement that leaves with the next output."""

    # Calls of the connection.

    def note_fed(self) -> None:
        """Note how far each publisher has come by what the ingest was fed."""
        self._sink.touched = False
        self.note(self._ingest.touched())

    def note(self, touched: list[tuple[int, int, int]]) -> None:
        """Note how far publishers have come: (number, sequence, bit set of streams) each; their
        acknowledgements leave with the pass's output."""
        backed = self._context.streams.backed
        for number, through, streams in touched:
            publisher = self.publishers.get(number)
            if publisher is None or publisher.level == "none":
                continue
            if publisher.durable or backed:
                self._await_stored(publisher, through, streams)
                continue
            if not publisher.through:
                self.due.append(publisher)
            publisher.through = through
        if self.due and not self._connection.marked:
            self._connection.mark()

    def put(self) -> None:
        """Have the protocol write the acknowledgements that are due."""
        for publisher in self.due:
            self._protocol.ack(publisher.id, publisher.through, publisher_level(publisher))
            publisher.through = 0
        self.due.clear()

    def waits(self) -> bool:
        """Whether a publisher waits for a sync or a store."""
        return any(publisher.pending for publisher in self.publishers.values())

    def open(self, publisher: Publisher) -> None:
        """``publisher`` was opened; another that has its id ends."""
        self.publishers[publisher.id] = publisher
        self._context.publishers.claim(publisher)

    def close(self, number: int) -> None:
        """The publisher ``number``, if it is open, is closed: nothing is acknowledged after that."""
        publisher = self.publishers.pop(number, None)
        if publisher is not None:
            self._context.publishers.release(publisher)
            self._ingest.close_publisher(number)
            if publisher in self.due:
                self.due.remove(publisher)

    def taken(self, publisher: Publisher, newer: Publisher) -> None:
        """End ``publisher``, because ``newer`` was opened with its id; nothing happens if this
        connection has opened it again itself."""
        if self.publishers.get(publisher.id) is not publisher:
            return  # opened again by ourselves
        self._ingest.refuse(publisher.id)
        self._context.counters.refusals += 1
        where = (
            f"as publisher {newer.id}"
            if newer.connection is publisher.connection
            else f"by another connection ({newer.connection.address})"
        )
        self._protocol.error(
            "publisher_taken",
            f"publisher id {publisher.publisher_id.hex()} was opened {where}: let one program use it "
            "at a time, or use another id",
            publisher=publisher.id,
            fatal=False,
        )
        self._connection.mark()

    def end(self) -> None:
        """Give up every publisher, because the connection has ended."""
        for publisher in self.publishers.values():
            self._context.publishers.release(publisher)
        self.publishers.clear()
        self.due.clear()
        del self._connection

    # Calls of a sync.

    def synced(self) -> bool:
        """A sync ended: acknowledge what it covered; True if nothing waits for another."""
        waits = False
        for publisher in self.publishers.values():
            if publisher.pending:
                self._acknowledge_synced(publisher)
                waits = waits or bool(publisher.pending)
        if self.due:
            self._connection.mark()
        elif self._protocol.state is not _OPEN:
            self._connection.follow_state()
        return not waits

    def sync_failed(self, stream: ServedStream) -> None:
        """End the connection if it waits for the disk of ``stream``: messages appended there may never
        reach it."""
        waiting = any(
            target is stream
            for publisher in self.publishers.values()
            for _, targets in publisher.pending
            for target, _ in targets
        )
        if not waiting:
            return
        for publisher in self.publishers.values():
            publisher.pending.clear()
        problem = stream.backed.problem if stream.backed is not None else None
        self._connection.refuse(
            "storage_failed",
            f"stream {stream.name!r} could not be synced to disk: what was not acknowledged as "
            "durable may be lost"
            if problem is None
            else f"stream {stream.name!r} could not be stored: what was not acknowledged may be "
            f"lost ({problem})",
        )

    # Inside.

    def _await_stored(self, publisher: Publisher, through: int, streams: int) -> None:
        targets = self._context.syncs.want(streams, self._connection, durable=publisher.durable)
        if len(publisher.pending) >= 2:
            publisher.pending.pop()  # no sync has begun for it that does not also cover this one
        publisher.pending.append((through, targets))
        self._acknowledge_synced(publisher)  # sent again and on disk already: no sync would tell

    def _acknowledge_synced(self, publisher: Publisher) -> None:
        pending, durable = publisher.pending, publisher.durable
        while pending and all(
            stream.reached(durable=durable) >= sequence for stream, sequence in pending[0][1]
        ):
            if not publisher.through:
                self.due.append(publisher)
            publisher.through = pending.pop(0)[0]


def publisher_level(publisher: Publisher) -> Any:
    """The level to state in an Ack."""
    return "durable" if publisher.durable else "appended"
