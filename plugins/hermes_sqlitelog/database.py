"""One SQLite file: how it is opened, what stands in it, and what its errors mean here.

Knows no frames.  In WAL mode a committed transaction has been written, but not synced: it survives
the end of the process, and a loss of power once the file ``PATH-wal`` has been synced.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from hermes.base.rlimits import limited
from hermes.errors import StorageDamaged, StorageFailed, StorageFull

APPLICATION_ID = 0x48524D53
"""``HRMS``: what ``file`` and others recognise the database by."""
VERSION = 1
PAGE_SIZE = 4096
"""Bytes: every append writes some pages again, however little it brings."""
WAL_KEPT = 4 << 20
"""Bytes that the write-ahead log keeps when it has been emptied."""
BUSY_S = 2.0
"""How long opening waits for a program that holds the database; readers hold nobody up."""
BUSY_WRITE_MS = 50
"""How long a write does: the broker's loop waits with it, and tries again later."""

ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""Exceptions of the module for a database that is at fault.  It raises UnicodeDecodeError where a message of
SQLite's quotes damaged text."""

SCHEMA = """
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    next_sequence INTEGER NOT NULL,  -- of the next message
    end_position INTEGER NOT NULL,   -- bytes of frames over the life of the stream
    crc INTEGER NOT NULL
);
CREATE TABLE batch (                 -- consecutive messages of one publisher
    stream INTEGER NOT NULL REFERENCES stream (id),
    first_sequence INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    position INTEGER NOT NULL,
    size INTEGER NOT NULL,           -- bytes of frames
    time_ns INTEGER NOT NULL,        -- when the broker took them, CLOCK_REALTIME
    publisher BLOB NOT NULL,         -- 16 bytes; zeros: nobody in particular
    publisher_first INTEGER NOT NULL,
    crc INTEGER NOT NULL,            -- of all columns but frames, which have their own
    frames BLOB NOT NULL             -- docs/wire-protocol.md
);
CREATE UNIQUE INDEX batch_by_sequence ON batch (stream, first_sequence);
CREATE UNIQUE INDEX batch_by_position ON batch (stream, position);
CREATE INDEX batch_by_time ON batch (stream, time_ns);
CREATE TABLE publisher (             -- how far each is known, also of messages deleted since
    stream INTEGER NOT NULL REFERENCES stream (id),
    publisher BLOB NOT NULL,
    last INTEGER NOT NULL,           -- its own sequence
    seen_sequence INTEGER NOT NULL,  -- the stream's, of its last batch
    PRIMARY KEY (stream, publisher)
) WITHOUT ROWID;
CREATE TABLE state (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    crc INTEGER NOT NULL
);
"""


@contextlib.contextmanager
def errors(what: str) -> Iterator[None]:
    """Turn SQLite's errors into ours, saying what was tried."""
    try:
        yield
    except ERRORS as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if isinstance(error, UnicodeDecodeError):
            code = sqlite3.SQLITE_CORRUPT
        text = f"{what}: {error}"
        if code == sqlite3.SQLITE_FULL:
            raise StorageFull(f"{text}{limited('RLIMIT_FSIZE')}") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StorageFull(f"{text}: another program holds it; it is tried again") from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StorageDamaged(
                f"{text}: move it away, or take what can be saved with the command "
                "sqlite3 PATH .recover"
            ) from error
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):  # which of them it does not say
            text += f"{limited('RLIMIT_FSIZE')}{limited('RLIMIT_NOFILE')}"
        raise StorageFailed(text) from error


def connect(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """Open or create the database at ``path``.

    Raises:
        StorageFailed, StorageFull, StorageDamaged: it cannot be opened, or is somebody else's.
    """
    with errors(f"opening {path}"):
        connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection, path)
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA busy_timeout = {BUSY_WRITE_MS}").fetchall()
            connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}").fetchall()
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION_ID:
        raise StorageDamaged(f"{path} is another program's database: name another file")
    if tables and version != VERSION:
        raise StorageDamaged(f"{path} was written by another version of Hermes: use that one")
    if not tables:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StorageFailed(f"{path}: its file system cannot hold a WAL database: choose another")
    if not tables:
        connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA user_version = {VERSION};COMMIT;")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, what: str) -> Iterator[sqlite3.Connection]:
    """All of what is done inside, or nothing.

    Raises:
        StorageFull, StorageFailed, StorageDamaged: nothing was done.
    """
    with errors(what):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
