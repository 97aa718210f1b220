"""The payloads of control frames: MessagePack maps, typed.

Both ends ignore fields they do not know, so a field can be added without a new protocol version; a
missing one without a default is malformed.  Offsets, limits and who may send what when:
``docs/wire-protocol.md``.  Knows neither bytes nor states: :mod:`hermes.wire.codec` has the bytes,
``server`` and ``client`` the states.

These structs are also the events of both ends: what arrived is handed on as it was sent.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from hermes.base import checks

ID_MAX = 2**32 - 1
"""Publisher, subscription and query ids are u32, chosen by the client."""
SEQUENCE_MAX = 2**63 - 1
"""So that a sequence also fits the signed integers of databases and arrays."""
VERSION_MAX = 255
"""A version has one byte in the frame header."""
PUBLISHER_ID_SIZE = 16
"""Bytes of what names a publisher across connections."""
PATTERN_MAX = 255
"""Bytes of a pattern or prefix."""
NAME_MAX = 128
"""Characters of a stream, client or durable name."""
TEXT_MAX = 1024
"""Characters of a message for people."""
QUERIES_MAX = 16
"""Unanswered queries of one connection: an answer can be large, and no tool needs more than one or
two."""

Id = Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)]
Sequence = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]
"""Which life of a stream's log a sequence is of; 0: not known."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]
Version = Annotated[int, msgspec.Meta(ge=0, le=VERSION_MAX)]
Size = Annotated[int, msgspec.Meta(ge=0, le=ID_MAX)]
Token = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]
Uuid = Annotated[bytes, msgspec.Meta(min_length=PUBLISHER_ID_SIZE, max_length=PUBLISHER_ID_SIZE)]
StartWord = Literal["latest", "earliest", "last", "sequence", "time", "durable", "positions"]
_STARTS: tuple[StartWord, ...] = get_args(StartWord)
AckLevel = Literal["none", "appended", "durable"]


class Hello(msgspec.Struct, omit_defaults=True):
    """Client, first: who speaks, and which protocol versions it can speak."""

    version_min: Version
    version_max: Version
    client: Text = ""
    """Name and version of the client library, and the program's own name: for ``hermes stats``."""
    identity: Name | None = None
    credentials: dict[str, str] = {}
    """Handed to the authentication plugin, never logged."""


class Limits(msgspec.Struct):
    """Limits of what the broker accepts on this connection."""

    message_max: Size
    """Bytes of payload."""
    batch_max: Size
    """Bytes of frames in one batch."""
    publishers_max: Size
    """Publishers open at a time."""
    subscriptions_max: Size
    """Subscriptions open at a time."""


class Welcome(msgspec.Struct):
    """Broker, in answer to Hello: the version that is spoken from here on."""

    version: Version
    server: Text
    broker_id: Uuid
    """16 bytes, new at each start of the broker."""
    limits: Limits
    durable: bool
    """Whether acknowledgements of level ``durable`` can be had."""


class Open(msgspec.Struct, omit_defaults=True):
    """Client: opens, or after a refusal reopens, a publisher.  Answered by an Ack with what the
    broker has of it."""

    publisher: Id
    publisher_id: Uuid
    """Random; names the publisher across connections, so that what is sent again is appended
    once."""
    ack: AckLevel = "appended"


class Start(msgspec.Struct, omit_defaults=True):
    """Start of a subscription: exactly one of the forms."""

    at: StartWord = "latest"
    sequence: Sequence = 0
    """The first wanted; only if the pattern stays within one stream."""
    time_ns: Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)] = 0
    """The broker's clock: the first message appended at or after it."""
    positions: dict[str, Sequence] = {}
    """Stream name to the last sequence already had.  Streams not named start as ``otherwise``
    says."""
    otherwise: Literal["latest", "earliest"] = "earliest"
    """For ``durable`` and ``positions``: where to begin in a stream that has no position."""
    epochs: dict[str, Epoch] = {}
    """Stream name to the epoch that its position is of.  Streams not named: not known."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Hold every field to its type; integers of other libraries become plain ones.

        Raises:
            UsageError: a field has a wrong type or value; the message names it.
        """
        self.at = checks.choice(self.at, "at", _STARTS)
        self.sequence = checks.integer(self.sequence, "sequence", most=SEQUENCE_MAX)
        self.time_ns = checks.integer(self.time_ns, "time_ns", most=SEQUENCE_MAX)
        self.otherwise = checks.choice(self.otherwise, "otherwise", ("latest", "earliest"))
        if not isinstance(self.positions, dict):
            checks.wrong_type("positions", "a dict of stream name to sequence", self.positions)
        for stream, sequence in self.positions.items():
            checks.text(stream, "a stream's name in positions")
            if sequence.__class__ is not int or not 0 <= sequence <= SEQUENCE_MAX:
                name = f"positions[{stream!r}]"
                self.positions[stream] = checks.integer(sequence, name, most=SEQUENCE_MAX)
            if epoch := getattr(sequence, "epoch", 0):  # a position of the client's
                self.epochs.setdefault(stream, epoch)
        if not isinstance(self.epochs, dict):
            checks.wrong_type("epochs", "a dict of stream name to epoch", self.epochs)
        for stream, epoch in self.epochs.items():
            checks.text(stream, "a stream's name in epochs")
            self.epochs[stream] = checks.integer(epoch, f"epochs[{stream!r}]", most=SEQUENCE_MAX)


class Subscribe(msgspec.Struct, omit_defaults=True):
    """Client: opens a subscription.  Answered by Stream frames and, per stream, an empty batch at
    its position."""

    subscription: Id
    filter: Annotated[str, msgspec.Meta(max_length=PATTERN_MAX)]
    """Tokens with ``*`` and ``>``, or the bytes a topic begins with."""
    kind: Literal["pattern", "prefix"] = "pattern"
    start: Start = msgspec.field(default_factory=Start)
    durable: Name | None = None
    """Name under which Commit stores positions."""


class Unsubscribe(msgspec.Struct):
    """Client: no more of this.  Batches already under way may still arrive; the broker answers with
    the same frame."""

    subscription: Id


class Stream(msgspec.Struct, omit_defaults=True):
    """Broker: which name a stream index stands for on this connection."""

    index: Id
    name: Name
    epoch: Epoch = 0
    """The epoch that its sequences are of."""


class Ack(msgspec.Struct, omit_defaults=True):
    """Broker: all messages of the publisher up to ``sequence`` have reached ``level``."""

    publisher: Id
    sequence: Sequence
    level: Literal["opened", "appended", "durable"] = "appended"


class Commit(msgspec.Struct, omit_defaults=True):
    """Client: remember these positions.  Broker: the same frame, once they are stored."""

    subscription: Id
    positions: dict[str, Sequence]
    """Stream name to the last sequence the subscriber is done with."""
    epochs: dict[str, Epoch] = {}
    """Stream name to the epoch that the position is of.  Streams not named: the current one."""


class Gap(msgspec.Struct):
    """Broker: sequences first..last of this stream cannot be delivered; what was there is unknown
    now.

    With ``epoch`` it comes before the first batch: the position that was asked for, ``last``, is of
    an epoch that ended before it.  The subscription begins with ``first``, which another message has
    now."""

    subscription: Id
    stream: Id
    first: Sequence
    last: Sequence
    reason: Literal["retention", "damaged", "epoch"]


class Ping(msgspec.Struct):
    """Either side; answered by Pong with the same token."""

    token: Token


class Pong(msgspec.Struct):
    """The answer to Ping."""

    token: Token


class Query(msgspec.Struct, omit_defaults=True):
    """Client: asks the broker about itself."""

    query: Id
    what: Name
    """``streams``, ``topics``, ``stats``, ``durables`` or ``config``; ``forget`` is a request."""
    arguments: dict[str, str] = {}


class Info(msgspec.Struct):
    """Broker: the answer to Query, a MessagePack value; large answers come in several, ``more`` on
    all but the last."""

    query: Id
    data: msgspec.Raw
    more: bool = False


class Error(msgspec.Struct, omit_defaults=True):
    """Broker or client: what was wrong.  ``fatal`` errors are followed by the end of the
    connection."""

    code: Name
    """One of the codes in ``docs/wire-protocol.md``."""
    message: Text
    fatal: bool = True
    publisher: Id | None = None
    """The publisher it is about: its messages from ``sequence`` on are not taken until it is opened
    again."""
    sequence: Sequence | None = None
    subscription: Id | None = None
    query: Id | None = None


class Close(msgspec.Struct, omit_defaults=True):
    """Either side: I send nothing after this; answered by Close.  With ``publisher``: only that
    publisher ends."""

    reason: Text = ""
    publisher: Id | None = None
