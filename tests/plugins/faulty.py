"""Storages with a defect each, which their author may not have noticed; and the test of the kit
that has to notice it.  A test module of its own: run by test_storage_kit.py, never collected with
the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from hermes.errors import StorageFailed, StorageFull
from hermes.native.log import Appended, Hole, LogEvent, Place, Run
from hermes.spi.storage import LogSettings, Progress
from hermes.spi.url import Url
from hermes.testing.storage import StorageContract
from hermes_sqlitelog.engine import SqliteBackend, SqliteStorage
from hermes_sqlitelog.log import Row, SqliteLog, State, row_crc


class Backend(SqliteBackend):
    """SQLite, but for its logs or what it promises."""

    log: ClassVar[type[SqliteLog]] = SqliteLog

    def open(self, url: Url) -> SqliteStorage:
        """As its parent, with the faulty log."""
        storage = super().open(url)
        original = storage.open_stream

        def open_stream(name: str, settings: LogSettings, progress: Progress | None) -> SqliteLog:
            log = original(name, settings, progress)
            log.__class__ = self.log
            return log

        storage.open_stream = open_stream  # type: ignore[method-assign]
        return storage


class DropsTail(SqliteLog):
    """Keeps a message less than it says of a large append."""

    def append(self, frames: memoryview, count: int, **more: Any) -> Appended:
        """The last frame is lost."""
        if count > 3:
            size = int.from_bytes(frames[24:28], "little")
            frame = 32 + 16 + -(-size // 8) * 8
            frames, count = frames[: len(frames) - frame], count - 1
        return super().append(frames, count, **more)


class LateCommit(SqliteLog):
    """Says that it has what it has only begun to write."""

    def append(self, frames: memoryview, count: int, **more: Any) -> Appended:
        """A transaction of several appends."""
        database = self._database
        outer = not database.in_transaction
        if outer:
            database.execute("BEGIN")
        self._database = Nested(database)  # type: ignore[assignment]
        try:
            where = super().append(frames, count, **more)
        finally:
            self._database = database
        if where.first_sequence % 8 == 0:
            database.execute("COMMIT")
        return where


class Nested:
    """A connection whose transactions are no transactions."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.in_transaction = False

    def execute(self, statement: str, values: Any = ()) -> Any:
        """Everything but their beginning and their end."""
        if statement in ("BEGIN IMMEDIATE", "COMMIT"):
            return None
        return self._database.execute(statement, values)


class Credulous(SqliteLog):
    """Believes what the disk says."""

    def _is_sound(self, row: Row) -> bool:
        return True

    def read(self, position: int, limit: int) -> Run | Hole | None:
        """A whole row, unchecked."""
        row = self._row("position <= ? ORDER BY position DESC", position)
        if row is None or row.position != position:
            return super().read(position, limit)
        view = memoryview(row.frames)
        return Run(position, row.first_sequence, row.next_sequence, view)


class Late(SqliteLog):
    """Begins a start by time behind it."""

    def locate_time(self, time_ns: int) -> Place:
        """Some milliseconds late."""
        return super().locate_time(time_ns + 4_000_000)


class Forgetful(SqliteLog):
    """Knows publishers only while their messages are there."""

    def trim(self, now_ns: int | None = None) -> int:
        """With the messages goes who sent them."""
        done = super().trim(now_ns)
        self._database.execute(
            "DELETE FROM publisher WHERE seen_sequence < ?", (self._state.first_sequence,)
        )
        return done


class Greedy(SqliteLog):
    """Trims what is not old enough."""

    def trim(self, now_ns: int | None = None) -> int:
        """A minute ahead of its time."""
        return super().trim(None if now_ns is None else now_ns + 60 * 10**9)


class Eager(SqliteLog):
    """Says that a sync has covered what came after it was asked for."""

    def sync_begin(self) -> None:
        """Everything is on disk, for ever."""
        self._synced = 1 << 40


class Amnesiac(Backend):
    """Remembers publishers through a trim and through a restart, but not through both."""

    def open(self, url: Url) -> SqliteStorage:
        """Open and forget publishers that have no message left."""
        storage = super().open(url)
        original = storage.open_stream

        def open_stream(name: str, settings: LogSettings, progress: Progress | None) -> SqliteLog:
            log = original(name, settings, progress)
            first = log.status().first_sequence
            log._database.execute("DELETE FROM publisher WHERE seen_sequence < ?", (first,))
            return log

        storage.open_stream = open_stream  # type: ignore[method-assign]
        return storage


class Skips(SqliteLog):
    """A refused append has used its sequences up."""

    def append(self, frames: memoryview, count: int, **more: Any) -> Appended:
        """The next one begins behind it."""
        try:
            return super().append(frames, count, **more)
        except StorageFull:
            self._state.next_sequence += count
            raise


class Swallows(SqliteLog):
    """Says that it has what could not be written."""

    def append(self, frames: memoryview, count: int, **more: Any) -> Appended:
        """Errors are not anybody's business."""
        state = self._state
        where = Appended(state.next_sequence, state.end_position, count)
        try:
            return super().append(frames, count, **more)
        except (StorageFull, StorageFailed):
            state.next_sequence += count
            state.end_position += len(frames)
            return where


class Follows(SqliteLog):
    """Takes every step that the clock makes, and looks times up as if they were in order."""

    def append(self, frames: memoryview, count: int, **more: Any) -> Appended:
        """At the time that it was given, whatever came before."""
        where = super().append(frames, count, **more)
        row = self._row("first_sequence = ?", where.first_sequence)
        assert row is not None
        columns = (*row[:4], more["now_ns"], *row[5:7])
        self._database.execute(
            "UPDATE batch SET time_ns = ?, crc = ? WHERE stream = ? AND first_sequence = ?",
            (more["now_ns"], row_crc(self._id, columns), self._id, where.first_sequence),
        )
        return where

    def locate_time(self, time_ns: int) -> Place:
        """The row with the least time that is late enough."""
        row = self._row("time_ns >= ? ORDER BY time_ns, first_sequence", time_ns)
        if row is None:
            return Place(self._state.end_position, self._state.next_sequence)
        return Place(row.position, row.first_sequence)


class Restless(SqliteLog):
    """Its descriptor, once readable, stays so."""

    def events(self) -> LogEvent:
        """Operations that have ended, and no more."""
        with self._lock:
            events, self._events = self._events, LogEvent(0)
        return events


class Careless(SqliteLog):
    """Syncs nothing, and says that it did."""

    def sync_begin(self) -> None:
        """Done."""
        with self._lock:
            self._synced = self._state.next_sequence - 1
            self._events |= LogEvent.SYNC
            os.eventfd_write(self._fd, 1)


class Promises(SqliteLog):
    """Says that a message is safe which it does not have yet."""

    def status(self) -> State:
        """One ahead."""
        state = super().status()
        state.synced_sequence = state.next_sequence
        return state


class Hasty(SqliteLog):
    """Trims what is a second too young."""

    def trim(self, now_ns: int | None = None) -> int:
        """A second ahead of its time."""
        return super().trim(None if now_ns is None else now_ns + 10**9)


class Silent(SqliteLog):
    """Leads who reads what has gone to what there is, without a word."""

    def read(self, position: int, limit: int) -> Run | Hole | None:
        """From the oldest message at the earliest."""
        return super().read(max(position, self._state.start_position), limit)


class InPlace(Backend):
    """Writes a state over the one before."""

    def open(self, url: Url) -> SqliteStorage:
        """Its states are files."""
        storage = super().open(url)
        place = Path(url.path).parent

        def save_state(name: str, state: bytes) -> None:
            try:
                (place / f"{name}.state").write_bytes(state)
            except OSError as error:
                raise StorageFull(f"{name}: {error}") from error

        def load_state(name: str) -> bytes | None:
            file = place / f"{name}.state"
            return file.read_bytes() if file.exists() else None

        storage.save_state = save_state  # type: ignore[method-assign]
        storage.load_state = load_state  # type: ignore[method-assign]
        return storage


class Unlocked(Backend):
    """Lets anybody in."""

    def open(self, url: Url) -> SqliteStorage:
        """Its lock is given up at once."""
        storage = super().open(url)
        storage._lock._unlock()
        return storage


CAUGHT_BY = {
    "TestControl": "test_what_the_log_had_is_there[appended]",
    "TestDropsTail": "test_many_segments",
    "TestLateCommit": "test_what_the_log_had_is_there[appended]",
    "TestCredulous": "test_flipped_bits",
    "TestLate": "test_a_time_is_never_late",
    "TestForgetful": "test_a_trim_forgets_no_publisher",
    "TestGreedy": "test_age_is_bounded",
    "TestEager": "test_a_sync_covers_what_was_appended_before",
    "TestUnlocked": "test_a_second_owner_is_refused",
    "TestAmnesiac": "test_a_trim_and_a_restart_forget_no_publisher",
    "TestSkips": "test_a_refused_append_changes_nothing",
    "TestSwallows": "test_a_file_that_may_not_grow",
    "TestFollows": "test_a_clock_that_goes_back",
    "TestRestless": "test_many_syncs_at_once",
    "TestCareless": "test_a_sync_reaches_the_disk",
    "TestPromises": "test_a_message_of_any_size[0]",
    "TestHasty": "test_age_takes_nothing_too_young",
    "TestSilent": "test_what_has_gone_is_said_to_be_gone",
    "TestInPlace": "test_a_save_that_fails_leaves_the_old",
}
"""Which test of the kit has to fail for which class; of the control none may."""


class Faulty(StorageContract):
    """Base of the faulty storages; its children are collected."""

    __test__ = False
    url = "sqlite:{tmp}/data"

    def __init_subclass__(cls, log: type[SqliteLog] = SqliteLog) -> None:
        """Its storage has such a log; a process of its own finds it by its qualified name."""
        cls.__test__ = True
        members = {"log": log, "__qualname__": f"{cls.__qualname__}.factory"}
        cls.factory = type("Factory", (Backend,), members)


class TestControl(Faulty):
    """Nothing is wrong with it."""


class TestDropsTail(Faulty, log=DropsTail): ...


class TestLateCommit(Faulty, log=LateCommit): ...


class TestCredulous(Faulty, log=Credulous):
    flips = 40


class TestLate(Faulty, log=Late): ...


class TestForgetful(Faulty, log=Forgetful): ...


class TestGreedy(Faulty, log=Greedy): ...


class TestEager(Faulty, log=Eager): ...


class TestSkips(Faulty, log=Skips): ...


class TestSwallows(Faulty, log=Swallows): ...


class TestFollows(Faulty, log=Follows): ...


class TestRestless(Faulty, log=Restless): ...


class TestCareless(Faulty, log=Careless): ...


class TestPromises(Faulty, log=Promises): ...


class TestHasty(Faulty, log=Hasty): ...


class TestSilent(Faulty, log=Silent): ...


class TestAmnesiac(Faulty):
    """The fault is in how a log is opened."""


TestAmnesiac.factory = Amnesiac


class TestInPlace(Faulty):
    """The fault is in how a state is saved."""


TestInPlace.factory = InPlace


class TestUnlocked(Faulty):
    """The fault is not in its log."""


TestUnlocked.factory = Unlocked
