"""One stream in a SQLite database: a row for every run of messages that one publisher sent.

See :class:`hermes.spi.storage.StreamLog` for the contract.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes.base.platform import EventDescriptor
from hermes.errors import Closed, MalformedInput, StorageDamaged, StorageFailed, UsageError
from hermes.native.decoder import FrameIndex, decode
from hermes.native.frames import STORED_MAX
from hermes.native.log import INDEX_TICK_NS, Appended, Hole, LogEvent, Place, Run
from hermes_sqlitelog.database import errors, transaction

if TYPE_CHECKING:
    from hermes.spi.storage import LogSettings

NOBODY = bytes(16)
ROWS_AT_ONCE = 256
"""Rows that one read joins at most."""
TRIM_ROWS = 8192
"""Rows that one trim deletes at most: some milliseconds."""
PUBLISHERS_MAX = 65536
"""Publishers remembered per stream.  With more, the longest silent of the identity that has most goes
first if it has over OWNER_SHARE, else the longest silent of all."""
OWNER_SHARE = 1024
"""Publishers of an identity that the others' never make room for."""
OWNED_MARK = "f50e"
"""Begins the ids of publishers that belong to an identity; the owner's tag of two bytes follows."""
FORGET_PUBLISHERS = f"""
DELETE FROM publisher WHERE stream = :stream AND publisher IN (
    SELECT publisher FROM (
        SELECT publisher, seen_sequence, CASE
            WHEN hex(substr(publisher, 1, 2)) <> '{OWNED_MARK.upper()}' THEN 0
            ELSE max(0, row_number() OVER (
                PARTITION BY substr(publisher, 1, 4) ORDER BY seen_sequence DESC) - :share)
            END AS beyond
        FROM publisher WHERE stream = :stream)
    ORDER BY beyond, seen_sequence DESC LIMIT -1 OFFSET :most)
"""
BACK_SLACK_NS = 1_000_000_000
"""Append times are held when the clock goes back by no more than this."""
ROW = "first_sequence, messages, position, size, time_ns, publisher, publisher_first, crc, frames"
_NUMBERS = struct.Struct("<7q")
_TAIL = struct.Struct("<2q")


class Row(NamedTuple):
    """A row of the table ``batch``, but for its stream."""

    first_sequence: int
    messages: int
    position: int
    size: int
    time_ns: int
    publisher: bytes
    publisher_first: int
    crc: int
    frames: bytes

    @classmethod
    def of(cls, columns: tuple[Any, ...]) -> Row:
        """The row with these columns.  Damage may have left any type in any of them: then it is a row
        without frames, whose checksum is wrong."""
        *numbers, frames = columns[:5] + columns[6:]
        if all(isinstance(number, int) for number in numbers) and (
            isinstance(columns[5], bytes) and isinstance(frames, bytes)
        ):
            return cls(*columns)
        first, _, position = (n if isinstance(n, int) else 0 for n in numbers[:3])
        return cls(first, 0, position, 0, 0, b"", 0, -1, b"")

    @property
    def next_sequence(self) -> int:
        """After its last message."""
        return self.first_sequence + self.messages

    @property
    def end(self) -> int:
        """Position after its last message."""
        return self.position + self.size


@dataclass(slots=True)
class State:
    """See :class:`hermes.spi.storage.LogState`."""

    first_sequence: int
    next_sequence: int
    start_position: int
    end_position: int
    synced_sequence: int


def row_crc(stream: int, row: tuple[int, int, int, int, int, bytes, int]) -> int:
    """Over the columns before ``crc``."""
    first, messages, position, size, time_ns, publisher, publisher_first = row
    numbers = (stream, first, messages, position, size, time_ns, publisher_first)
    return zlib.crc32(publisher, zlib.crc32(_NUMBERS.pack(*numbers)))


def tail_crc(name: str, next_sequence: int, end_position: int) -> int:
    """Over a row of the table ``stream``."""
    return zlib.crc32(name.encode(), zlib.crc32(_TAIL.pack(next_sequence, end_position)))


class SqliteLog:
    """One stream's log."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        name: str,
        settings: LogSettings,
        *,
        sync: Callable[[Callable[[OSError | None], None]], None],
        written: Callable[[], None],
    ) -> None:
        """Open or create stream ``name``.

        ``sync``: asks for a sync of the database; ``written``: called after every append.

        Raises:
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened.
        """
        self._database = connection
        self._name = name
        self._settings = settings
        self._ask_sync = sync
        self._written = written
        self._failure: str | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._events = LogEvent(0)
        self._synced = 0
        self._event: EventDescriptor | None = None
        self._id, next_sequence, end_position = self._enter()
        self._state = State(next_sequence, next_sequence, end_position, end_position, 0)
        self._find_start()
        newest = self._row("first_sequence >= ? ORDER BY first_sequence DESC", 0)
        self._newest_ns = 0 if newest is None or not self._is_sound(newest) else newest.time_ns
        self._newest_ns = min(self._newest_ns, time.time_ns())
        # What was committed before is synced by the first sync; who asks is not told before.
        self._event = EventDescriptor()

    # Writing.

    def append(
        self,
        frames: memoryview,
        count: int,
        *,
        publisher: bytes | None = None,
        first_sequence: int = 0,
        now_ns: int | None = None,
    ) -> Appended:
        """One row, in one transaction."""
        state = self._opened()
        if self._failure is not None:
            raise StorageFailed(self._failure)
        what = f"appending to stream {self._name!r}"
        size = len(frames)
        number, position = state.next_sequence, state.end_position
        who = publisher or NOBODY
        now_ns = self._time(time.time_ns() if now_ns is None else now_ns)
        columns = (number, count, position, size, now_ns, who, first_sequence)
        tail = (number + count, position + size)
        with transaction(self._database, what) as database:
            database.execute(
                f"INSERT INTO batch (stream, {ROW}) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (self._id, *columns, row_crc(self._id, columns), frames),
            )
            if publisher is not None:
                database.execute(
                    "INSERT INTO publisher VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET "
                    "last = excluded.last, seen_sequence = excluded.seen_sequence",
                    (self._id, who, first_sequence + count - 1, number),
                )
            database.execute(
                "UPDATE stream SET next_sequence = ?, end_position = ?, crc = ? WHERE id = ?",
                (*tail, tail_crc(self._name, *tail), self._id),
            )
        state.next_sequence, state.end_position = tail
        self._written()
        return Appended(number, position, count)

    def trim(self, now_ns: int | None = None) -> int:
        """Delete the oldest rows that retention has passed."""
        state, keep = self._opened(), self._settings
        if state.first_sequence == state.next_sequence:
            return 0
        before = state.start_position
        bounds = []
        if keep.retention_bytes:
            bounds.append(state.end_position - keep.retention_bytes)
        if keep.retention_ns:
            now_ns = time.time_ns() if now_ns is None else now_ns
            # A row may hold messages up to a tick younger than it says.
            bounds.append(self._end_of_old(now_ns - keep.retention_ns - INDEX_TICK_NS))
        with transaction(self._database, f"trimming stream {self._name!r}") as database:
            for bound in bounds:
                database.execute(
                    "DELETE FROM batch WHERE rowid IN (SELECT rowid FROM batch WHERE stream = ? "
                    "AND position < ? ORDER BY first_sequence LIMIT ?)",
                    (self._id, bound, TRIM_ROWS),
                )
            self._forget_publishers(database)
        self._find_start()
        return int(state.start_position != before)

    def _forget_publishers(self, database: sqlite3.Connection) -> None:
        counted = "SELECT count(*) FROM publisher WHERE stream = ?"
        (known,) = database.execute(counted, (self._id,)).fetchone()
        if known > PUBLISHERS_MAX:
            most = {"stream": self._id, "share": OWNER_SHARE, "most": PUBLISHERS_MAX}
            database.execute(FORGET_PUBLISHERS, most)

    # Reading.

    def status(self) -> State:
        """Bounds, now."""
        state = self._opened()
        with self._lock:
            state.synced_sequence = self._synced
        return state

    def publisher_sequence(self, publisher: bytes) -> int:
        """From its own table."""
        self._opened()
        if len(publisher) != len(NOBODY):
            raise UsageError(f"a publisher id has 16 bytes, not {len(publisher)}")
        with errors(f"looking for a publisher in stream {self._name!r}"):
            found = self._database.execute(
                "SELECT last FROM publisher WHERE stream = ? AND publisher = ?",
                (self._id, publisher),
            ).fetchone()
        if found is not None and not isinstance(found[0], int):
            raise StorageDamaged(
                f"looking for a publisher in stream {self._name!r}: its sequence is no number"
            )
        return found[0] if found is not None else 0

    def read(self, position: int, limit: int) -> Run | Hole | None:
        """One row or part of it, or several rows that fit ``limit``."""
        state = self._opened()
        if position >= state.end_position:
            if position > state.end_position:
                raise UsageError(f"{position} is beyond the end of stream {self._name!r}")
            return None
        if position < state.start_position:
            return Hole(state.start_position, state.first_sequence, gone=True)
        row = self._row("position <= ? ORDER BY position DESC", position)
        # A damaged index may lead to another row than asked for, here and below.
        if row is None or not row.position <= position < row.end or not self._is_sound(row):
            return self._behind(position)
        index = self._index(row)
        if index is None:
            return self._behind(position)
        if row.position == position and row.size <= limit:
            return self._joined(row, limit)
        return _part(row, index, position, limit)

    def locate(self, sequence: int) -> Place:
        """By the index of first sequences, then within a row."""
        state = self._opened()
        if sequence >= state.next_sequence:
            return Place(state.end_position, state.next_sequence)
        row = self._row("first_sequence <= ? ORDER BY first_sequence DESC", sequence)
        holds = row is not None and row.first_sequence <= sequence < row.next_sequence
        if row is not None and holds and self._is_sound(row):
            index = self._index(row)
            if index is not None:
                at = index.frame_offset[sequence - row.first_sequence]
                return Place(row.position + at, sequence)
        return self._sound_from("first_sequence > ? ORDER BY first_sequence", sequence)

    def locate_time(self, time_ns: int) -> Place:
        """By the index of times: early by a tick at most, or by what stands before it and is
        damaged, or has the time of a clock that was ahead."""
        state = self._opened()
        at = self._first_since(time_ns - INDEX_TICK_NS + 1)
        if time_ns > self._newest_ns:
            return at
        before = self._sound_rows("position < ? ORDER BY position DESC", at.position)
        for _, _, next_sequence, end, appended_ns in before:
            if appended_ns <= self._newest_ns:
                return Place(end, next_sequence)
        return Place(state.start_position, state.first_sequence)

    # The disk.

    def sync_begin(self) -> None:
        """Have the syncer's thread sync the database."""
        state = self._opened()
        if self._failure is not None:
            raise StorageFailed(self._failure)
        target = state.next_sequence - 1

        def done(error: OSError | None) -> None:
            with self._lock:
                if error is None:
                    self._synced = max(self._synced, target)
                else:
                    self._failure = f"syncing stream {self._name!r}: {error.strerror}"
                self._events |= LogEvent.SYNC
                if self._event is not None:
                    self._event.set()

        self._ask_sync(done)

    def fileno(self) -> int:
        """Readable when a sync has ended."""
        return -1 if self._event is None else self._event.fileno()

    def events(self) -> LogEvent:
        """Operations that have ended since the last call."""
        self._opened()
        with self._lock:
            events, self._events = self._events, LogEvent(0)
            if events and self._event is not None:
                self._event.clear()
        if self._failure is not None:
            raise StorageFailed(self._failure)
        return events

    def close(self) -> None:
        """Nothing of it is used any more.  Idempotent."""
        with self._lock:
            self._closed = True
            event, self._event = self._event, None
        if event is not None:
            event.close()

    # Inside.

    def _opened(self) -> State:
        if self._closed:
            raise Closed(f"the log of stream {self._name!r} is closed")
        return self._state

    def _enter(self) -> tuple[int, int, int]:
        """The stream's number, next sequence and end; made if it is new."""
        what = f"opening stream {self._name!r}"
        with errors(what):
            found = self._database.execute(
                "SELECT id, next_sequence, end_position, crc FROM stream WHERE name = ?",
                (self._name,),
            ).fetchone()
        if found is None:
            with transaction(self._database, what) as database:
                cursor = database.execute(
                    "INSERT INTO stream (name, next_sequence, end_position, crc) VALUES (?,1,0,?)",
                    (self._name, tail_crc(self._name, 1, 0)),
                )
            assert cursor.lastrowid is not None
            return cursor.lastrowid, 1, 0
        number, next_sequence, end_position, crc = found
        with contextlib.suppress(struct.error):  # a column is no number
            if crc == tail_crc(self._name, next_sequence, end_position):
                return number, next_sequence, end_position
        self._id = number
        last = self._row("first_sequence >= ? ORDER BY first_sequence DESC", 0)
        if last is None or not self._is_sound(last):
            raise StorageFailed(f"{what}: where it ends is damaged, in two places")
        return number, last.next_sequence, last.end

    def _find_start(self) -> None:
        """Note where the oldest row begins."""
        state = self._state
        row = self._row("first_sequence >= ? ORDER BY first_sequence", 0)
        if row is None:
            state.first_sequence, state.start_position = state.next_sequence, state.end_position
        else:
            state.first_sequence = max(1, row.first_sequence)
            state.start_position = max(0, row.position)

    def _rows(self, condition: str, value: int, count: int) -> list[Row]:
        with errors(f"reading stream {self._name!r}"):
            rows = self._database.execute(
                f"SELECT {ROW} FROM batch WHERE stream = ? AND {condition} LIMIT ?",
                (self._id, value, count),
            ).fetchall()
        return [Row.of(row) for row in rows]

    def _row(self, condition: str, value: int) -> Row | None:
        rows = self._rows(condition, value, 1)
        return rows[0] if rows else None

    def _is_sound(self, row: Row) -> bool:
        """Whether its columns say what was written; its frames have checksums of their own."""
        return self._are_sound((*row[:7], row.crc), len(row.frames))

    def _are_sound(self, columns: tuple[Any, ...], size: int) -> bool:
        """As :meth:`_is_sound`, for the columns up to ``crc`` and the length of the frames."""
        try:
            return bool(columns[7] == row_crc(self._id, columns[:7]) and columns[3] == size)
        except (struct.error, TypeError):
            return False

    def _index(self, row: Row) -> FrameIndex | None:
        """Its frames; None if one is unsound."""
        try:
            index = decode(row.frames, message_max=STORED_MAX)
        except MalformedInput:
            return None
        first = row.first_sequence
        if len(index) != row.messages or index.sequence[0] != first:
            return None
        return index if index.sequence[-1] == row.next_sequence - 1 else None

    @property
    def last_time_ns(self) -> int:
        """The newest row's append time; 0 if there is none."""
        return self._newest_ns

    def _time(self, now_ns: int) -> int:
        """The append time of a row: never before the newest's, unless the clock was set back by more
        than a little."""
        if not self._newest_ns - BACK_SLACK_NS <= now_ns <= self._newest_ns:
            self._newest_ns = now_ns
        return self._newest_ns

    def _first_since(self, time_ns: int) -> Place:
        """The first sound row appended at ``time_ns`` or later, but not ahead of the newest; the end
        if there is none."""
        rowid = 0
        while True:
            with errors(f"reading stream {self._name!r}"):
                (rowid,) = self._database.execute(
                    "SELECT min(rowid) FROM batch WHERE stream = ? AND time_ns BETWEEN ? AND ? AND "
                    "rowid > ?",
                    (self._id, time_ns, self._newest_ns, rowid),
                ).fetchone()
            if rowid is None:
                return Place(self._state.end_position, self._state.next_sequence)
            for first, position, _, _, _ in self._sound_rows("rowid = ?", rowid):
                return Place(position, first)

    def _end_of_old(self, time_ns: int) -> int:
        """Position after the oldest rows that were appended before ``time_ns``.

        Rows ahead of the newest have the time of a clock that was wrong: they go with what follows.
        """
        with errors(f"reading stream {self._name!r}"):
            rows = self._database.execute(
                "SELECT position + size, time_ns FROM batch WHERE stream = ? ORDER BY "
                "first_sequence LIMIT ?",
                (self._id, TRIM_ROWS),
            )
            old = 0
            for end, appended_ns in rows:
                if not isinstance(end, int) or not isinstance(appended_ns, int):
                    continue  # damaged: it goes with what follows
                if time_ns <= appended_ns <= self._newest_ns:
                    break
                if appended_ns < time_ns:
                    old = end
            rows.close()
        return int(old)

    def _sound_from(self, condition: str, value: int) -> Place:
        """The first sound row of those that meet ``condition``; the end if there is none."""
        for first, position, _, _, _ in self._sound_rows(condition, value):
            return Place(position, first)
        state = self._state
        return Place(state.end_position, state.next_sequence)

    def _sound_rows(self, condition: str, value: int) -> Iterator[tuple[int, int, int, int, int]]:
        """First sequence, position, next sequence, end and append time of the rows whose columns are
        sound.

        However many are not, a few are in memory at a time, and their frames are not read.
        """
        columns = ROW.replace("frames", "length(frames)")
        with (
            errors(f"reading stream {self._name!r}"),
            contextlib.closing(
                self._database.execute(
                    f"SELECT {columns} FROM batch WHERE stream = ? AND {condition}",
                    (self._id, value),
                )
            ) as found,
        ):
            for *row, size in found:
                if self._are_sound(tuple(row), size):
                    first, messages, position = row[:3]
                    yield first, position, first + messages, position + size, row[4]

    def _behind(self, position: int) -> Hole:
        """The hole of a damaged row at ``position``, which ends at the next sound row."""
        for first, found, _, _, _ in self._sound_rows("position > ? ORDER BY position", position):
            if found > position:
                return Hole(found, first, gone=False)
        return Hole(self._state.end_position, self._state.next_sequence, gone=False)

    def _joined(self, first: Row, limit: int) -> Run:
        """``first`` and the rows that follow it, as long as they are sound and fit."""
        rows, size = [first], first.size
        for row in self._rows("position > ? ORDER BY position", first.position, ROWS_AT_ONCE):
            follows = row.position == rows[-1].end and row.first_sequence == rows[-1].next_sequence
            if not follows or size + row.size > limit:
                break
            if not self._is_sound(row) or self._index(row) is None:
                break
            rows.append(row)
            size += row.size
        frames = first.frames if len(rows) == 1 else b"".join(row.frames for row in rows)
        return Run(first.position, first.first_sequence, rows[-1].next_sequence, memoryview(frames))


def _part(row: Row, index: FrameIndex, position: int, limit: int) -> Run:
    """The frames of ``row`` from ``position`` on that fit ``limit``, at least one.

    Raises:
        UsageError: no frame begins there.
    """
    offsets = [*index.frame_offset, row.size]
    start = position - row.position
    if start not in offsets:
        raise UsageError(f"no message begins at {position}")
    first = offsets.index(start)
    last = first + 1
    while last < len(offsets) - 1 and offsets[last + 1] - start <= limit:
        last += 1
    view = memoryview(row.frames)[start : offsets[last]]
    return Run(position, row.first_sequence + first, row.first_sequence + last, view)
