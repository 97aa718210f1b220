"""A connection's bytes on their way through, in both directions, looked at frame by frame.

What is no business of whoever looks passes as it came and in parts; a batch is never held until it is
whole.  Knows frames' headers; what the frames mean is its :class:`Judge`'s business.  Sans-IO.
"""

from __future__ import annotations

import struct
from typing import Protocol

from hermes.native.envelopes import CONTROL_MAX
from hermes.native.frames import BATCH_HEADER_SIZE, HEADER_SIZE, MessageType

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
"""Bytes that are passed where frames were expected: whoever gets them says what is wrong."""


class Judge(Protocol):
    """Who looks."""

    def said(self, kind: int, frame: bytes) -> None:
        """The client sends this control frame; what is to go out instead is his to say."""

    def batch_passes(self, id: int) -> bool:
        """Whether the client is to have a batch of this subscription."""

    def handed_out(self, id: int, stream: int, through: int) -> None:
        """The client has all of a batch."""

    def control_passes(self, kind: int, payload: bytes) -> bool:
        """Whether the client is to have a control frame of the broker's."""


def _size_of(kind: int, payload_len: int) -> int:
    return HEADER_SIZE + (payload_len + 7) // 8 * 8


class Outward:
    """The client's bytes: batches pass, control frames are collected and shown."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._frame = bytearray()
        self._later = bytearray()
        self.queue = bytearray()
        """What goes out before any more of the client's bytes: the owner sends and deletes it."""
        self.passing = 0
        """Bytes of a batch that are still to go out as they come."""

    def say(self, frame: bytes) -> None:
        """Have a whole frame go out as soon as it may stand there."""
        if self.passing:
            self._later += frame
        else:
            self.queue += frame

    def passed(self, size: int) -> None:
        """So many bytes of the batch have gone out."""
        self.passing -= size
        if not self.passing:
            self.queue += self._later
            self._later.clear()

    def collect(self, view: memoryview) -> int:
        """Take the first bytes of ``view``, where no batch is passing; how many."""
        assert not self.passing
        frame = self._frame
        taken = self._extend(view, HEADER_SIZE)
        if len(frame) < HEADER_SIZE:
            return taken
        magic, kind, payload_len = _HEADER.unpack_from(frame)
        if magic != _MAGIC or kind == _BATCH or payload_len > CONTROL_MAX:
            size = _size_of(kind, payload_len) if magic == _MAGIC else _NO_FRAMES
            self.queue += frame
            frame.clear()
            self.passing = size - HEADER_SIZE
            return taken
        size = _size_of(kind, payload_len)
        taken += self._extend(view[taken:], size)
        if len(frame) == size:
            whole = bytes(frame)
            frame.clear()
            self._judge.said(kind, whole)
        return taken

    def _extend(self, view: memoryview, size: int) -> int:
        part = view[: max(0, size - len(self._frame))]
        self._frame += part
        return len(part)


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
        """Where to read more to; not empty after a :meth:`take` that used less than its room."""
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
