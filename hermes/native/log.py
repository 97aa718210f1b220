"""One stream's append-only log: segments in mapped files, or in anonymous memory.

Knows nothing of topics, connections or directories of streams: what a message means, and who may
append, is decided above.  ``hermes/native/include/hm_log.h`` is the contract in full,
``docs/log-format.md`` what stands on disk.

Positions are absolute byte counts over the life of the log; sequences count messages from 1; times
are nanoseconds of the clock that the log's owner passed in.

Threads: one thread owns a log and makes every call; views of its memory may be held, read and
dropped by any, and stay valid after :meth:`Log.trim` and :meth:`Log.close`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntFlag
from pathlib import Path
from typing import Any, NamedTuple

from hermes.base.closing import Closable
from hermes.errors import Closed, MessageTooLarge, StorageDamaged, UsageError
from hermes.native._core import ffi, lib
from hermes.native._errors import check, fail

SEGMENT_BYTES = 32 * 1024 * 1024
"""Size of a segment unless told: large enough that a roll is rare, small enough that retention is
smooth."""
SEGMENT_HEADER: int = lib.HM_LOG_SEGMENT_HEADER
"""Bytes of a segment before its first frame."""
SEGMENT_BYTES_MIN = 2 * SEGMENT_HEADER
INDEX_TICK_NS: int = lib.HM_INDEX_TICK
"""Grain of append times: what :meth:`Log.locate_time` may be early by."""
PUBLISHER_BYTES = 16
VIEWS_MAX = 8
"""Segments whose memory is kept pinned between reads, so that a read need not ask for it again."""
PROGRESS_INTERVAL_S = 0.25

OpenProgress = Callable[[int, int], None]
"""Called with (bytes verified, bytes in all) while a log is opened."""


class Appended(NamedTuple):
    """Place and size of an append."""

    first_sequence: int
    position: int
    messages: int


class Run(NamedTuple):
    """Whole frames of one segment."""

    position: int
    first_sequence: int
    next_sequence: int
    """After the last frame."""
    view: memoryview
    """Read-only log memory; valid for as long as anything refers to it."""


class Hole(NamedTuple):
    """Nothing can be read at a position: go on at ``position``, with ``first_sequence``."""

    position: int
    first_sequence: int
    gone: bool
    """True: retention has passed it; False: what stood there is damaged."""


class Place(NamedTuple):
    """A position and the sequence of the message there (of the next append, at the tail)."""

    position: int
    first_sequence: int


class LogReport(NamedTuple):
    """Findings and repairs of an open; messages and bytes are what is served now."""

    segments: int = 0
    messages: int = 0
    bytes: int = 0
    cut_bytes: int = 0
    """Torn tail cut away."""
    damaged_ranges: int = 0
    """Quarantined, never served."""
    damaged_bytes: int = 0
    missing: int = 0
    """Sequences lost in them."""
    end_missing: int = 0
    """Sequences lost at the end: the log was on disk, or was delivered, beyond where its segments end.
    They count as missing, and are not given to other messages."""
    end_damaged: int = 0
    """1: a copy of the mark that says where the log ended is damaged."""


class LogStatus(NamedTuple):
    """A log's counters and bounds; see ``hm_log_status`` in the header."""

    first_sequence: int
    next_sequence: int
    start_position: int
    end_position: int
    synced_sequence: int
    segments: int
    spares: int
    recycled: int
    trimmed: int
    syncs: int
    appends: int
    pinned: int
    cold_rolls: int
    failed: int
    failed_errno: int
    last_time_ns: int
    hot: int
    """Segments, spares among them, that are written in a slot of the file ``hot``."""
    hot_bytes: int
    """Bytes of slots that the log has."""


class LogEvent(IntFlag):
    """Reasons for which a log's descriptor became readable."""

    SYNC = lib.HM_LOG_EVENT_SYNC
    """A sync ended; whether it succeeded is in the status."""
    SPACE = lib.HM_LOG_EVENT_SPACE
    """Appends were refused for want of space, and there is some now."""


def _options(
    segment_bytes: int,
    retention_bytes: int,
    retention_ns: int,
    disk_bytes: int,
    message_max: int,
    spares: int,
    given_out: int = 0,
    hot_bytes: int = 0,
) -> Any:
    if segment_bytes % SEGMENT_HEADER or not SEGMENT_BYTES_MIN <= segment_bytes < 2**32:
        raise UsageError(
            f"segment_bytes is {segment_bytes}: expected a multiple of {SEGMENT_HEADER}, "
            f"at least {SEGMENT_BYTES_MIN} and under 4 GiB"
        )
    if min(retention_bytes, retention_ns, disk_bytes, spares, hot_bytes) < 0:
        raise UsageError("retention, disk limit, spares and hot memory cannot be negative")
    if spares > lib.HM_LOG_SPARES_MAX:
        raise UsageError(f"{spares} spares: at most {lib.HM_LOG_SPARES_MAX} are kept")
    values = {
        "segment_bytes": segment_bytes,
        "retention_bytes": retention_bytes,
        "retention_ns": retention_ns,
        "disk_bytes": disk_bytes,
        "message_max": message_max,
        "spares": spares,
        "given_out": given_out,
        "hot_bytes": hot_bytes,
    }
    return ffi.new("hm_log_options *", values)


def _read_struct(kind: str, struct: Any) -> list[int]:
    return [getattr(struct, name) for name, _ in ffi.typeof(kind).fields]


class Log(Closable):
    """A log; made by :meth:`open` or :meth:`memory`, closed by :meth:`close` or leaving a
    ``with``."""

    def __init__(self, handle: Any, report: LogReport, name: str, options: Any) -> None:
        """For :meth:`open` and :meth:`memory`: take over an ``hm_log *``."""
        self.segment_bytes = int(options.segment_bytes)
        """Size of a segment, header included."""
        self.retention_bytes = int(options.retention_bytes)
        """Bytes of frames kept; 0: no bound."""
        self.retention_ns = int(options.retention_ns)
        """Age up to which frames are kept; 0: no bound."""
        self._handle = ffi.gc(handle, lib.hm_log_close)
        self._report = report
        self._name = name
        self._views: dict[int, memoryview] = {}
        self._range = ffi.new("hm_range *")
        self._status = ffi.new("hm_log_status *")
        self._origin = ffi.new("hm_origin *")
        self._first = ffi.new("uint64_t[2]")
        self._count = ffi.new("uint32_t *")

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        retention_bytes: int = 0,
        retention_ns: int = 0,
        disk_bytes: int = 0,
        message_max: int = lib.HM_MESSAGE_MAX,
        spares: int = 1,
        given_out: int = 0,
        hot_bytes: int = 0,
        progress: OpenProgress | None = None,
    ) -> Log:
        """Open or create the log in ``directory``, verifying every frame; the caller holds its
        lock.

        Sizes are in bytes; 0 means no bound for ``retention_*`` and for ``disk_bytes`` (what all
        files of the log may take).  ``given_out``: sequences up to here are known to have been
        delivered, and are not given to other messages.  ``hot_bytes``: memory in which busy logs write
        before it is carried to their files, of all logs of this process together; 0: none.
        ``progress`` is called from this thread a few times a second.

        Raises:
            UsageError: an option is out of its bounds.
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened.
        """
        options = _options(
            segment_bytes,
            retention_bytes,
            retention_ns,
            disk_bytes,
            message_max,
            spares,
            given_out,
            hot_bytes,
        )
        report = ffi.new("hm_log_report *")
        log = ffi.new("hm_log **")
        counter = ffi.new("uint64_t *")
        place = str(directory)

        def work() -> int:
            return int(lib.hm_log_open(place.encode(), options, counter, report, log))

        code = work() if progress is None else watched(work, counter, Path(directory), progress)
        if code == -lib.HM_EVERSION:
            raise StorageDamaged(f"{place} was written by a newer Hermes: use that one, or a copy")
        check(code, f"opening the log in {place}")
        return cls(log[0], LogReport(*_read_struct("hm_log_report", report)), place, options)

    @classmethod
    def memory(
        cls,
        *,
        retention_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        retention_ns: int = 0,
        message_max: int = lib.HM_MESSAGE_MAX,
        spares: int = 1,
    ) -> Log:
        """An empty log in anonymous memory, of which at most ``retention_bytes`` (not 0) are kept.

        Raises:
            UsageError: an option is out of its bounds.
            MemoryError: there is none.
        """
        if retention_bytes == 0:
            raise UsageError("a log in memory needs a bound: retention_bytes cannot be 0")
        options = _options(segment_bytes, retention_bytes, retention_ns, 0, message_max, spares)
        log = ffi.new("hm_log **")
        check(lib.hm_log_open_memory(options, log), "making a log in memory")
        return cls(log[0], LogReport(), "memory", options)

    @property
    def handle(self) -> Any:
        """The ``hm_log *``, for other handles of the core; they must be closed before the log.

        Raises:
            Closed: after :meth:`close`.
        """
        if self._handle is None:
            raise Closed(f"the log in {self._name} is closed")
        return self._handle

    @property
    def report(self) -> LogReport:
        """Findings of the open."""
        return self._report

    def status(self) -> LogStatus:
        """Bounds and counters, now."""
        lib.hm_log_status_get(self.handle, self._status)
        return LogStatus(*_read_struct("hm_log_status", self._status))

    def append(
        self,
        frames: bytes | bytearray | memoryview,
        count: int,
        *,
        publisher: bytes | None = None,
        first_sequence: int = 0,
        now_ns: int | None = None,
    ) -> Appended:
        """Append ``count`` whole MESSAGE frames, validated by the caller; returns where they went.

        ``publisher``: its 16-byte id, with ``first_sequence`` its own sequence of the first
        message; the caller has skipped what :meth:`publisher_sequence` says is there already.
        ``now_ns``: the append time, else the clock.

        Raises:
            StorageFull: no space for another segment; nothing was appended unless the message says
            how many, and
                appends work again once there is space.
            StorageFailed: an I/O error; appends are refused until the log is opened again.
            UsageError: not whole frames, or not ``count``.
            MessageTooLarge: a frame is larger than a segment.
        """
        origin = self._origin
        if publisher is None:
            origin = ffi.NULL
        elif len(publisher) != PUBLISHER_BYTES:
            raise UsageError(f"a publisher id has {PUBLISHER_BYTES} bytes, not {len(publisher)}")
        else:
            ffi.buffer(origin.publisher)[:] = publisher
            origin.first_sequence = first_sequence
        first = self._first
        with ffi.from_buffer("uint8_t[]", frames) as data:
            code = lib.hm_log_append(
                self.handle,
                data,
                len(data),
                count,
                origin,
                time.time_ns() if now_ns is None else now_ns,
                first,
                first + 1,
                self._count,
            )
        if code < 0:
            self._refused(code, count)
        return Appended(first[0], first[1], self._count[0])

    def _refused(self, code: int, count: int) -> None:
        done = self._count[0]
        what = f"appending {count} messages to the log in {self._name}"
        if done:
            what += f" (the first {done} are in it)"
        if code == -lib.HM_ELENGTH:
            raise MessageTooLarge(f"{what}: a message is larger than a segment")
        fail(code, what)

    def publisher_sequence(self, publisher: bytes) -> int:
        """The last sequence this log has of ``publisher`` (16 bytes), 0 if it does not remember
        any."""
        if len(publisher) != PUBLISHER_BYTES:
            raise UsageError(f"a publisher id has {PUBLISHER_BYTES} bytes, not {len(publisher)}")
        return int(lib.hm_log_publisher(self.handle, publisher))

    def misses(self, publisher: bytes, sequence: int) -> bool:
        """Whether this log has lost a message that it had of ``publisher``, at or below
        :meth:`publisher_sequence`: sent again, it is no repetition."""
        if len(publisher) != PUBLISHER_BYTES:
            raise UsageError(f"a publisher id has {PUBLISHER_BYTES} bytes, not {len(publisher)}")
        return bool(lib.hm_log_misses(self.handle, publisher, sequence))

    def read(self, position: int, limit: int) -> Run | Hole | None:
        """The longest run of whole frames at ``position`` of at most ``limit`` bytes, but at least
        one frame.

        None at the tail.  A :class:`Hole` where nothing can be read: it says where to go on.

        Raises:
            UsageError: ``position`` is beyond the tail.
        """
        where = self._range
        code = lib.hm_log_read(self.handle, position, limit, where)
        if code == 1:
            view = self.view(where.segment, where.offset, where.size)
            return Run(where.position, where.first_sequence, where.next_sequence, view)
        if code in (-lib.HM_EGONE, -lib.HM_EDAMAGED):
            return Hole(where.position, where.first_sequence, code == -lib.HM_EGONE)
        check(code, f"reading the log in {self._name} at {position}")
        return None

    def view(self, segment: int, offset: int, size: int) -> memoryview:
        """Read-only memory that an ``hm_range`` names; it stays valid for as long as anything
        refers to it.

        Raises:
            UsageError: there is no such segment any more.
        """
        whole = self._views.get(segment)
        if whole is None:
            whole = self._pin(segment)
        return whole[offset : offset + size]

    def _pin(self, base: int) -> memoryview:
        pinned = lib.hm_log_pin(self.handle, base)
        if pinned == ffi.NULL:
            raise UsageError(f"the log in {self._name} has no segment {base}")
        size = ffi.new("uint64_t *")
        memory = lib.hm_segment_memory(pinned, size)
        # The pin hangs on the buffer: whatever was sliced out of it keeps the segment.
        owner = ffi.gc(memory, lambda _: lib.hm_segment_release(pinned))
        view = memoryview(ffi.buffer(owner, size[0])).toreadonly()
        self._forget_views(VIEWS_MAX - 1)
        self._views[base] = view
        return view

    def _forget_views(self, keep: int) -> None:
        """Drop the cached views of retired segments, and the oldest beyond ``keep``."""
        oldest = self.status().first_sequence
        for base in [base for base in self._views if base < oldest]:
            del self._views[base]
        while len(self._views) > keep:
            del self._views[min(self._views)]

    def locate(self, sequence: int) -> Place:
        """The first message with a sequence of at least ``sequence``; the tail if there is none."""
        lib.hm_log_locate(self.handle, max(sequence, 0), self._range)
        return Place(self._range.position, self._range.first_sequence)

    def locate_time(self, time_ns: int) -> Place:
        """The first message appended at ``time_ns`` or later, or up to :data:`INDEX_TICK_NS`
        before; else the tail."""
        lib.hm_log_locate_time(self.handle, max(time_ns, 0), self._range)
        return Place(self._range.position, self._range.first_sequence)

    def newest_time(self) -> int:
        """The time of the newest append, about; 0 if there was none."""
        return int(lib.hm_log_newest_time(self.handle))

    def trim(self, now_ns: int | None = None) -> int:
        """Apply retention now; returns how many segments were retired."""
        retired = lib.hm_log_trim(self.handle, time.time_ns() if now_ns is None else now_ns)
        self._forget_views(VIEWS_MAX)
        return int(retired)

    def sync_begin(self) -> None:
        """Ask for everything appended so far to reach the disk; :meth:`fileno` tells when.

        Raises:
            UsageError: the log is in memory.
            StorageFailed: an earlier sync failed.
        """
        check(lib.hm_log_sync_begin(self.handle), f"syncing the log in {self._name}")

    def sync(self, timeout_ns: int = 2**62) -> None:
        """Wait until everything appended so far is on disk.

        Raises:
            Timeout: not within ``timeout_ns``.
            StorageFailed: this or an earlier sync failed; nothing more can be promised.
            UsageError: the log is in memory.
        """
        code = lib.hm_log_sync_wait(self.handle, timeout_ns)
        check(code, f"syncing the log in {self._name}")

    def fileno(self) -> int:
        """A descriptor that is readable when a sync has ended or space is back; -1 for a log in
        memory."""
        return int(lib.hm_log_fileno(self.handle))

    def events(self) -> LogEvent:
        """Reasons for which the descriptor became readable, since the last call; makes it unreadable."""
        return LogEvent(lib.hm_log_events(self.handle))

    def fail_syncs(self, error: int) -> None:
        """For tests of what depends on a failing disk: make the next syncs fail with this errno; 0:
        no more."""
        lib.hm_log_fault(self.handle, error)

    def fail_carries(self, error: int) -> None:
        """For tests likewise: make the next writes from hot memory to the files fail with this errno;
        0: no more."""
        lib.hm_log_carry_fault(self.handle, error)

    def close(self) -> None:
        """Seal, sync and close; views live on.  Idempotent.

        Raises:
            StorageFailed: the last sync failed: what was not synced before may be lost with the
            power.
        """
        handle, self._handle = self._handle, None
        if handle is None:
            return
        self._views.clear()
        ffi.gc(handle, None)  # closed here, so not once more when it is collected
        check(lib.hm_log_close(handle), f"closing the log in {self._name}")


def watched(work: Callable[[], int], counter: Any, directory: Path, progress: OpenProgress) -> int:
    """Run ``work`` in a thread of its own and report its progress from this one; for this
    package."""
    total = sum(path.stat().st_size for path in directory.glob("*.log"))
    result: list[int] = []
    worker = threading.Thread(target=lambda: result.append(work()), name="hermes-log-open")
    try:
        worker.start()
    except RuntimeError:  # no thread can be had: then without progress
        return work()
    while True:
        worker.join(PROGRESS_INTERVAL_S)
        progress(min(counter[0], total), total)
        if not worker.is_alive():
            return result[0]
