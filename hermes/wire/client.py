"""The client's end of a connection, sans-IO: intentions in, bytes out; bytes in, events out.

Knows no socket, clock or thread, and copies no batch.

Output: the methods named like messages return the bytes to send.  What the protocol itself has to
answer (Pong, an Error about malformed input) is appended to :attr:`ClientProtocol.output`, which
the caller sends and clears. All may be sent without waiting for answers, Hello first.

Input: the caller reads into a buffer of its own and walks it::

    while start < end:
        event = protocol.receive(buffer, start, end)
        start = protocol.position
        if event is None:
            break                      # protocol.needed bytes from start on are wanted in one piece

An event is the message that arrived (:mod:`hermes.wire.messages`) or a :class:`BatchReceived`,
whose frames are in the caller's buffer; they are not looked into here: index them with
``hm_frame_index``, which checks them, and hold their sequences to be ascending and within (after,
through].

After a connection was lost, :meth:`ClientProtocol.snapshot` of the old protocol and
:meth:`ClientProtocol.restore` of a new one take the session over.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, NoReturn

import msgspec

from hermes.errors import MalformedInput, VersionRefused
from hermes.native.envelopes import (
    CONTROL_MAX,
    EMAGIC,
    EVERSION,
    FRAME_VERSION,
    Buffer,
    EnvelopeReader,
    error_text,
)
from hermes.native.frames import BATCH_HEADER_SIZE, DELIVERED_MAX, HEADER_SIZE
from hermes.wire import messages as m
from hermes.wire.codec import (
    BATCH_TYPE,
    HELLO_MAX,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    ControlEncoder,
    checked_frame,
    decode_control,
)
from hermes.wire.errorcodes import ERROR_CODES, MALFORMED_CODES

STREAMS_MAX = 1024
"""Streams a broker may announce on one connection; ours have 64 at most."""


class BatchReceived(msgspec.Struct, gc=False):
    """A whole batch in the caller's buffer (a struct, because it is made in a third of a class's
    time)."""

    subscription: int
    stream: int
    """Index; :attr:`ClientProtocol.stream_names` has the name."""
    after: int
    through: int
    """The batch covers the sequences (after, through]: what is not in it was not wanted."""
    start: int
    """Offset of its frames in the buffer."""
    end: int
    """``start`` if it is a mere progress mark."""


Event = (
    BatchReceived
    | m.Welcome
    | m.Stream
    | m.Ack
    | m.Commit
    | m.Gap
    | m.Pong
    | m.Info
    | m.Unsubscribe
    | m.Error
    | m.Close
)


class ClientState(Enum):
    """How far a connection is; see the table in ``docs/wire-protocol.md``."""

    NEW = "new"
    """Hello has not been made."""
    GREETING = "greeting"
    """Hello was made; anything may be sent, Welcome has not come."""
    OPEN = "open"
    CLOSING = "closing"
    """Close was made: nothing more may be sent; what the broker still owes may come, then its
    Close."""
    PEER_CLOSED = "peer_closed"
    """The broker sent Close: nothing more will come; Close should be made."""
    CLOSED = "closed"


class Resume(msgspec.Struct):
    """A session to take over: what was open, and how far it had come."""

    publishers: list[m.Open]
    subscriptions: list[m.Subscribe]
    """Their starts are where the lost connection had come to."""


ZMTP = b"\xff"
"""First byte of ZeroMQ's greeting."""


def what_answers(beginning: Buffer) -> str:
    """A sentence for input that is not the protocol's, by how it begins."""
    if bytes(beginning[:1]) == ZMTP:
        return (
            "that is a ZeroMQ socket: use zmq+tcp:// and the port that the broker's listener names, "
            "not one of its doors"
        )
    return "what answers there does not begin with HRMS"


class ClientProtocol:
    """One connection.  Belongs to one thread; no method blocks.  See the module's docstring for its
    use."""

    __slots__ = (
        "_encode",
        "_last_id",
        "_publishers",
        "_queries",
        "_read",
        "_reader",
        "_resumed",
        "_subscriptions",
        "_through",
        "_unsubscribing",
        "coverage",
        "epochs",
        "needed",
        "output",
        "position",
        "state",
        "stream_names",
        "welcome",
    )

    def __init__(self, *, last_id: int = 0) -> None:
        self.state = ClientState.NEW
        self.welcome: m.Welcome | None = None
        """The broker's answer to Hello: limits, and what it can do."""
        self.stream_names: dict[int, str] = {}
        self.epochs: dict[str, int] = {}
        """Stream name to the epoch of what is delivered on this connection; not named: not known."""
        self.output: list[bytes] = []
        """Answers to be sent; the caller clears it."""
        self.position = 0
        """Offset in the caller's buffer at which the next :meth:`receive` begins."""
        self.needed = HEADER_SIZE
        """After a :meth:`receive` that gave nothing: bytes wanted in one piece from
        :attr:`position` on."""
        self._reader = EnvelopeReader(control_max=CONTROL_MAX, batch_max=0)
        self._read = self._reader.read
        self._encode = ControlEncoder().encode
        self._publishers: dict[int, m.Open] = {}
        self._subscriptions: dict[int, m.Subscribe] = {}
        self._unsubscribing: set[int] = set()
        self._queries: set[int] = set()
        # (subscription << 32 | stream index) -> through.
        self._through: dict[int, int] = {}
        self.coverage = self._through
        """(subscription << 32 | stream index) -> ``through`` of the last batch or gap.  A caller
        that takes a sound batch out of its buffer itself, because it goes on exactly there, moves
        it on."""
        # Subscription -> stream name -> through on the connection before this one.
        self._resumed: dict[int, dict[str, int]] = {}
        self._last_id = last_id

    @property
    def last_id(self) -> int:
        """Ids up to here have been given to somebody: the connection after this one begins behind
        it."""
        return self._last_id

    @property
    def asked(self) -> int:
        """Queries that are not answered yet: QUERIES_MAX at most."""
        return len(self._queries)

    @property
    def publishers(self) -> int:
        """Publishers that are open: the broker's ``publishers_max`` at most."""
        return len(self._publishers)

    # ---- output ----

    def new_id(self) -> int:
        """An id for a publisher, subscription or query that was not used on this connection."""
        self._last_id += 1
        return self._last_id

    def hello(
        self,
        *,
        client: str = "",
        identity: str | None = None,
        credentials: dict[str, str] | None = None,
    ) -> bytes:
        """The first bytes of a connection."""
        assert self.state is ClientState.NEW
        self.state = ClientState.GREETING
        message = m.Hello(
            PROTOCOL_MIN, PROTOCOL_MAX, client[: m.TEXT_MAX], identity, credentials or {}
        )
        return checked_frame(message, HELLO_MAX)

    def open_publisher(
        self, publisher: int, publisher_id: bytes, ack: m.AckLevel = "appended"
    ) -> bytes:
        """Open ``publisher``, or open it again after an Error named it.

        Its batches may follow at once.  Answered by an Ack of level ``opened``.
        """
        message = m.Open(publisher, publisher_id, ack)
        frame = self._ask(message)
        self._publishers[publisher] = message
        return frame

    def close_publisher(self, publisher: int) -> bytes:
        """End one publisher; wait for its acknowledgements before, none come after it.  Empty if it
        was not opened on this connection."""
        if self._publishers.pop(publisher, None) is None:
            return b""
        return self._say(m.Close(publisher=publisher))

    def subscribe(
        self,
        subscription: int,
        filter: str,
        *,
        kind: Literal["pattern", "prefix"] = "pattern",
        start: m.Start | None = None,
        durable: str | None = None,
    ) -> bytes:
        """Open a subscription.

        Answered, per stream that the filter can meet, by an empty batch that tells where it begins,
        or by an Error that names it; a Pong to a Ping sent behind it proves that all of these have
        come.
        """
        message = m.Subscribe(subscription, filter, kind, start or m.Start(), durable)
        frame = self._ask(message)
        self._subscriptions[subscription] = message
        return frame

    def unsubscribe(self, subscription: int) -> bytes:
        """End a subscription: nothing more of it is delivered; answered by an Unsubscribe event.
        Empty if it was not opened on this connection."""
        if self._subscriptions.pop(subscription, None) is None:
            return b""
        self._unsubscribing.add(subscription)
        self._forget(subscription)
        return self._say(m.Unsubscribe(subscription))

    def commit(
        self, subscription: int, positions: dict[str, int], epochs: dict[str, int] | None = None
    ) -> bytes:
        """Store positions under the subscription's durable name; answered by a Commit event or an
        Error."""
        return self._ask(m.Commit(subscription, positions, epochs or {}))

    def ping(self, token: int) -> bytes:
        """Answered by Pong with the same token, behind the answers to everything sent before."""
        return self._say(m.Ping(token))

    def query(self, query: int, what: str, arguments: dict[str, str] | None = None) -> bytes:
        """Answered by one or more Info events, or an Error that names the query."""
        frame = self._ask(m.Query(query, what, arguments or {}))
        self._queries.add(query)
        return frame

    def close(self, reason: str = "") -> bytes:
        """The last bytes of a connection; empty if they were made before.  Read on until the Close
        event."""
        if self.state in (ClientState.CLOSING, ClientState.CLOSED):
            return b""
        if self.state is ClientState.NEW:
            self.state = ClientState.CLOSED
            return b""
        frame = self._say(m.Close(reason[: m.TEXT_MAX]))
        answering = self.state is ClientState.PEER_CLOSED
        self.state = ClientState.CLOSED if answering else ClientState.CLOSING
        return frame

    # ---- input ----

    def receive(self, buffer: Buffer, start: int, end: int) -> Event | None:
        """The next event in ``buffer[start:end]``, or None if there is none yet; sets
        :attr:`position`.

        A batch's frames are valid as long as the caller leaves them where they are.

        Raises:
            MalformedInput: the broker broke the protocol; :attr:`output` says so, send it and hang
            up. VersionRefused: the broker's frames have a version that is not known here.
        """
        while True:
            size, after, through, needed, id, stream, payload_len, kind = self._read(
                buffer, start, end
            )
            following = start + size
            if kind == BATCH_TYPE:
                key = id << 32 | stream
                if self._through.get(key) == after or self._begins(id, stream, after, through):
                    self._through[key] = through
                    self.position = following
                    return BatchReceived(
                        id, stream, after, through, start + BATCH_HEADER_SIZE, following
                    )
            elif kind > 0:
                begin = start + HEADER_SIZE
                event = self._take_control(kind, buffer[begin : begin + payload_len])
                if event is not None:
                    self.position = following
                    return event
            elif kind == 0:
                self.position = start
                self.needed = needed
                return None
            else:
                self._refuse(-kind, buffer[start : start + 1])
            start = following

    def eof(self) -> bool:
        """The broker will send no more; returns whether it had said so."""
        orderly = self.state in (ClientState.PEER_CLOSED, ClientState.CLOSED)
        self.state = ClientState.CLOSED
        return orderly

    def positions(self, subscription: int) -> dict[str, int]:
        """How far the delivered batches have covered: stream name to ``through``."""
        found = dict(self._resumed.get(subscription, {}))
        for key, through in self._through.items():
            if key >> 32 == subscription:
                found[self.stream_names[key & m.ID_MAX]] = through
        return found

    # ---- taking a session over ----

    def _epochs(self, subscription: int, start: m.Start) -> dict[str, int]:
        """The epochs of :meth:`positions`, as far as they are known."""
        found = dict(start.epochs)
        for key in self._through:
            name = self.stream_names[key & m.ID_MAX]
            if key >> 32 == subscription and name in self.epochs:
                found[name] = self.epochs[name]
        return found

    def snapshot(self) -> Resume:
        """Everything that is open, each subscription starting behind the last delivered batch."""
        subscriptions = []
        for message in self._subscriptions.values():
            positions = self.positions(message.subscription)
            start = message.start
            if positions:
                # Streams whose first batch had not come yet begin as they would have.
                otherwise = self.otherwise(start)
                start = m.Start(
                    at="positions",
                    positions=positions,
                    otherwise=otherwise,
                    time_ns=start.time_ns,
                    epochs=self._epochs(message.subscription, start),
                )
            subscriptions.append(msgspec.structs.replace(message, start=start))
        return Resume(list(self._publishers.values()), subscriptions)

    def restore(self, resume: Resume) -> list[bytes]:
        """Open all of ``resume`` again, under the same ids; the frames go out behind Hello.

        Every subscription must go on exactly where it was, or tell of a Gap: all else is a
        violation.
        """
        frames = []
        for publisher in resume.publishers:
            self._publishers[publisher.publisher] = publisher
            frames.append(self._say(publisher))
        for subscription in resume.subscriptions:
            id = subscription.subscription
            self._subscriptions[id] = subscription
            if subscription.start.at == "positions":
                self._resumed[id] = dict(subscription.start.positions)
            frames.append(self._say(subscription))
        self._last_id = max((self._last_id, *self._publishers, *self._subscriptions))
        return frames

    # ---- inside ----

    @staticmethod
    def otherwise(start: m.Start) -> Literal["latest", "earliest"]:
        """Return where a stream without a known position begins, for ``start``."""
        if start.at in ("positions", "durable"):
            return start.otherwise
        return "latest" if start.at == "latest" else "earliest"

    def _ask(self, message: Any) -> bytes:
        """Encode a request with arguments of the program, after a check against the protocol's types."""
        assert self.state not in (ClientState.NEW, ClientState.CLOSING, ClientState.CLOSED)
        return checked_frame(message, CONTROL_MAX)

    def _say(self, message: Any) -> bytes:
        assert self.state not in (ClientState.NEW, ClientState.CLOSING, ClientState.CLOSED)
        return self._encode(message)

    def _violated(self, code: str, message: str) -> NoReturn:
        if self.state is not ClientState.CLOSING:
            self.output.append(self._encode(m.Error(code, message[: m.TEXT_MAX])))
        self.state = ClientState.CLOSED
        raise MalformedInput(f"{message} [{code}]", code=code)

    def _refuse(self, error: int, beginning: Buffer) -> NoReturn:
        """The input is not a sound frame, or there should be none."""
        self._refuse_after_close()
        first = self.state is ClientState.GREETING
        if first and error == EMAGIC:
            self._violated("not_hermes", what_answers(beginning))
        if error == EVERSION:
            text = f"the broker's frames are not of version {FRAME_VERSION}"
            self.output.append(self._encode(m.Error("unsupported_version", text)))
            self.state = ClientState.CLOSED
            raise VersionRefused(f"{text} [unsupported_version]")
        self._violated(MALFORMED_CODES.get(error, "internal"), error_text(error))

    def _refuse_after_close(self) -> None:
        if self.state in _ENDED:
            self._violated("after_close", "the broker sent something after its Close")

    def _begins(self, id: int, stream: int, after: int, through: int) -> bool:
        """Whether the batch is the first of its subscription and stream; False: to be dropped, with
        reason."""
        self._refuse_after_close()
        if self.welcome is None:
            self._violated("hello_expected", "a batch came before Welcome")
        name = self.stream_names.get(stream)
        if name is None:
            self._violated("unknown_stream", f"a batch of stream index {stream}")
        if id in self._unsubscribing:
            return False  # it was on its way
        if id not in self._subscriptions:
            self._violated("unknown_subscription", f"a batch of subscription {id}")
        expected = self._through.get(id << 32 | stream)
        if expected is None:
            expected = self._resumed.get(id, {}).pop(name, None)
        if expected is not None and expected != after:
            text = f"subscription {id} stood at {expected} of {name!r}, a batch covers {after}"
            self._violated("coverage", f"{text} to {through}")
        if after != through:
            text = f"subscription {id} does not begin with a position in {name!r}"
            self._violated("coverage", text)
        return True

    def _forget(self, subscription: int) -> None:
        self._resumed.pop(subscription, None)
        for key in [key for key in self._through if key >> 32 == subscription]:
            del self._through[key]

    def _take_control(self, kind: int, payload: Buffer) -> Event | None:
        if self.state in _ENDED:
            self._refuse_after_close()
        try:
            message = decode_control(kind, payload)
        except MalformedInput as error:
            self._violated(error.code, str(error))
        handler = _HANDLERS.get(type(message))
        if handler is None:
            self._violated("unexpected", f"a broker does not send {type(message).__name__}")
        if self.welcome is None and not isinstance(message, m.Welcome | m.Error | m.Close):
            self._violated("hello_expected", f"{type(message).__name__} came before Welcome")
        event: Event | None = handler(self, message)
        return event

    # One method per message a broker may send: judge it, and return it if the caller should see it.

    def _on_welcome(self, message: m.Welcome) -> m.Welcome:
        if self.welcome is not None:
            self._violated("hello_repeated", "Welcome is said once")
        if not PROTOCOL_MIN <= message.version <= PROTOCOL_MAX:
            text = f"the broker chose protocol version {message.version}"
            self._violated("unsupported_version", text)
        self.welcome = message
        # The limits are for what we send: a log may hold what was taken under others.
        self._reader.batch_max = max(message.limits.batch_max, DELIVERED_MAX)
        if self.state is ClientState.GREETING:
            self.state = ClientState.OPEN
        return message

    def _on_stream(self, message: m.Stream) -> m.Stream:
        if message.index in self.stream_names:
            self._violated("unexpected", f"stream index {message.index} is announced again")
        if len(self.stream_names) >= STREAMS_MAX:
            self._violated("unexpected", f"more than {STREAMS_MAX} streams")
        self.stream_names[message.index] = message.name
        if message.epoch:
            self.epochs[message.name] = message.epoch
        return message

    def _on_ack(self, message: m.Ack) -> m.Ack | None:
        # One that crossed with the publisher's end is of no interest.
        return message if message.publisher in self._publishers else None

    def _on_commit(self, message: m.Commit) -> m.Commit | None:
        return message if message.subscription in self._subscriptions else None

    def _on_gap(self, message: m.Gap) -> m.Gap | None:
        id, stream = message.subscription, message.stream
        if message.last < message.first:
            self._violated("coverage", f"a gap from {message.first} to {message.last}")
        if message.reason == "epoch":
            return self._on_rewind(message)
        if self._through.get(id << 32 | stream) is None and id not in self._unsubscribing:
            self._violated("coverage", f"a gap before the first batch of subscription {id}")
        if not self._continues(id, stream, message.first - 1, message.last):
            return None
        self._through[id << 32 | stream] = message.last
        return message

    def _on_rewind(self, message: m.Gap) -> m.Gap | None:
        id, key = message.subscription, message.subscription << 32 | message.stream
        if key in self._through or message.first < 1:
            self._violated("coverage", f"an epoch ends within subscription {id}")
        # As if it had begun at the position that was asked for.
        if not self._begins(id, message.stream, message.last, message.last):
            return None
        self._through[key] = message.first - 1
        return message

    def _continues(self, id: int, stream: int, after: int, through: int) -> bool:
        return self._through.get(id << 32 | stream) == after or self._begins(
            id, stream, after, through
        )

    def _on_ping(self, message: m.Ping) -> None:
        if self.state is not ClientState.CLOSING:
            self.output.append(self._encode(m.Pong(message.token)))

    def _on_pong(self, message: m.Pong) -> m.Pong:
        return message

    def _on_info(self, message: m.Info) -> m.Info:
        if message.query not in self._queries:
            self._violated("unexpected", f"an answer to query {message.query}, which is not asked")
        if not message.more:
            self._queries.discard(message.query)
        message.data = message.data.copy()  # the caller's buffer will be overwritten
        return message

    def _on_unsubscribe(self, message: m.Unsubscribe) -> m.Unsubscribe:
        if message.subscription not in self._unsubscribing:
            text = f"subscription {message.subscription} was not to end"
            self._violated("unknown_subscription", text)
        self._unsubscribing.discard(message.subscription)
        return message

    def _on_error(self, message: m.Error) -> m.Error:
        if message.fatal:
            self.state = ClientState.CLOSED
            self._freeze_positions()
        if message.subscription is not None:
            self._refused_subscription(message)
        if message.query is not None:
            self._queries.discard(message.query)
        return message

    def _refused_subscription(self, message: m.Error) -> None:
        id = message.subscription
        assert id is not None
        row = ERROR_CODES.get(message.code)
        if row is None or row.ends_subscription:
            self._subscriptions.pop(id, None)
            self._unsubscribing.discard(id)
            self._forget(id)

    def _on_close(self, message: m.Close) -> m.Close:
        if message.publisher is not None:
            self._violated("unexpected", "a broker does not close single publishers")
        asked = self.state is ClientState.CLOSING
        self.state = ClientState.CLOSED if asked else ClientState.PEER_CLOSED
        self._freeze_positions()
        return message

    def _freeze_positions(self) -> None:
        """Keep positions by name only: no batch may go on from them on this connection."""
        for id in self._subscriptions:
            self._resumed[id] = self.positions(id)
        self._through.clear()


_ENDED = (ClientState.PEER_CLOSED, ClientState.CLOSED)

_HANDLERS: dict[type, Any] = {
    m.Welcome: ClientProtocol._on_welcome,
    m.Stream: ClientProtocol._on_stream,
    m.Ack: ClientProtocol._on_ack,
    m.Commit: ClientProtocol._on_commit,
    m.Gap: ClientProtocol._on_gap,
    m.Ping: ClientProtocol._on_ping,
    m.Pong: ClientProtocol._on_pong,
    m.Info: ClientProtocol._on_info,
    m.Unsubscribe: ClientProtocol._on_unsubscribe,
    m.Error: ClientProtocol._on_error,
    m.Close: ClientProtocol._on_close,
}
