"""The exclusive right of one broker to a place on disk; for storages, part of the SPI.

The place itself is locked, by flock(2): a directory, or a file that is never replaced.  So nothing
that can be removed beside it keeps two brokers apart.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path

from hermes.base.closing import Closable
from hermes.base.forks import close_in_children
from hermes.base.platform import file_locks
from hermes.errors import DirectoryLocked

FILE_MODE = 0o600
OWNER_BYTES = 32
"""Bytes read of a lock file: a process number and a line feed are shorter."""
CANNOT = frozenset({errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of flock(2) where the file system cannot lock a directory, NFS for one."""

_GUARD = threading.Lock()
_PLACES: set[tuple[int, int]] = set()
"""Device and inode of what this process has locked.  Such a place is not opened a second time:
closing any descriptor of a file gives up the process's POSIX locks on it, those of SQLite too."""


class PlaceLock(Closable):
    """A lock of one place: held from construction until :meth:`close`, or the end of the process.

    Holds the place itself, and a lock file beside it, which names the owner's process and is locked
    as well: where directories cannot be locked it stands alone.
    """

    def __init__(self, place: Path, lock_file: Path, *, cure: str) -> None:
        """Lock ``place``, which exists, and note the process in ``lock_file``.

        Raises:
            DirectoryLocked: another broker has it; the message names its process and ends with
                ``cure``.
            OSError: a file cannot be opened.
        """
        self._held: list[int] = []
        self._place: tuple[int, int] | None = None
        self._cure = cure
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._enter(place, lock_file)
            self._lock(os.open(place, os.O_RDONLY | os.O_CLOEXEC), place, lock_file)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock(os.open(lock_file, flags, FILE_MODE), place, lock_file)
            note = self._held[-1]
            os.ftruncate(note, 0)
            os.pwrite(note, b"%d\n" % os.getpid(), 0)
            undo.pop_all()
        close_in_children(self)

    def fileno(self) -> int:
        """The descriptor of the place, open for reading; good for fsync(2)."""
        return self._held[0]

    def close(self) -> None:
        """Unlock, also if a forked child has the descriptors.  Idempotent."""
        if len(self._held) == 2:
            with contextlib.suppress(OSError):
                os.ftruncate(self._held[-1], 0)
        self._unlock()
        held, self._held = self._held, []
        for descriptor in held:
            os.close(descriptor)

    def abandon(self) -> list[int]:
        """Both descriptors: a child has no part in the lock."""
        held, self._held = self._held, []
        if self._place is not None:
            _PLACES.discard(self._place)
            self._place = None
        return held

    def _unlock(self) -> None:
        for descriptor in self._held:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        if self._place is not None:
            with _GUARD:
                _PLACES.discard(self._place)
            self._place = None

    def _enter(self, place: Path, lock_file: Path) -> None:
        """Note that this process has ``place``, unless it has it already."""
        status = place.stat()
        key = (status.st_dev, status.st_ino)
        with _GUARD:
            if key in _PLACES:
                raise self._taken(place, str(os.getpid()))
            _PLACES.add(key)
            self._place = key

    def _taken(self, place: Path, process: str) -> DirectoryLocked:
        return DirectoryLocked(
            f"{place} belongs to a running broker (process {process}): {self._cure}"
        )

    def _lock(self, descriptor: int, place: Path, lock_file: Path) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            process = _owner(descriptor, lock_file)
            os.close(descriptor)
            raise self._taken(place, process) from error
        except OSError as error:
            if error.errno not in CANNOT or self._held:
                os.close(descriptor)
                raise
        self._held.append(descriptor)


def _owner(descriptor: int, lock_file: Path) -> str:
    """The process that holds the lock of an open file, as the lock file or the kernel says."""
    with contextlib.suppress(OSError):
        noted = lock_file.read_bytes()[:OWNER_BYTES].decode("ascii", "replace").strip()
        if noted:
            return noted
    status = os.fstat(descriptor)
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for kind, process, file in file_locks():
        if kind == "FLOCK" and file == name:
            return process
    return "unknown"
