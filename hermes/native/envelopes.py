"""Envelopes: whole control frames and batches in a connection's bytes.

Knows no message, state or socket.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from hermes.native import _errors
from hermes.native._core import ffi, lib
from hermes.native.api import envelope
from hermes.native.frames import HEADER_SIZE

CONTROL_MAX: int = lib.HM_CONTROL_MAX
"""Bytes of a control frame's payload."""

FRAME_VERSION: int = lib.HM_FRAME_VERSION

# What the core finds wrong, as positive numbers.
EMAGIC: int = lib.HM_EMAGIC
EVERSION: int = lib.HM_EVERSION
ETYPE: int = lib.HM_ETYPE
EFLAGS: int = lib.HM_EFLAGS
ELENGTH: int = lib.HM_ELENGTH
EPADDING: int = lib.HM_EPADDING
ECRC: int = lib.HM_ECRC
ETOPIC: int = lib.HM_ETOPIC
ESEQUENCE: int = lib.HM_ESEQUENCE
EUNKNOWN: int = lib.HM_EUNKNOWN
ELIMIT: int = lib.HM_ELIMIT
ENOSPACE: int = lib.HM_ENOSPACE
EFILES: int = lib.HM_EFILES
EMAPS: int = lib.HM_EMAPS
EFSIZE: int = lib.HM_EFSIZE
EIO: int = lib.HM_EIO
EDENIED: int = lib.HM_EDENIED

Buffer = bytes | bytearray | memoryview
"""Types that input is read from."""
Address = Any
"""A ``uint8_t *`` of cffi: memory that its owner keeps alive."""

_SMALL = 512
"""Bytes of a small control frame: all but Hello with credentials, positions and answers."""
_ENVELOPE = struct.Struct("<QQQQIIIi")
_PAYLOAD_LEN = struct.Struct("<I")


class Envelope(NamedTuple):
    """An envelope at a place in the input; which fields mean something depends on ``kind``."""

    size: int
    """Bytes of the whole frame."""
    after: int
    through: int
    needed: int
    """Kind 0: bytes that must be there, from the place on, before it is worth asking again."""
    id: int
    stream: int
    payload_len: int
    kind: int
    """The frame's type; 0: the input ends before the frame does; negative: ``-HM_E*``,
    malformed."""


class EnvelopeReader:
    """Finds the frames in a connection's bytes, under its limits."""

    __slots__ = ("_envelope", "_next", "_view", "batch_max", "control_max")

    def __init__(self, *, control_max: int, batch_max: int) -> None:
        self.control_max = control_max
        self.batch_max = batch_max
        self._envelope = ffi.new("hm_envelope *")
        self._view = ffi.buffer(self._envelope)
        self._next = lib.hm_envelope_next

    def read(self, buffer: Buffer, start: int, end: int) -> tuple[int, ...]:
        """Describe the frame at ``start`` of ``buffer``, as the fields of :class:`Envelope`.

        Keeps the GIL: giving it up would cost more than reading does.
        """
        return envelope(buffer, start, end, self.control_max, self.batch_max)

    def read_at(self, address: Address, size: int) -> Envelope:
        """Describe the frame at ``address``, of which ``size`` bytes are there."""
        self._next(address, 0, size, self.control_max, self.batch_max, self._envelope)
        return Envelope._make(_ENVELOPE.unpack(self._view))


class FrameEncoder:
    """Makes control frames, the small ones without asking for memory each time.

    Belongs to one thread.
    """

    __slots__ = ("_encode", "_null", "_out", "_view")

    def __init__(self) -> None:
        self._out = ffi.new("uint8_t[]", _SMALL)
        self._view = ffi.buffer(self._out)
        self._encode = lib.hm_frame_encode
        self._null = ffi.NULL

    def encode(self, kind: int, payload: bytes) -> bytes:
        """One control frame.

        Raises:
            ValueError: the payload is over :data:`CONTROL_MAX`.
        """
        null, size = self._null, len(payload)
        if size > _SMALL - HEADER_SIZE:
            return self._encode_large(kind, payload)
        end = self._encode(self._out, _SMALL, kind, null, 0, null, 0, payload, size, 0, 0)
        frame: bytes = self._view[:end]
        return frame

    def _encode_large(self, kind: int, payload: bytes) -> bytes:
        size = len(payload)
        if size > CONTROL_MAX:
            raise ValueError(f"a control frame holds {CONTROL_MAX} bytes, not {size}")
        null, capacity = self._null, lib.hm_frame_size(0, 0, size)
        out = ffi.new("uint8_t[]", capacity)
        written = self._encode(out, capacity, kind, null, 0, null, 0, payload, size, 0, 0)
        assert written == capacity
        return bytes(ffi.buffer(out))


def control_at(address: Address, offset: int, size: int) -> tuple[int, int, bytes]:
    """Type, flags and payload of the validated control frame of ``size`` bytes at ``address +
    offset``."""
    frame = bytes(ffi.buffer(address + offset, size))
    (payload_len,) = _PAYLOAD_LEN.unpack_from(frame, 24)
    flags = frame[6] | frame[7] << 8
    return frame[5], flags, frame[HEADER_SIZE : HEADER_SIZE + payload_len]


def type_at(address: Address, offset: int) -> int:
    """Type of the frame at ``address + offset``, of which the header is there."""
    kind: int = address[offset + 5]
    return kind


def topic_at(address: Address, offset: int) -> str:
    """Topic of the validated message at ``address + offset``."""
    size: int = address[offset + 6]
    return bytes(ffi.buffer(address + offset + HEADER_SIZE, size)).decode()


def error_text(error: int) -> str:
    """A sentence for one of the core's numbers, positive or negative."""
    return _errors.text(error)


def address_of(buffer: Buffer) -> Address:
    """Where ``buffer`` lies; keeps it alive, and from being resized, as long as the address is
    held."""
    return ffi.from_buffer("uint8_t[]", buffer)
