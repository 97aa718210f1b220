"""The open publishers: how far each was acknowledged, the syncs it waits for, and the ids in use."""

from __future__ import annotations

from typing import Protocol

from hermes.broker.owners import NOBODY, stored_publisher_id
from hermes.broker.streams import ServedStream
from hermes.wire import messages as m


class PublisherHost(Protocol):
    """The connection that a publisher belongs to."""

    @property
    def address(self) -> str:
        """Address of its peer."""

    @property
    def owner(self) -> str | None:
        """The identity to which its publisher ids belong; None where the broker does not
        authenticate."""

    def publisher_taken(self, publisher: Publisher, newer: Publisher) -> None:
        """``newer`` has the id of ``publisher``, which ends here."""


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
        self, connection: PublisherHost, id: int, publisher_id: bytes, level: m.AckLevel
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


class PublisherClaims:
    """The publisher ids in use, and the publisher that has each."""

    def __init__(self) -> None:
        self._publishers: dict[bytes, Publisher] = {}

    def claim(self, publisher: Publisher) -> None:
        """``publisher`` was opened: another that has its id must not append any more.

        The newer wins: it may be the same program, back before its old connection was found dead.
        """
        if publisher.stored_id == NOBODY:
            return
        older = self._publishers.get(publisher.stored_id)
        self._publishers[publisher.stored_id] = publisher
        if older is not None:
            older.connection.publisher_taken(older, publisher)

    def release(self, publisher: Publisher) -> None:
        """Give its id back, if nobody else has taken it."""
        if self._publishers.get(publisher.stored_id) is publisher:
            del self._publishers[publisher.stored_id]
