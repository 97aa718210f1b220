"""Subscriptions: a filter and a position in each stream it can meet.

There are no queues: a reader is a native cursor, from which its connection pulls when it has room.
Knows no socket.
"""

from __future__ import annotations

from typing import Protocol

from hermes.broker.owners import durable_key
from hermes.broker.streams import ServedStream, Streams
from hermes.native.stream import Start
from hermes.wire import messages as m

COLLECT_TOPICS = 8192
"""Topics looked at in one step for the newest message of each: about 0.3 ms."""
SWEEP_AT_ONCE = 4096
"""Topic names that a Subscribe has matched at once, before it is left to the kernel's steps: some
0.1 ms, and enough for most brokers."""

_SIMPLE = {"latest": Start.LATEST, "earliest": Start.EARLIEST, "last": Start.LAST}


class RequestRefused(Exception):
    """A subscription that cannot be; ``code`` is the protocol's name for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SubscriptionHost(Protocol):
    """The connection that a subscription belongs to."""

    @property
    def address(self) -> str:
        """Address of its peer."""

    @property
    def owner(self) -> str | None:
        """The identity to which its durable names belong; None where the broker does not
        authenticate."""

    def durable_taken(self, subscription: Subscription, newer: Subscription) -> None:
        """``newer`` commits under the durable name of ``subscription``, which ends here."""


class Reader:
    """One subscription's cursor in one stream."""

    __slots__ = ("collecting", "cursor", "rewound", "stream")

    def __init__(
        self,
        subscription: Subscription,
        stream: ServedStream,
        start: Start,
        value: int,
        rewound: int = 0,
    ) -> None:
        self.rewound = rewound
        """The position that was asked for, if its epoch ended before it; else 0."""
        self.stream = stream
        self.collecting = start is Start.LAST
        """The newest message of each topic is still being looked for."""
        self.cursor = stream.open_cursor(
            subscription.filter,
            prefix=subscription.prefix,
            batch_id=subscription.id,
            start=Start.LATEST if self.collecting else start,
            value=value,
        )

    def close(self) -> None:
        """Give up the cursor."""
        self.cursor.close()


class Subscription:
    """The readers that one Subscribe has opened."""

    __slots__ = ("connection", "durable", "durable_key", "filter", "id", "prefix", "readers")

    def __init__(self, connection: SubscriptionHost, request: m.Subscribe) -> None:
        self.connection = connection
        self.id = request.subscription
        self.filter = request.filter.encode()
        self.prefix = request.kind == "prefix"
        self.durable = request.durable
        self.durable_key = (
            None if request.durable is None else durable_key(connection.owner, request.durable)
        )
        """The name its positions are stored under."""
        self.readers: list[Reader] = []

    def open(self, streams: Streams, start: m.Start, stored: dict[str, int] | None) -> None:
        """Open a reader in every stream that the filter can meet; all or none.

        ``stored`` are the durable name's positions, if it has any.

        Raises:
            RequestRefused: the start does not fit; the message is for the peer.
            InvalidTopic: not a legal filter.
            Refused: the stream has as many filters as it may.
        """
        met = streams.met_by(self.filter, prefix=self.prefix)
        starts = _starts(start, met, streams, stored or {})
        try:
            for stream, (kind, value, rewound) in zip(met, starts, strict=True):
                reader = Reader(self, stream, kind, value, rewound)
                self.readers.append(reader)
                if start.at == "positions" and start.time_ns > stream.native.log.newest_time():
                    reader.cursor.hold(start.time_ns)
        except Exception:
            self.close()
            raise

    def collect(self) -> bool:
        """Look for the newest messages that it begins with, of some more topics; True if there are
        more to look at."""
        for reader in self.readers:
            if reader.collecting:
                reader.collecting = reader.cursor.collect(COLLECT_TOPICS)
                return True
        return False

    def close(self) -> None:
        """Give up every reader.  Idempotent."""
        readers, self.readers = self.readers, []
        for reader in readers:
            reader.close()


class Opening:
    """A Subscribe under way: its filter is matched with the topics first, step by step, then its
    readers are opened."""

    __slots__ = ("request", "subscription", "wanted")

    def __init__(self, request: m.Subscribe) -> None:
        self.request = request
        self.subscription: Subscription | None = None
        self.wanted: list[tuple[ServedStream, int]] = []
        """Streams and the filter's number in each."""

    def want(self, streams: Streams) -> None:
        """Have the filter matched.  Raises as :meth:`Subscription.open`."""
        filter, prefix = self.request.filter.encode(), self.request.kind == "prefix"
        try:
            for stream in streams.met_by(filter, prefix=prefix):
                number = stream.native.want(filter, prefix=prefix)
                self.wanted.append((stream, number))
                if not stream.native.wanted(number):
                    stream.native.sweep(SWEEP_AT_ONCE)
        except BaseException:
            self.release()
            raise

    def matched(self) -> bool:
        """Whether all topics have been matched with the filter."""
        return all(stream.native.wanted(number) for stream, number in self.wanted)

    def release(self) -> list[ServedStream]:
        """Have the filter stay for its readers only; returns the streams.  Idempotent."""
        wanted, self.wanted = self.wanted, []
        for stream, number in wanted:
            stream.native.unwant(number)
        return [stream for stream, _ in wanted]


def _starts(
    start: m.Start, met: list[ServedStream], streams: Streams, stored: dict[str, int]
) -> list[tuple[Start, int, int]]:
    """Return where to begin in each of ``met``, and the position asked for if its epoch ended before
    it."""
    simple = _SIMPLE.get(start.at)
    if simple is not None:
        return [(simple, 0, 0)] * len(met)
    if start.at == "time":
        return [(Start.TIME, start.time_ns, 0)] * len(met)
    if start.at == "sequence":
        return [(Start.SEQUENCE, _bare_sequence(start.sequence, met), 0)]
    wanted = stored if start.at == "durable" else start.positions
    unknown = [name for name in wanted if streams.by_name(name) is None]
    if unknown and start.at == "positions":
        have = ", ".join(stream.name for stream in streams)
        raise RequestRefused("invalid_start", f"there is no stream {unknown[0]!r}; streams: {have}")
    epochs = start.epochs if start.at == "positions" else {}
    return [
        _from_position(
            stream,
            wanted.get(stream.name),
            epochs.get(stream.name, 0),
            otherwise=_SIMPLE[start.otherwise],
        )
        for stream in met
    ]


def _bare_sequence(sequence: int, met: list[ServedStream]) -> int:
    if len(met) != 1:
        names = ", ".join(stream.name for stream in met)
        raise RequestRefused(
            "invalid_start",
            f"the pattern spans the streams {names}, each with sequences of its own: "
            f"give a position for each, or narrow the pattern",
        )
    _refuse_ahead(met[0], sequence - 1)
    return max(1, sequence)


def _from_position(
    stream: ServedStream, position: int | None, epoch: int, *, otherwise: Start
) -> tuple[Start, int, int]:
    if position is None:
        return otherwise, 0, 0
    common = stream.epochs.common(position, epoch)
    _refuse_ahead(stream, common)
    return Start.SEQUENCE, common + 1, position if common < position else 0


def _refuse_ahead(stream: ServedStream, position: int) -> None:
    last = stream.last_sequence
    if position > last:
        raise RequestRefused(
            "position_ahead",
            f"the stream {stream.name!r} ends at sequence {last}, before {position}: its "
            "log was replaced",
        )
