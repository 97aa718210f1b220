"""A connection's bytes on their way through, in both directions, looked at frame by frame.

Frames without interest pass as they came and in parts; a batch is never held until it is
whole.  Knows frames' headers; what the frames mean is its :class:`Judge`'s business.  Sans-IO.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

from hermes.errors import ConnectionLost
from hermes.native.frames import BATCH_HEADER_SIZE, HEADER_SIZE, MessageType
from hermes_udp.native import ffi, lib

INWARD_SIZE = 262144
"""Bytes read from the broker at once, at most."""
WHOLE = frozenset(
    {
        int(MessageType.UNSUBSCRIBE),
        int(MessageType.STREAM),
        int(MessageType.GAP),
        int(MessageType.PONG),
        int(MessageType.ERROR),
        int(MessageType.CLOSE),
    }
)
"""The broker's control frames that are shown; larger than :data:`INWARD_SIZE` none of them is."""

_BATCH = int(MessageType.BATCH)
_MAGIC = b"HRMS"
_HEADER = struct.Struct("<4sxB18xI")
_PREFIX = struct.Struct("<IIQQ")
_NO_FRAMES = 1 << 63
"""Bytes that are passed where frames were expected: their receiver says what is wrong."""


class Judge(Protocol):
    """The one that decides what the client gets."""

    def batch_passes(self, id: int) -> bool:
        """Whether the client is to have a batch of this subscription."""

    def handed_out(self, id: int, stream: int, through: int) -> None:
        """The client has all of a batch."""

    def control_passes(self, kind: int, payload: bytes) -> bool:
        """Whether the client is to have a control frame of the broker's."""


def _size_of(kind: int, payload_len: int) -> int:
    return HEADER_SIZE + (payload_len + 7) // 8 * 8


class Outward:
    """The client's bytes on their way out: a thin handle over ``hu_outward.h``, which is the contract.

    For the owner of a :class:`Judge`; the sending thread calls the native side.
    """

    def __init__(self) -> None:
        self.handle = ffi.gc(lib.hu_outward_new(), lib.hu_outward_free)
        if self.handle == ffi.NULL:
            raise ConnectionLost("no memory for a multicast group")
        self._place = ffi.new("uint8_t[]", lib.HU_NOTE_MAX)

    def say(self, frame: bytes) -> bool:
        """Have a whole frame go out as soon as it may stand there; False: there is no room."""
        return bool(lib.hu_outward_say(self.handle, frame, len(frame)))

    def take(self, frame: bytes) -> bool:
        """Have an Unsubscribe go out so, which the client's own will not follow; False: not now."""
        return bool(lib.hu_outward_take(self.handle, frame, len(frame)))

    def forget(self, frame: bytes) -> None:
        """Forget what :meth:`take` was given: it has ended without that."""
        lib.hu_outward_forget(self.handle, frame, len(frame))

    def read(self) -> Iterator[bytes | None]:
        """Frames with which the client has begun and ended something; None: some of them are not known."""
        while size := lib.hu_outward_read(self.handle, self._place):
            yield None if size < 0 else bytes(ffi.buffer(self._place, size))


class Inward:
    """The broker's bytes: what the client is not to see is left out."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._buffer = bytearray(INWARD_SIZE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._left = 0
        self._passes = True
        self._batch: tuple[int, int, int] | None = None

    @property
    def border(self) -> bool:
        """Whether the client has whole frames only."""
        return not (self._left and self._passes)

    def room(self) -> memoryview:
        """Memory to read more to; not empty after a :meth:`take` that used less than its room."""
        if self._start:
            held = self._end - self._start
            self._view[:held] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, held
        return self._view[self._end :]

    def filled(self, size: int) -> None:
        """So many bytes were read."""
        self._end += size

    def take(self, out: memoryview) -> int:
        """Hand on what passes; how many bytes."""
        written = 0
        while self._left or self._begin():
            size = min(self._left, self._end - self._start)
            if self._passes:
                size = min(size, len(out) - written)
                out[written : written + size] = self._view[self._start : self._start + size]
                written += size
            self._start += size
            self._left -= size
            if self._left:
                break
            if self._passes and self._batch is not None:
                self._judge.handed_out(*self._batch)
        return written

    def _begin(self) -> bool:
        """Look at the next frame; False: not enough of it is there."""
        start, there = self._start, self._end - self._start
        if there < HEADER_SIZE:
            return False
        magic, kind, payload_len = _HEADER.unpack_from(self._buffer, start)
        size = _size_of(kind, payload_len) if magic == _MAGIC else _NO_FRAMES
        self._batch, passes = None, True
        if kind == _BATCH and magic == _MAGIC:
            if there < BATCH_HEADER_SIZE:
                return False
            id, stream, _, through = _PREFIX.unpack_from(self._buffer, start + HEADER_SIZE)
            self._batch = (id, stream, through)
            passes = self._judge.batch_passes(id)
        elif kind in WHOLE and size <= INWARD_SIZE:
            if there < size:
                return False
            begin = start + HEADER_SIZE
            payload = bytes(self._view[begin : begin + payload_len])
            passes = self._judge.control_passes(kind, payload)
        self._left, self._passes = size, passes
        return True
