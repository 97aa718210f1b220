"""Streams in one SQLite database, which one broker at a time may write.

::

    PATH             the tables of database.py; locked by flock(2), which hinders no reader
    PATH.state       durable positions, in a database of their own: a commit there waits for the disk
    PATH.lock        the owner's process; locked as well

Written against the storage SPI only, as a third party would.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec

from hermes.base import rlimits
from hermes.errors import (
    Closed,
    InvalidConfig,
    InvalidUrl,
    StorageDamaged,
    StorageFailed,
)
from hermes.spi.locks import PlaceLock
from hermes.spi.paths import path_of
from hermes.spi.storage import API_VERSION, Capabilities, LogSettings, Progress
from hermes.spi.url import Url
from hermes_sqlitelog.database import ERRORS, PAGE_SIZE, connect, errors, transaction
from hermes_sqlitelog.log import SqliteLog
from hermes_sqlitelog.syncer import Syncer

FILE_MODE = 0o600
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
INTERVAL_MS_MAX = 60_000
SIZE_MIN = 1 << 20
CHECKPOINT_BYTES = 8 << 20
"""The write-ahead log is moved into the database when it has grown so large, by a thread."""
WAL_MAX = 64 << 20
"""Bytes of write-ahead log from which the writer itself moves it: a reader that stays in one query
for ever lets it grow for ever all the same."""


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """``sqlite:PATH?sync=none|interval:MS|always&size=BYTES``."""

    sync: str = "none"
    """``none``: the disk is waited for only when a durable acknowledgement asks; ``interval:MS``:
    also every MS milliseconds; ``always``: also after every pass in which something was
    appended."""
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Bytes the database may take, at least 1 MiB, beside half as much for what is on its way
    there; 0: what the disk has."""


def sync_interval_ns(text: str) -> int | None:
    """The option ``sync`` in nanoseconds: None for ``none``, 0 for ``always``.

    Raises:
        InvalidUrl: it is none of the three forms.
    """
    if text in ("none", "always"):
        return None if text == "none" else 0
    kind, _, value = text.partition(":")
    if kind == "interval" and value.isascii() and value.isdigit():
        milliseconds = int(value)
        if 1 <= milliseconds <= INTERVAL_MS_MAX:
            return milliseconds * 1_000_000
    raise InvalidUrl(
        f"sync={text}: expected none, always or interval:MS, MS being milliseconds from 1 to "
        f"{INTERVAL_MS_MAX}"
    )


def _make_file(path: Path) -> None:
    """Make the file if there is none; one that is there is not opened: opening a FIFO waits for ever.

    Raises:
        OSError: it cannot be made.
        StorageFailed: something else is there.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
    if not stat.S_ISREG(path.stat().st_mode):
        raise StorageFailed(f"{path} is no regular file: name another")


class SqliteStorage:
    """One database; see :class:`hermes.spi.storage.Storage` for the contract."""

    def __init__(self, path: Path, options: Options) -> None:
        """Make the database if need be, and lock it.

        Raises:
            DirectoryLocked: another broker owns it.
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened.
            InvalidUrl: an option makes no sense.
        """
        self._interval_ns = sync_interval_ns(options.sync)
        if options.size and options.size < SIZE_MIN:
            raise InvalidUrl(f"size={options.size}: expected at least {SIZE_MIN}")
        self._path = path.absolute()
        self._closed = False
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _make_file(self._path)
            self._lock = PlaceLock(
                self._path,
                self._path.with_name(self._path.name + ".lock"),
                cure="stop it, or give this one another file",
            )
        except OSError as error:
            raise StorageFailed(
                f"making {self._path}: {error.strerror or error}{rlimits.behind(error)}"
            ) from error
        with ExitStack() as undo:
            undo.callback(self._lock.close)
            try:
                _make_file(self._state_path)
            except OSError as error:
                raise StorageFailed(
                    f"making {self._state_path}: {error.strerror or error}"
                ) from error
            self._database = connect(self._path, synchronous="NORMAL")
            undo.callback(self._database.close)
            self._states = connect(self._state_path, synchronous="FULL")
            undo.callback(self._states.close)
            with errors(f"bounding {self._path}"):
                if options.size:
                    pages = options.size // PAGE_SIZE
                    self._database.execute(f"PRAGMA max_page_count = {pages}")
            undo.pop_all()
        self._syncer = Syncer(self._path, self._lock.fileno())
        self._logs: list[SqliteLog] = []
        self._wal_max = min(WAL_MAX, options.size // 2 or WAL_MAX)
        self._appends = 0

    @property
    def _state_path(self) -> Path:
        return self._path.with_name(self._path.name + ".state")

    @property
    def url(self) -> str:
        """``sqlite:`` and the absolute path."""
        return f"sqlite:{self._path}"

    @property
    def durable(self) -> bool:
        """True: a sync puts what was committed on disk."""
        return True

    @property
    def sync_interval_ns(self) -> int | None:
        """As the option ``sync`` says."""
        return self._interval_ns

    def streams(self) -> list[str]:
        """The streams in the table of that name."""
        self._check_open()
        with errors(f"listing {self._path}"):
            names = self._database.execute("SELECT name FROM stream ORDER BY name").fetchall()
        return [name for (name,) in names]

    def open_stream(self, name: str, settings: LogSettings, progress: Progress | None) -> SqliteLog:
        """Open or create stream ``name``; nothing is verified before it is read.

        Raises:
            InvalidConfig: ``name`` is no name.
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened.
            Closed: after :meth:`close`.
        """
        self._check_open()
        if not NAME.fullmatch(name):
            raise InvalidConfig(f"{name!r} cannot name a stream: letters, digits, '_', '-' and '.'")
        log = SqliteLog(
            self._database, name, settings, sync=self._syncer.sync, written=self._written
        )
        self._logs.append(log)
        return log

    def load_state(self, name: str) -> bytes | None:
        """State as last saved; None if there is none.

        Raises:
            StorageFailed, StorageDamaged: it cannot be read.
        """
        self._check_open()
        with errors(f"reading the state {name!r}"):
            found = self._states.execute(
                "SELECT value, crc FROM state WHERE name = ?", (name,)
            ).fetchone()
        if found is None:
            return None
        value, crc = found
        if not isinstance(value, bytes) or zlib.crc32(value) != crc:
            raise StorageDamaged(
                f"the state {name!r} in {self._state_path} is damaged: delete that file; what it "
                "held is forgotten"
            )
        return value

    def save_state(self, name: str, state: bytes) -> None:
        """Replace the state ``name``, in a transaction that is synced.

        Raises:
            InvalidConfig: ``name`` is no name.
            StorageFailed, StorageFull: the state before stands.
        """
        self._check_open()
        if not NAME.fullmatch(name):
            raise InvalidConfig(f"{name!r} cannot name a state: letters, digits, '_', '-' and '.'")
        with transaction(self._states, f"saving the state {name!r}") as database:
            database.execute(
                "INSERT OR REPLACE INTO state VALUES (?,?,?)", (name, state, zlib.crc32(state))
            )
        if self._states.total_changes % 1024 == 0:  # its write-ahead log is nobody else's business
            with contextlib.suppress(*ERRORS):
                self._states.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Sync, close the database and give up the lock.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        for log in self._logs:
            log.close()
        self._syncer.close()
        try:
            with errors(f"closing {self._path}"):
                for database in (self._database, self._states):
                    database.execute("PRAGMA synchronous = FULL")
                    database.close()  # moves the write-ahead log into the database, synced
        finally:
            self._lock.close()  # after the database: see hermes.spi.locks

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the storage {self.url} is closed")

    def _written(self) -> None:
        """Something was appended: see to it that the write-ahead log stays small."""
        self._appends += 1
        if self._appends % 16:
            return
        size = self._syncer.wal_bytes
        if size > self._wal_max:
            # What goes wrong here is met again by whoever writes or reads next.
            with contextlib.suppress(*ERRORS):
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        elif size > min(CHECKPOINT_BYTES, self._wal_max // 2):
            self._syncer.checkpoint()


class SqliteBackend:
    """The scheme ``sqlite``."""

    api_version = API_VERSION
    options = Options
    capabilities = Capabilities()

    def probe(self) -> str | None:
        """None if this Python's SQLite is new enough."""
        if sqlite3.sqlite_version_info < (3, 24):
            return (
                f"SQLite {sqlite3.sqlite_version} is too old: 3.24 or later is needed; use a "
                "Python that is linked against one"
            )
        return None

    def open(self, url: Url) -> SqliteStorage:
        """Open and lock the database that ``url`` names.

        Raises:
            InvalidUrl: it names no path, or an option makes no sense.
            DirectoryLocked: another broker owns it.
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened.
        """
        if url.host or not url.path:
            raise InvalidUrl(f"{url}: expected sqlite:PATH or sqlite:/absolute/PATH")
        return SqliteStorage(path_of(url.path, url=str(url)), url.options(Options))
