"""The broker's end of connections: what their cursors deliver, and what waits to be sent.

A :class:`Conn` is one connection's, the :class:`Conns` are one listener's.  Thin handles of
``hm_conn.h``, which is the contract; they know no protocol state: what is to be said is put in by
the broker.  Threads: the one that owns the streams; the memory of views may be let go of in any.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes.base.closing import Closable
from hermes.errors import Closed
from hermes.native._core import ffi, lib
from hermes.native._errors import check

if TYPE_CHECKING:
    from hermes.native.stream import Cursor, Ingest

READ_SIZE: int = lib.HM_CONN_READ
"""Bytes of the buffer that :meth:`Conn.serve` reads into."""
PIECES_MAX: int = lib.HM_CONN_PIECES_MAX
FLUSHED_AT_ONCE = 256

DONE: int = lib.HM_PULL_DONE
LIMIT: int = lib.HM_PULL_LIMIT
AGAIN: int = lib.HM_PULL_AGAIN
GAP: int = lib.HM_PULL_GAP
COLD: int = lib.HM_PULL_COLD
FULL: int = lib.HM_PULL_FULL
LOST: int = lib.HM_PULL_LOST

INPUT: int = lib.HM_SERVE_INPUT
ENDED: int = lib.HM_SERVE_ENDED
WORK: int = lib.HM_SERVE_WORK

_LEVELS = {"none": lib.HM_LEVEL_NONE, "appended": lib.HM_LEVEL_APPENDED}
_NO_MEDIUM = ffi.NULL
_SERVED = struct.Struct("=7QIi")
_VIEW = struct.Struct("=5Q")


class Rounds(NamedTuple):
    """Result of :meth:`Conn.serve`; see ``hm_served``."""

    received: int
    rounds: int
    messages: int
    batches: int
    duplicates: int
    held: int
    size: int
    touched: int
    why: int


class MissingMessages(NamedTuple):
    """Messages that a subscription cannot have; see ``hm_gap``."""

    first: int
    last: int
    subscription: int
    stream: int
    reason: int


class ConnStatus(NamedTuple):
    """Counters of a connection; see ``hm_conn_status``."""

    sent: int
    deliveries: int
    waiting: int
    in_flight: int


class Conns:
    """The connections of one listener: memory for what they send, and those that may have something."""

    def __init__(self) -> None:
        handle = lib.hm_conns_new()
        if handle == ffi.NULL:
            raise MemoryError("no memory for a listener's connections")
        self.handle = ffi.gc(handle, lib.hm_conns_free)
        self.views = ffi.new("hm_view[]", PIECES_MAX)
        self.views_memory = memoryview(ffi.buffer(self.views))
        self.came_to = ffi.new("int *")
        self._numbers = ffi.new("uint64_t[]", FLUSHED_AT_ONCE)
        self._chunk = 0
        self._chunk_view = memoryview(b"")

    def flush(self) -> list[int]:
        """Send what the connections that were woken have, as far as their sockets are attached;
        returns the numbers of those that need Python."""
        found: list[int] = []
        while True:
            count = lib.hm_conns_flush(self.handle, self._numbers, FLUSHED_AT_ONCE)
            if count:
                found += ffi.unpack(self._numbers, count)
            if count < FLUSHED_AT_ONCE:
                return found

    def in_chunk(self, address: int) -> memoryview:
        """The memory of the ``hm_chunk`` there, which lives as long as anything refers to the view."""
        if address != self._chunk:
            chunk = ffi.cast("hm_chunk *", address)
            size = ffi.new("uint64_t *")
            memory = lib.hm_chunk_hold(chunk, size)
            owner = ffi.gc(memory, lambda _: lib.hm_chunk_release(chunk))
            self._chunk_view = memoryview(ffi.buffer(owner, size[0])).toreadonly()
            self._chunk = address
        return self._chunk_view


def in_segment(address: int, data: int, size: int) -> memoryview:
    """Memory of the pinned ``hm_segment`` there, which lives as long as anything refers to the view."""
    segment = ffi.cast("hm_segment *", address)
    lib.hm_segment_retain(segment)
    owner = ffi.gc(ffi.cast("uint8_t *", data), lambda _: lib.hm_segment_release(segment))
    return memoryview(ffi.buffer(owner, size)).toreadonly()


class Conn(Closable):
    """One connection's.  ``conns`` and ``ingest`` are borrowed: close it before them; ``number`` is
    the connection's, for :meth:`Conns.flush`."""

    def __init__(self, conns: Conns, ingest: Ingest, number: int) -> None:
        handle = lib.hm_conn_new(conns.handle, ingest.handle, number)
        if handle == ffi.NULL:
            raise MemoryError("no memory for a connection")
        self._handle = handle
        self._conns = conns
        self._cursors: set[Cursor] = set()
        self.feed = ffi.new("hm_feed *")
        """Result of feeding the last read of the last :meth:`serve`."""
        self._served = ffi.new("hm_served *")
        self._served_memory = ffi.buffer(self._served)

    @property
    def handle(self) -> Any:
        """The ``hm_conn *``.

        Raises:
            Closed: after :meth:`close`.
        """
        if self._handle is None:
            raise Closed("the connection is closed")
        return self._handle

    # Deliveries.

    def add(self, cursor: Cursor) -> None:
        """Deliver from ``cursor``."""
        self._cursors.add(cursor)
        lib.hm_conn_add(self.handle, cursor.handle)

    def remove(self, cursor: Cursor) -> None:
        """Deliver from ``cursor`` no more.  Does nothing if it was not added, or is closed."""
        if cursor in self._cursors:
            self._cursors.remove(cursor)
            if not cursor.closed:
                lib.hm_conn_remove(cursor.handle)

    def set_level(self, publisher: int, level: str) -> None:
        """Acknowledge ``publisher`` natively if its level is ``appended`` or ``none``, else hand it
        back.

        Raises:
            Refused: there are as many publishers as there may be.
        """
        code = lib.hm_conn_level(self.handle, publisher, _LEVELS.get(level, lib.HM_LEVEL_OTHER))
        check(code, f"opening publisher {publisher}")

    def put(self, frames: bytes) -> None:
        """Put control frames behind what waits."""
        check(lib.hm_conn_put(self.handle, frames, len(frames)), "keeping output")

    def hold(self) -> None:
        """Let nothing leave by itself until the next :meth:`pull` or :meth:`flush`: there is something
        to be put in first."""
        lib.hm_conn_hold(self.handle)

    def stop(self) -> None:
        """Deliver nothing any more."""
        lib.hm_conn_stop(self.handle)

    @property
    def busy(self) -> bool:
        """Whether a cursor may have something, or output waits."""
        return bool(lib.hm_conn_busy(self.handle))

    def pull(self, limit: int) -> int:
        """Take what the cursors have, until ``limit`` bytes wait; returns :data:`DONE`,
        :data:`LIMIT`, :data:`AGAIN`, :data:`GAP` or :data:`COLD`.

        Raises:
            StorageFailed: a log cannot be read.
            MemoryError: there is none for output.
        """
        came_to = int(lib.hm_conn_pull(self._handle, limit))
        return came_to if came_to >= 0 else check(came_to, "reading a stream")

    @property
    def choked(self) -> bool:
        """Whether as much is in flight as may be: nothing is pulled until some is released."""
        return bool(lib.hm_conn_choked(self._handle))

    def gap(self) -> MissingMessages:
        """After :data:`GAP`: the messages that cannot be had."""
        found = ffi.new("hm_gap *")
        lib.hm_conn_gap(self.handle, found)
        return MissingMessages(
            found.first, found.last, found.subscription, found.stream, found.reason
        )

    def cold(self) -> tuple[int, int]:
        """After :data:`COLD`: the stream, and the position in it, that is to be brought into memory
        (:meth:`hermes.native.window.Window.fill`)."""
        position = ffi.new("uint64_t *")
        return int(lib.hm_conn_cold(self.handle, position)), int(position[0])

    def status(self) -> ConnStatus:
        """Counters, now."""
        found = ffi.new("hm_conn_status *")
        lib.hm_conn_status_get(self.handle, found)
        return ConnStatus(found.sent, found.deliveries, found.waiting, found.in_flight)

    # For media that Python moves.

    def views(self) -> list[memoryview]:
        """Return what waits, oldest first: read-only memory, which lives as long as anything refers to
        it."""
        return self._views(lib.hm_conn_views(self._handle, self._conns.views))

    def take(self, limit: int) -> tuple[int, list[memoryview]]:
        """Pull if nothing waits; returns as :meth:`pull`, and :meth:`views`.

        Raises:
            StorageFailed, MemoryError: as :meth:`pull`.
        """
        conns = self._conns
        count = lib.hm_conn_take(self._handle, limit, conns.views, conns.came_to)
        came_to: int = conns.came_to[0]
        if came_to < 0:
            check(came_to, "reading a stream")
        return came_to, self._views(count)

    def _views(self, count: int) -> list[memoryview]:
        conns = self._conns
        return [
            conns.in_chunk(chunk)[offset : offset + size]
            if chunk
            else in_segment(segment, data, size)
            for data, size, chunk, segment, offset in _VIEW.iter_unpack(
                conns.views_memory[: count * _VIEW.size]
            )
        ]

    def advance(self, size: int) -> None:
        """The medium has taken the oldest ``size`` bytes of what waits."""
        lib.hm_conn_advance(self._handle, size)

    def release(self, size: int) -> None:
        """The medium needs the oldest ``size`` bytes that it has taken no more."""
        lib.hm_conn_release(self._handle, size)

    def unpin(self) -> int:
        """Copy what refers to log memory if nothing has moved since the last call; returns the bytes
        copied."""
        return int(lib.hm_conn_unpin(self.handle))

    # For stream sockets.

    def attach(self, fd: int, sends: int = 0) -> None:
        """Send to the non-blocking stream socket ``fd`` from now on; what is small, and flushed with
        that of others, by the ``hm_sends`` at the address ``sends``, unless that is 0."""
        lib.hm_conn_attach(self.handle, fd, ffi.cast("hm_sends *", sends))

    def flush(self) -> int:
        """Pull and send; returns and raises as :meth:`pull`, or returns :data:`FULL` or
        :data:`LOST`."""
        came_to = int(lib.hm_conn_flush(self._handle))
        return came_to if came_to >= 0 else check(came_to, "reading a stream")

    @property
    def error(self) -> int:
        """After :data:`LOST`: the number of the system's error."""
        return int(lib.hm_conn_error(self.handle))

    # The common round.

    def serve(
        self,
        fd: int,
        medium: int,
        watch_fd: int,
        buffer: Any,
        spin_ns: int,
        bound_ns: int,
    ) -> Rounds:
        """Read, feed, acknowledge, deliver and send, until there is a reason to come back; see
        ``hm_conn_serve``.  ``medium``: address of an ``hm_medium``, 0: ``fd`` is a stream socket.
        ``buffer``: where :data:`READ_SIZE` bytes are."""
        lib.hm_conn_serve(
            self._handle,
            fd,
            ffi.cast("hm_medium *", medium) if medium else _NO_MEDIUM,
            watch_fd,
            buffer,
            spin_ns,
            bound_ns,
            self.feed,
            self._served,
        )
        return Rounds._make(_SERVED.unpack_from(self._served_memory))

    def touched(self, count: int) -> list[tuple[int, int, int]]:
        """(publisher, through, streams) of those that the last :meth:`serve` handed back."""
        items = lib.hm_conn_touched(self.handle)
        return [(items[i].publisher, items[i].through, items[i].streams) for i in range(count)]

    def close(self) -> None:
        """Forget what waits, and deliver from no cursor.  Idempotent."""
        if self._handle is None:
            return
        for cursor in list(self._cursors):
            self.remove(cursor)
        handle, self._handle = self._handle, None
        lib.hm_conn_free(handle)
