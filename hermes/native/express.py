"""A connection's common round in one call: read, feed, acknowledge, deliver, send.

A thin handle of ``hm_express.h``, which is the contract.  Knows no protocol state: whoever runs it
has made sure that there is nothing but the common case to do.  Threads: the one that owns the
ingest and the cursors.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes.native._core import ffi, lib
from hermes.native._errors import check

if TYPE_CHECKING:
    from hermes.native.stream import Cursor, Ingest, Stream

READ_SIZE: int = lib.HM_EXPRESS_READ
"""Bytes of the buffer a run reads into."""
CURSORS_MAX: int = lib.HM_EXPRESS_CURSORS_MAX
INPUT: int = lib.HM_EXPRESS_INPUT
ENDED: int = lib.HM_EXPRESS_ENDED
WORK: int = lib.HM_EXPRESS_WORK

_LEVELS = {"none": lib.HM_LEVEL_NONE, "appended": lib.HM_LEVEL_APPENDED}
_RESULT = struct.Struct("=13QIiQIi")
_HAND_OUT = struct.Struct("=5Q2i")
_HANDED_OUT = struct.Struct("=24x2Q4xi")


class Result(NamedTuple):
    """What a run came to; see ``hm_express_result``."""

    received: int
    sent: int
    rounds: int
    messages: int
    batches: int
    duplicates: int
    deliveries: int
    moved: int
    size: int
    unsent: int
    out_size: int
    gap_first: int
    gap_last: int
    gap_cursor: int
    gap_reason: int
    again: int
    touched: int
    why: int


class Express:
    """One connection's; ``ingest`` is borrowed."""

    def __init__(self, ingest: Ingest) -> None:
        handle = lib.hm_express_new(ingest.handle)
        if handle == ffi.NULL:
            raise MemoryError("no memory for a connection")
        self._handle = ffi.gc(handle, lib.hm_express_free)
        self.address = int(ffi.cast("uintptr_t", handle))
        """For :class:`HandOut`."""
        self.feed = ffi.new("hm_feed *")
        """What the last run's last read came to."""
        self._range = ffi.new("hm_range *")
        self._result = ffi.new("hm_express_result *")
        self._result_view = ffi.buffer(self._result)

    def set_level(self, publisher: int, level: str) -> None:
        """Acknowledge ``publisher`` here if its level is ``appended`` or ``none``, else hand it
        back."""
        code = lib.hm_express_level(self._handle, publisher, _LEVELS.get(level, lib.HM_LEVEL_OTHER))
        check(code, f"opening publisher {publisher}")

    def forget(self, publisher: int) -> None:
        """``publisher`` is closed."""
        lib.hm_express_level(self._handle, publisher, lib.HM_LEVEL_OTHER)

    def add(self, stream: Stream, cursor: Cursor, index: int) -> int:
        """Serve ``cursor``; returns its number.

        Raises:
            Refused: there are :data:`CURSORS_MAX` already.
        """
        code = lib.hm_express_add(self._handle, stream.handle, cursor.handle, index)
        return check(code, "serving a cursor")

    def remove(self, number: int) -> None:
        """Serve cursor ``number`` no more."""
        lib.hm_express_remove(self._handle, number)

    def run(
        self, fd: int, epoll_fd: int, buffer: Any, shared: int, spin_ns: int, bound_ns: int
    ) -> Result:
        """Do rounds until there is a reason to come back; ``buffer`` is the address of its
        memory."""
        lib.hm_express_run(
            self._handle, fd, epoll_fd, buffer, shared, spin_ns, bound_ns, self.feed, self._result
        )
        return Result._make(_RESULT.unpack_from(self._result_view))

    def run_medium(
        self,
        medium: int,
        fd: int,
        epoll_fd: int,
        buffer: Any,
        shared: int,
        spin_ns: int,
        bound_ns: int,
    ) -> Result:
        """Likewise over the ``hm_medium`` at the address ``medium``."""
        lib.hm_express_run_medium(
            self._handle,
            ffi.cast("hm_medium *", medium),
            fd,
            epoll_fd,
            buffer,
            shared,
            spin_ns,
            bound_ns,
            self.feed,
            self._result,
        )
        return Result._make(_RESULT.unpack_from(self._result_view))

    def touched(self, count: int) -> list[tuple[int, int, int]]:
        """(publisher, through, streams) of those the last run handed back."""
        items = lib.hm_express_touched(self._handle)
        return [(items[i].publisher, items[i].through, items[i].streams) for i in range(count)]

    def unsent(self, result: Result) -> bytes:
        """The output of the last run that the socket did not take."""
        start = lib.hm_express_output(self._handle) + result.out_size - result.unsent
        return bytes(ffi.buffer(start, result.unsent))

    def left(self) -> tuple[Result, tuple[int, int, int]]:
        """After a hand-out that was special: what it came to, and (segment, offset, size) of the
        log memory that comes behind the unsent output; see ``hm_express_left``."""
        lib.hm_express_left(self._handle, self._result, self._range)
        found = self._range
        return (
            Result._make(_RESULT.unpack_from(self._result_view)),
            (found.segment, found.offset, found.size),
        )


class HandOut:
    """Serves many connections in one call: what their cursors have goes to their sockets."""

    def __init__(self) -> None:
        self._capacity = 0
        self._reserve(64)

    def run(self, wanted: list[tuple[int, int, int, int]], now_ns: int) -> Iterator[Any]:
        """(bytes sent, deliveries, whether something special is left) for each of ``wanted``, which
        has (address of its express, seats, medium, fd)."""
        count = len(wanted)
        if count > self._capacity:
            self._reserve(2 * count)
        view, offset, pack = self._view, 0, _HAND_OUT.pack_into
        for express, seats, medium, fd in wanted:
            pack(view, offset, express, seats, medium, 0, 0, fd, 0)
            offset += _HAND_OUT.size
        lib.hm_express_hand_out(self._items, count, now_ns)
        return _HANDED_OUT.iter_unpack(view[:offset])

    def _reserve(self, capacity: int) -> None:
        self._items = ffi.new("hm_hand_out[]", capacity)
        self._view = memoryview(ffi.buffer(self._items))
        self._capacity = capacity
