"""Control frames: a message struct to bytes and back.  Knows no state; who may send what is not
asked here."""

from __future__ import annotations

import msgspec

from hermes.errors import MalformedInput, UsageError
from hermes.native import envelopes
from hermes.native.frames import MessageType
from hermes.wire import messages as m

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
"""The protocol versions this code speaks, both ends inclusive."""
CONTROL_MAX = envelopes.CONTROL_MAX
"""Bytes of a control frame's payload."""
HELLO_MAX = 65536
"""Bytes of Hello's payload: what an unknown peer may make a broker keep."""
BATCH_TYPE = int(MessageType.BATCH)
"""As a plain number, because it is compared with one at every read."""

Message = (
    m.Hello
    | m.Welcome
    | m.Open
    | m.Subscribe
    | m.Unsubscribe
    | m.Stream
    | m.Ack
    | m.Commit
    | m.Gap
    | m.Ping
    | m.Pong
    | m.Query
    | m.Info
    | m.Error
    | m.Close
)


CLASSES: dict[MessageType, type[Message]] = {
    MessageType.HELLO: m.Hello,
    MessageType.WELCOME: m.Welcome,
    MessageType.OPEN: m.Open,
    MessageType.SUBSCRIBE: m.Subscribe,
    MessageType.UNSUBSCRIBE: m.Unsubscribe,
    MessageType.STREAM: m.Stream,
    MessageType.ACK: m.Ack,
    MessageType.COMMIT: m.Commit,
    MessageType.GAP: m.Gap,
    MessageType.PING: m.Ping,
    MessageType.PONG: m.Pong,
    MessageType.QUERY: m.Query,
    MessageType.INFO: m.Info,
    MessageType.ERROR: m.Error,
    MessageType.CLOSE: m.Close,
}
"""Which struct is the payload of which type."""

_TYPES: dict[type, int] = {kind: int(number) for number, kind in CLASSES.items()}
_encode_payload = msgspec.msgpack.Encoder().encode
_DECODE = {
    int(number): msgspec.msgpack.Decoder(kind).decode  # one typed decoder each, made once
    for number, kind in CLASSES.items()
}


class ControlEncoder:
    """Makes the frames of one connection; belongs to one thread."""

    __slots__ = ("_frame", "_payload")

    def __init__(self) -> None:
        self._payload = msgspec.msgpack.Encoder().encode
        self._frame = envelopes.FrameEncoder().encode

    def encode(self, message: Message) -> bytes:
        """The whole frame of ``message``.

        Raises:
            ValueError: its payload is over :data:`CONTROL_MAX`.
        """
        return self._frame(_TYPES[message.__class__], self._payload(message))


def encode_control(message: Message) -> bytes:
    """The whole frame of ``message``; who makes many keeps a :class:`ControlEncoder`.

    Raises:
        ValueError: its payload is over :data:`CONTROL_MAX`.
    """
    return ControlEncoder().encode(message)


def checked_frame(message: Message, most: int) -> bytes:
    """The whole frame of ``message``, which a peer cannot find malformed: msgspec holds a struct to its
    types when it is read, not when it is made.

    Raises:
        UsageError: a field has a wrong type or value, or the payload is over ``most`` bytes.
    """
    name = type(message).__name__
    try:
        payload = _encode_payload(message)
        _DECODE[_TYPES[message.__class__]](payload)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{name}: {error}") from error
    if len(payload) > most:
        raise UsageError(f"{name} has {len(payload)} bytes, over the {most} that a broker takes")
    return envelopes.FrameEncoder().encode(_TYPES[message.__class__], payload)


def decode_control(type: int, payload: bytes | bytearray | memoryview) -> Message:
    """The message in a validated control frame; nothing of it refers to ``payload`` but
    ``Info.data``.

    Raises:
        MalformedInput: no such type (code ``bad_type``), or not a payload of that type
        (``bad_payload``).
    """
    decode = _DECODE.get(type)
    if decode is None:
        raise MalformedInput(f"frame type {type} is not a control frame's", code="bad_type")
    try:
        return decode(payload)
    except (ValueError, RecursionError) as error:
        name = CLASSES[MessageType(type)].__name__
        raise MalformedInput(f"{name}: {error}", code="bad_payload") from error
