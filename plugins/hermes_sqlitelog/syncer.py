"""The thread that waits for the disk: syncs what was committed, and moves it from the write-ahead
log into the database.

Knows files, and whom to tell; no stream.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from hermes.base.rlimits import start_thread
from hermes_sqlitelog.database import ERRORS

Done = Callable[[OSError | None], None]


class Syncer:
    """Syncs on demand, many demands at once.  Any thread may ask; ``done`` is called in its own."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """``descriptor``: of the database at ``path``, and open for as long as this is.

        Another one must not be opened for a sync: closing it would give up SQLite's locks on the
        database, and a program that reads it could take the write-ahead log away.
        """
        self._path = path
        self._descriptor = descriptor
        self._wal = path.with_name(path.name + "-wal")
        self._condition = threading.Condition()
        self._asked: list[Done] = []
        self._checkpoint = False
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0

    def sync(self, done: Done) -> None:
        """Have all that is committed by now reach the disk; then ``done`` is called, with what
        prevented it."""
        with self._condition:
            self._asked.append(done)
            self._start()

    def checkpoint(self) -> None:
        """Have the write-ahead log moved into the database, as far as no reader stands in the
        way."""
        with self._condition:
            self._checkpoint = True
            self._start()

    def close(self) -> None:
        """Do what was asked and end.  Idempotent."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def sync_now(self) -> OSError | None:
        """Sync in the caller's thread."""
        try:
            _sync(self._wal)
            os.fsync(self._descriptor)
            _sync(self._path.parent)
        except OSError as error:
            return error
        return None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hermes-sqlite", daemon=True)
            start_thread(self._thread)
        self._condition.notify()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while True:
            with self._condition:
                while not (self._asked or self._checkpoint or self._closing):
                    self._condition.wait()
                asked, self._asked = self._asked, []
                checkpoint, self._checkpoint = self._checkpoint, False
                if not (asked or checkpoint):
                    break
            if asked:
                error = self.sync_now()
                for done in asked:
                    done(error)
            if checkpoint:
                connection = connection or sqlite3.connect(self._path)
                # Whoever writes next meets what is wrong, and says so.
                with contextlib.suppress(*ERRORS):
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if connection is not None:
            connection.close()


def _sync(path: Path) -> None:
    """Have the file or directory reach the disk, if there is one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
