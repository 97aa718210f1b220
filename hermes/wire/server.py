"""The broker's end of a connection, sans-IO: bytes in, events out; intentions in, bytes out.

Knows no socket, clock or thread, no topic and no log.  Batches go from the input straight to a
:class:`BatchSink`; Python sees control frames only.

Input, per readiness event, where ``base`` is the address of the buffer and ``size`` what was read
into it::

    offset = 0
    while offset < size:
        offset += protocol.receive(base + offset, size - offset, now_ns)
        # account for protocol.sink's result here: messages, streams, touched publishers
        event = protocol.event
        if event is None:
            break  # keep the rest; protocol.needed bytes of it are wanted in one piece
        handle(event)  # before the next receive: what follows may depend on it

An event is the message that arrived (:mod:`hermes.wire.messages`), or :class:`PublisherRefused`, or
:class:`Violation`.  ``receive`` returns after each, so that what follows it in the input is read
with its consequences in place: a publisher is opened before its first batch is fed.

Output: the methods named like messages append frames; :meth:`ServerProtocol.take_output` hands them
out.  The broker sends them behind what it has queued already, never into the middle of a batch;
batches it produces itself. When its queue is long it stops calling ``receive``: a peer that does
not read is not read from.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

import msgspec

from hermes.errors import MalformedInput
from hermes.native.envelopes import (
    EDENIED,
    EMAGIC,
    EVERSION,
    FRAME_VERSION,
    EnvelopeReader,
    control_at,
    error_text,
    topic_at,
    type_at,
)
from hermes.native.frames import HEADER_SIZE, MessageType, encode_batch
from hermes.wire import messages as m
from hermes.wire.codec import (
    HELLO_MAX,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    ControlEncoder,
    decode_control,
)
from hermes.wire.errorcodes import ERROR_CODES, MALFORMED_CODES, REFUSAL_CODES

ANSWERED_MAX = 64
"""Frames answered in a row without an event (Ping, say), before a :class:`Pause`."""

_MORE = 0
_CONTROL = 1
_ERROR = 2
_REFUSED = 3
_TYPE_OFFSET = 5
_HELLO = int(MessageType.HELLO)


class Feed(Protocol):
    """Result of one call of a sink; the fields of ``hm_feed`` in ``hm_ingest.h`` that matter here.

    It may be the same object at each call.
    """

    consumed: int
    """Bytes done with."""
    needed: int
    """Bytes from ``consumed`` on that the next step wants in one piece; 0 if any will do."""
    kind: int
    """0 more, 1 control, 2 error, 3 refused."""
    frame_size: int
    """Kind control: bytes of the frame that stands at ``consumed``."""
    error: int
    """Kinds error and refused: the core's number, negative."""
    publisher: int
    sequence: int
    """Kind refused: the first message that was not taken."""


class BatchSink(Protocol):
    """Takes batches and finds control frames; the real one is the ingest of ``hermes.native``."""

    def feed(self, data: Any, size: int, now_ns: int, /) -> Feed:
        """Take what can be taken of ``size`` bytes at ``data``, as ``hm_ingest_feed`` says.

        A control frame over :data:`~hermes.wire.codec.CONTROL_MAX` is an error as soon as its
        header is there.
        """


class ServerState(Enum):
    """How far a connection is; see the table in ``docs/wire-protocol.md``."""

    AWAIT_HELLO = "await_hello"
    """Nothing but Hello may come."""
    AWAIT_WELCOME = "await_welcome"
    """Hello came; the broker decides.  Nothing is read."""
    OPEN = "open"
    PEER_CLOSED = "peer_closed"
    """The peer has sent Close; what it is owed may still be sent, then Close."""
    CLOSING = "closing"
    """Close was sent; batches are still taken, all else is ignored until the peer's Close."""
    CLOSED = "closed"
    """Nothing is read and nothing may be added; the medium is closed once the output is handed
    over."""


@dataclass(frozen=True, slots=True)
class PublisherRefused:
    """A stream did not take a message.  The peer has been told; the publisher's batches are skipped
    until Open."""

    publisher: int
    sequence: int
    """The first message that was not taken."""
    code: str
    error: int
    """The core's number, negative."""


class Pause:
    """Many frames in a row were answered that make no event: their reader may look at the time."""


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer broke the protocol.  It has been told; the state is CLOSED."""

    code: str
    message: str


Event = (
    m.Hello
    | m.Open
    | m.Subscribe
    | m.Unsubscribe
    | m.Commit
    | m.Ping
    | m.Pong
    | m.Query
    | m.Error
    | Pause
    | m.Close
    | PublisherRefused
    | Violation
)


class ServerProtocol:
    """One connection.  Belongs to one thread; no method blocks.  See the module's docstring for its
    use."""

    __slots__ = (
        "_announced",
        "_encode",
        "_feed",
        "_handlers",
        "_hello",
        "_output",
        "_publishers",
        "_queries",
        "_reader",
        "_refused",
        "_subscriptions",
        "event",
        "hold_pongs",
        "identity",
        "limits",
        "needed",
        "sink",
        "state",
    )

    def __init__(self, sink: BatchSink, limits: m.Limits) -> None:
        self.sink = sink
        self.limits = limits
        """Limits that Welcome will state, and that the peer must keep."""
        self.state = ServerState.AWAIT_HELLO
        self.event: Event | None = None
        """Event that the last :meth:`receive` came upon."""
        self.needed = HEADER_SIZE
        """Bytes the next :meth:`receive` wants in one piece; 0 if any will do."""
        self.identity: str | None = None
        """Identity that the peer was found to have, for what it is told; None: nobody asked."""
        self._feed = sink.feed
        self._encode = ControlEncoder().encode
        self._reader = EnvelopeReader(control_max=HELLO_MAX, batch_max=0)
        self.hold_pongs = False
        """A Ping is an event instead of being answered: answers to what was before it are due."""
        self._hello: m.Hello | None = None
        self._output: list[bytes] = []
        self._publishers: dict[int, bytes] = {}
        self._refused: set[int] = set()
        self._subscriptions: set[int] = set()
        self._queries: set[int] = set()
        self._announced: set[int] = set()

    # ---- input ----

    def receive(self, data: Any, size: int, now_ns: int) -> int:
        """Take some of ``size`` bytes at the address ``data``; returns how many.  Never raises for
        what a peer sent.

        Sets :attr:`event`; without one, what is left is less than the next step needs.  A read that
        holds only batches is one call of the sink.
        """
        self.event = None
        if self.state is not ServerState.OPEN:
            return self._receive_unopened(data, size, now_ns)
        feed = self._feed(data, size, now_ns)
        if feed.kind == _MORE:
            self.needed = feed.needed
            return feed.consumed
        return self._receive_control(feed, data, size, now_ns)

    def resume(self, feed: Feed, data: Any, size: int, now_ns: int) -> int:
        """As :meth:`receive` in state OPEN, for a caller that has fed the sink itself: ``feed`` is
        what that came to."""
        assert self.state is ServerState.OPEN
        self.event = None
        if feed.kind == _MORE:
            self.needed = feed.needed
            return feed.consumed
        return self._receive_control(feed, data, size, now_ns)

    def eof(self) -> bool:
        """The peer will send no more; returns whether it had said so, that is whether the end is in
        order."""
        orderly = self.state in (ServerState.PEER_CLOSED, ServerState.CLOSED)
        if self.state is not ServerState.PEER_CLOSED:
            self.state = ServerState.CLOSED
        return orderly

    @property
    def hello(self) -> m.Hello | None:
        """The peer's Hello, once it has come."""
        return self._hello

    # ---- output ----

    def take_output(self) -> list[bytes]:
        """The frames made since the last call, oldest first."""
        output, self._output = self._output, []
        return output

    @property
    def has_output(self) -> bool:
        """Whether :meth:`take_output` would return anything."""
        return bool(self._output)

    @property
    def output_count(self) -> int:
        """How many frames :meth:`take_output` would return: a peer that asks on and does not read
        piles them up."""
        return len(self._output)

    def welcome(self, *, server: str, broker_id: bytes, durable: bool) -> None:
        """Accept the peer: answers Hello; from here on everything may be sent."""
        assert self.state is ServerState.AWAIT_WELCOME
        assert self._hello is not None
        version = min(self._hello.version_max, PROTOCOL_MAX)
        self.state = ServerState.OPEN
        self._send(m.Welcome(version, server, broker_id, self.limits, durable))

    def ack(
        self,
        publisher: int,
        sequence: int,
        level: Literal["opened", "appended", "durable"] = "appended",
    ) -> None:
        """All messages of ``publisher`` up to ``sequence`` have reached ``level``; ``opened``
        answers Open."""
        if self.state is ServerState.OPEN:  # the one that is made once per read
            self._output.append(self._encode(m.Ack(publisher, sequence, level)))
        else:
            self._send(m.Ack(publisher, sequence, level))

    def stream(self, index: int, name: str, epoch: int = 0) -> None:
        """Announce the stream before its first batch or gap; does nothing if it was announced."""
        if index not in self._announced:
            self._announced.add(index)
            self._send(m.Stream(index, name, epoch))

    def position(
        self, subscription: int, index: int, name: str, through: int, epoch: int = 0
    ) -> None:
        """Tell where a subscription stands in a stream: announces the stream, then an empty batch.

        The answer to Subscribe is one of these per stream that its filter can meet.
        """
        self.stream(index, name, epoch)
        self._append(
            encode_batch(
                id=subscription, stream=index, after=through, through=through, frames_size=0
            )
        )

    def gap(
        self,
        subscription: int,
        stream: int,
        *,
        first: int,
        last: int,
        reason: Literal["retention", "damaged", "epoch"],
    ) -> None:
        """``first`` .. ``last`` cannot be delivered.  ``first`` is the successor of the last
        batch's ``through``; with ``epoch`` there was no batch, and :meth:`position` follows with
        ``first - 1``."""
        self._send(m.Gap(subscription, stream, first, last, reason))

    def committed(self, subscription: int, positions: dict[str, int]) -> None:
        """Answer Commit: these positions are stored."""
        self._send(m.Commit(subscription, positions))

    def unsubscribed(self, subscription: int) -> None:
        """Answer Unsubscribe, behind the subscription's last batch; its id is free from here on."""
        self._subscriptions.discard(subscription)
        self._send(m.Unsubscribe(subscription))

    def info(self, query: int, data: object, *, more: bool = False) -> None:
        """Answer Query with anything MessagePack can hold; ``more``: another part follows.

        Raises:
            ValueError: it does not fit one frame.
        """
        frame = self._encode(m.Info(query, msgspec.Raw(msgspec.msgpack.encode(data)), more))
        self._append(frame)
        if not more:
            self._queries.discard(query)

    def pong(self, token: int) -> None:
        """Answer Ping, where :attr:`hold_pongs` has left that to the caller."""
        self._send(m.Pong(token))

    def ping(self, token: int) -> None:
        """Ask for a sign of life; the answer is a Pong event."""
        self._send(m.Ping(token))

    def error(
        self,
        code: str,
        message: str,
        *,
        publisher: int | None = None,
        sequence: int | None = None,
        subscription: int | None = None,
        query: int | None = None,
        fatal: bool | None = None,
    ) -> None:
        """Tell what was wrong; a fatal one ends the connection.

        ``fatal`` comes from :data:`~hermes.wire.errorcodes.ERROR_CODES`; give it only to end the
        connection for what need not: an Open can only be refused so, because its batches may be on
        their way. A subscription or query that is named is refused: its id is free again. A
        publisher that is named must be opened again before its messages count: have the sink skip
        them.
        """
        row = ERROR_CODES[code]
        ends = row.fatal if fatal is None else fatal
        if subscription is not None and row.ends_subscription:
            self._subscriptions.discard(subscription)
        if query is not None:
            self._queries.discard(query)
        if publisher in self._publishers:
            self._refused.add(publisher)
        text = message[: m.TEXT_MAX]
        if self.state not in _ENDED:
            self._output.append(
                self._encode(m.Error(code, text, ends, publisher, sequence, subscription, query))
            )
        if ends:
            self.state = ServerState.CLOSED

    def close(self, reason: str = "") -> None:
        """Say that nothing follows; answers the peer's Close, or asks for it.  Idempotent.

        Before Welcome there is nothing to hand over, and the connection simply ends.
        """
        if self.state in _ENDED:
            return
        self._output.append(self._encode(m.Close(reason[: m.TEXT_MAX])))
        asking = self.state is ServerState.OPEN
        self.state = ServerState.CLOSING if asking else ServerState.CLOSED

    # ---- inside ----

    def _send(self, message: Any) -> None:
        self._append(self._encode(message))

    def _append(self, frame: bytes) -> None:
        assert self.state not in _UNGREETED, "before Welcome only an Error or Close can be sent"
        # Nothing follows a Close or a fatal Error: whoever is late is not heard.
        if self.state not in _ENDED:
            self._output.append(frame)

    def _violated(self, code: str, message: str) -> None:
        self.error(code, message, fatal=True)
        self.event = Violation(code, message)

    def _receive_unopened(self, data: Any, size: int, now_ns: int) -> int:
        if self.state is ServerState.AWAIT_HELLO:
            return self._receive_hello(data, size)
        if self.state is ServerState.AWAIT_WELCOME:
            return 0
        if self.state is ServerState.CLOSING:
            return self._receive_closing(data, size, now_ns)
        if self.state is ServerState.PEER_CLOSED and size:
            self._violated("after_close", "something was sent after Close")
        return size

    def _receive_hello(self, data: Any, size: int) -> int:
        found = self._reader.read_at(data, size)
        self.needed = found.needed
        kind = found.kind
        if kind in (-EMAGIC, -EVERSION):
            self._refuse_stranger(-kind, data)
        elif size > _TYPE_OFFSET and type_at(data, 0) != _HELLO:
            self._violated("hello_expected", f"frame type {type_at(data, 0)} before Hello")
        elif kind < 0:
            self._violated(MALFORMED_CODES.get(-kind, "internal"), error_text(kind))
        elif kind == 0:
            return 0
        else:
            self.needed = 0
            self._greeted(control_at(data, 0, found.size)[2])
            return found.size
        return size

    def _refuse_stranger(self, error: int, data: Any) -> None:
        if error == EMAGIC:
            text = "this is a Hermes broker, and what came does not begin with HRMS"
            self._violated("not_hermes", text)
        else:
            text = f"frame version {data[4]}; this broker reads version {FRAME_VERSION}"
            self._violated("unsupported_version", text)

    def _greeted(self, payload: bytes) -> None:
        try:
            hello = decode_control(_HELLO, payload)
        except MalformedInput as error:
            self._violated(error.code, str(error))
            return
        assert isinstance(hello, m.Hello)
        low, high = hello.version_min, hello.version_max
        if not (low <= PROTOCOL_MAX and high >= PROTOCOL_MIN and low <= high):
            ours = f"{PROTOCOL_MIN} to {PROTOCOL_MAX}"
            text = f"the client speaks protocol versions {low} to {high}, this broker {ours}"
            self._violated("unsupported_version", text)
            return
        self._hello = self.event = hello
        self.state = ServerState.AWAIT_WELCOME

    def _receive_control(self, feed: Feed, data: Any, size: int, now_ns: int) -> int:
        """Go on from what stopped the sink until there is an event or more bytes are needed."""
        offset = answered = 0
        while True:
            kind = feed.kind
            offset += feed.consumed
            if kind == _MORE:
                self.needed = feed.needed
                return offset
            if kind == _CONTROL:
                end = offset + feed.frame_size
                self._take_control(*control_at(data, offset, feed.frame_size))
                if self.state is ServerState.CLOSED:
                    return size
                offset = end
            elif kind == _REFUSED:
                self._take_refusal(feed, data, offset)
            else:
                self._take_error(feed)
                return size
            answered += 1
            if answered == ANSWERED_MAX and self.event is None:
                self.event = _PAUSE
            if self.event is not None:
                return offset
            feed = self._feed(data + offset, size - offset, now_ns)

    def _take_refusal(self, feed: Feed, data: Any, offset: int) -> None:
        code = REFUSAL_CODES.get(-feed.error, "publish_refused")
        text = error_text(feed.error)
        if feed.error == -EDENIED:  # the message stands there still
            text = f"{self.identity!r} may not publish to {topic_at(data, offset)!r}"
        self.event = PublisherRefused(feed.publisher, feed.sequence, code, feed.error)
        self.error(code, text, publisher=feed.publisher, sequence=feed.sequence, fatal=False)

    def _take_error(self, feed: Feed) -> None:
        code = MALFORMED_CODES.get(-feed.error, "internal")
        self._violated(code, error_text(feed.error))

    def _take_control(self, kind: int, flags: int, payload: bytes) -> None:
        if flags:
            self._violated("bad_flags", "a control frame has no flags")
            return
        try:
            message = decode_control(kind, payload)
        except MalformedInput as error:
            self._violated(error.code, str(error))
            return
        handler = _HANDLERS.get(type(message))
        if handler is None:
            name = type(message).__name__
            self._violated("unexpected", f"a client does not send {name}")
            return
        handler(self, message)

    # One method per message a client may send: judge it by state and limits, then make it the
    # event.

    def _on_hello(self, message: m.Hello) -> None:
        self._violated("hello_repeated", "Hello is said once")

    def _on_open(self, message: m.Open) -> None:
        publisher = message.publisher
        known = self._publishers.get(publisher)
        if known is not None:
            if publisher not in self._refused or known != message.publisher_id:
                self._violated("id_in_use", f"publisher {publisher} is open")
                return
            self._refused.discard(publisher)
        elif len(self._publishers) >= self.limits.publishers_max:
            text = f"{self.limits.publishers_max} publishers are open"
            self._violated("too_many_publishers", text)
            return
        self._publishers[publisher] = message.publisher_id
        self.event = message

    def _on_subscribe(self, message: m.Subscribe) -> None:
        subscription = message.subscription
        if subscription in self._subscriptions:
            self._violated("id_in_use", f"subscription {subscription} is open")
        elif len(self._subscriptions) >= self.limits.subscriptions_max:
            text = f"{self.limits.subscriptions_max} subscriptions are open"
            self._answer_error("too_many_subscriptions", text, subscription)
        elif message.start.at == "durable" and message.durable is None:
            text = "a start at the durable position needs a durable name"
            self._answer_error("invalid_start", text, subscription)
        else:
            self._subscriptions.add(subscription)
            self.event = message

    def _answer_error(self, code: str, text: str, subscription: int) -> None:
        self._send(m.Error(code, text, fatal=False, subscription=subscription))

    def _known(self, subscription: int) -> bool:
        if subscription in self._subscriptions:
            return True
        # Not fatal: its Subscribe may have been refused while this was on its way.
        text = f"subscription {subscription} is not open"
        self._answer_error("unknown_subscription", text, subscription)
        return False

    def _on_unsubscribe(self, message: m.Unsubscribe) -> None:
        if self._known(message.subscription):
            self.event = message

    def _on_commit(self, message: m.Commit) -> None:
        if self._known(message.subscription):
            self.event = message

    def _on_query(self, message: m.Query) -> None:
        if message.query in self._queries:
            self._violated("id_in_use", f"query {message.query} is not answered yet")
        elif len(self._queries) >= m.QUERIES_MAX:
            self._violated("too_many_queries", f"{m.QUERIES_MAX} queries are not answered yet")
        else:
            self._queries.add(message.query)
            self.event = message

    def _on_ping(self, message: m.Ping) -> None:
        if self.hold_pongs:
            self.event = message
        else:
            self.pong(message.token)

    def _on_pong(self, message: m.Pong) -> None:
        self.event = message

    def _on_error(self, message: m.Error) -> None:
        if message.fatal:
            self.state = ServerState.CLOSED
        self.event = message

    def _on_close(self, message: m.Close) -> None:
        publisher = message.publisher
        if publisher is None:
            self.state = ServerState.PEER_CLOSED
        elif self._publishers.pop(publisher, None) is None:
            self._violated("unknown_publisher", f"publisher {publisher} is not open")
            return
        else:
            self._refused.discard(publisher)
        self.event = message

    def _receive_closing(self, data: Any, size: int, now_ns: int) -> int:
        """Take batches, ignore all else, and wait for the peer's Close."""
        offset = 0
        while True:
            feed = self._feed(data + offset, size - offset, now_ns)
            offset += feed.consumed
            if feed.kind == _MORE:
                self.needed = feed.needed
                return offset
            if feed.kind == _CONTROL:
                kind, _, payload = control_at(data, offset, feed.frame_size)
                offset += feed.frame_size
                if kind == MessageType.CLOSE and self._ends(payload):
                    return size
            elif feed.kind == _ERROR:
                self.state = ServerState.CLOSED
                self.event = Violation(
                    MALFORMED_CODES.get(-feed.error, "internal"), error_text(feed.error)
                )
                return size

    def _ends(self, payload: bytes) -> bool:
        try:
            message = decode_control(MessageType.CLOSE, payload)
        except MalformedInput as error:
            self.state = ServerState.CLOSED
            self.event = Violation(error.code, str(error))
            return True
        assert isinstance(message, m.Close)
        if message.publisher is not None:
            return False
        self.state = ServerState.CLOSED
        self.event = message
        return True


_PAUSE = Pause()
_UNGREETED = (ServerState.AWAIT_HELLO, ServerState.AWAIT_WELCOME)
_ENDED = (ServerState.CLOSING, ServerState.CLOSED)

_HANDLERS: dict[type, Any] = {
    m.Hello: ServerProtocol._on_hello,
    m.Open: ServerProtocol._on_open,
    m.Subscribe: ServerProtocol._on_subscribe,
    m.Unsubscribe: ServerProtocol._on_unsubscribe,
    m.Commit: ServerProtocol._on_commit,
    m.Ping: ServerProtocol._on_ping,
    m.Pong: ServerProtocol._on_pong,
    m.Query: ServerProtocol._on_query,
    m.Error: ServerProtocol._on_error,
    m.Close: ServerProtocol._on_close,
}
