"""Streams in mapped segment files below one data directory, which one broker at a time may own.

::

    DIR                      locked itself, by flock(2)
    DIR/lock                 the owner's process; locked as well
    DIR/state/NAME           small named state, replaced atomically
    DIR/streams/NAME/        one log: docs/log-format.md; and small named state of that stream

Knows nothing of topics or connections.  Turns every ``OSError`` into one of :mod:`hermes.errors`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from hermes.base import platform, rlimits
from hermes.errors import (
    Closed,
    InvalidConfig,
    InvalidUrl,
    StorageFailed,
    StorageFull,
)
from hermes.native.log import Log
from hermes.spi.locks import PlaceLock
from hermes.spi.paths import path_of
from hermes.spi.storage import API_VERSION, Capabilities, LogSettings, Progress
from hermes.spi.units import ByteSize, byte_size
from hermes.spi.url import Url

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""Stream and state names become file names: nothing that a file system or a shell could misread."""
LOCK = "lock"
STATE = "state"
STREAMS = "streams"
INTERVAL_MS_MAX = 60_000
HOT_SHARE = 16
"""One part in so many of the memory is hot unless told."""
HOT_MAX = 512 * 2**20
"""Bytes of it at most: twice what one busy stream uses."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """``mmap:DIR?sync=none|interval:MS|always&spares=N&disk=BYTES``."""

    sync: str = "none"
    """``none``: the disk is waited for only when a durable acknowledgement asks; ``interval:MS``:
    also every MS milliseconds; ``always``: also after every pass in which something was
    appended."""
    spares: Annotated[int, msgspec.Meta(ge=0, le=16)] = 1
    """Segments kept prepared per stream."""
    disk: ByteSize = ByteSize(0)
    """Bytes the files of one stream may take, but for its hot memory; 0: what the disk has."""
    hot: str = "auto"
    """Memory in which busy streams write before it is carried to their files, of all streams together:
    a size, 0 for none, or ``auto``, a sixteenth of what this process may have, at most 512 MiB."""


def sync_interval_ns(text: str) -> int | None:
    """The option ``sync`` in nanoseconds: None for ``none``, 0 for ``always``.

    Raises:
        InvalidUrl: it is none of the three forms.
    """
    if text == "none":
        return None
    if text == "always":
        return 0
    kind, _, value = text.partition(":")
    if kind == "interval" and value.isascii() and value.isdigit():
        milliseconds = int(value)
        if 1 <= milliseconds <= INTERVAL_MS_MAX:
            return milliseconds * 1_000_000
    raise InvalidUrl(
        f"sync={text}: expected none, always or interval:MS, MS being milliseconds from 1 to "
        f"{INTERVAL_MS_MAX}"
    )


def hot_bytes(text: str) -> int:
    """The option ``hot`` in bytes.

    Raises:
        InvalidUrl: it is neither a size nor ``auto``.
    """
    if text == "auto":
        return min(platform.usable_memory() // HOT_SHARE, HOT_MAX)
    try:
        return int(byte_size(text))
    except ValueError as error:
        raise InvalidUrl(f"hot={text}: expected auto or a size; {error}") from error


@contextlib.contextmanager
def _disk_errors(what: str, *, cure: str = "") -> Iterator[None]:
    """Turn an ``OSError`` into ours, saying what was tried, and what to do."""
    try:
        yield
    except OSError as error:
        kind = StorageFull if error.errno in FULL else StorageFailed
        said = f"{error.strerror or error}{rlimits.behind(error)}"
        raise kind(f"{what}: {said}{cure}") from error


def _checked_name(name: str, what: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidConfig(
            f"{name!r} cannot name a {what}: expected letters, digits, '_', '-' and '.', "
            "not beginning with '.' or '-', at most 128 of them"
        )
    return name


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_directory(directory: Path) -> None:
    """Make ``directory`` and its parents; on disk when it returns."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=DIRECTORY_MODE)
    _sync_directory(directory.parent)


class MmapStorage:
    """One data directory; see :class:`hermes.spi.storage.Storage` for the contract."""

    def __init__(self, directory: Path, options: Options) -> None:
        """Make the directory if need be, and lock it.

        Raises:
            DirectoryLocked: another broker owns it.
            StorageFailed, StorageFull: it cannot be made.
            InvalidUrl: an option makes no sense.
        """
        self._interval_ns = sync_interval_ns(options.sync)
        self._options = options
        self._hot_bytes = hot_bytes(options.hot)
        self._directory = directory.absolute()
        self._closed = False
        with _disk_errors(
            f"making the data directory {directory}",
            cure="; name a directory on a disk that this user may write: mmap:DIR",
        ):
            for place in (directory, directory / STATE, directory / STREAMS):
                _make_directory(place)
            self._lock = PlaceLock(
                directory,
                directory / LOCK,
                cure="stop it, or give this one another directory",
            )

    @property
    def url(self) -> str:
        """``mmap:`` and the absolute directory."""
        return f"mmap:{self._directory}"

    @property
    def directory(self) -> Path:
        """The data directory, absolute."""
        return self._directory

    @property
    def durable(self) -> bool:
        """True: a sync puts what was appended on disk."""
        return True

    @property
    def sync_interval_ns(self) -> int | None:
        """As the option ``sync`` says."""
        return self._interval_ns

    def streams(self) -> list[str]:
        """The streams that have a directory."""
        with _disk_errors(f"listing {self._directory}"):
            places = list((self._directory / STREAMS).iterdir())
        return sorted(p.name for p in places if p.is_dir() and NAME.fullmatch(p.name))

    def open_stream(self, name: str, settings: LogSettings, progress: Progress | None) -> Log:
        """Open or create the log of ``name``, verifying every frame.

        Raises:
            InvalidConfig: ``name`` cannot name a directory.
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened.
            Closed: after :meth:`close`.
        """
        self._check_open()
        directory = self._directory / STREAMS / _checked_name(name, "stream")
        with _disk_errors(f"making the directory of stream {name!r}"):
            _make_directory(directory)
        try:
            return Log.open(
                directory,
                segment_bytes=settings.segment_bytes,
                retention_bytes=settings.retention_bytes,
                retention_ns=settings.retention_ns,
                disk_bytes=self._options.disk,
                message_max=settings.message_max,
                spares=self._options.spares,
                given_out=settings.given_out,
                hot_bytes=self._hot_bytes,
                progress=None if progress is None else _for_stream(progress, name),
            )
        except BaseException:
            with contextlib.suppress(OSError):  # unless there is something in it
                directory.rmdir()
            raise

    def load_state(self, name: str) -> bytes | None:
        """State as last saved; None if there is none.

        Raises:
            StorageFailed: it cannot be read.
        """
        return _load(self._directory / STATE / _checked_name(name, "state"))

    def save_state(self, name: str, state: bytes) -> None:
        """Replace the state ``name``; on disk when it returns, and never half of it.

        Raises:
            StorageFailed, StorageFull: it could not be written; the state before stands.
        """
        self._check_open()
        _save(self._directory / STATE / _checked_name(name, "state"), state)

    def load_stream_state(self, stream: str, name: str) -> bytes | None:
        """State that is kept in the directory of ``stream``, as last saved; None if there is none.

        Raises:
            StorageFailed: it cannot be read.
        """
        return _load(self._stream_state(stream, name))

    def save_stream_state(self, stream: str, name: str, state: bytes) -> None:
        """As :meth:`save_state`, in the directory of ``stream``, which exists."""
        self._check_open()
        _save(self._stream_state(stream, name), state)

    def _stream_state(self, stream: str, name: str) -> Path:
        directory = self._directory / STREAMS / _checked_name(stream, "stream")
        return directory / _checked_name(name, "state")

    def close(self) -> None:
        """Give up the lock.  Idempotent."""
        if not self._closed:
            self._closed = True
            self._lock.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"the storage {self.url} is closed")


def _load(path: Path) -> bytes | None:
    with _disk_errors(f"reading the state {path.name!r}"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def _save(path: Path, state: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")  # no legal name begins with a dot
    with _disk_errors(f"saving the state {path.name!r}"):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)


def _for_stream(progress: Progress, name: str) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        progress(name, done, total)

    return report


class MmapBackend:
    """The scheme ``mmap``."""

    api_version = API_VERSION
    options = Options
    capabilities = Capabilities(native=True)

    def probe(self) -> str | None:
        """None: every Linux can."""
        return None

    def open(self, url: Url) -> MmapStorage:
        """Open and lock the directory that ``url`` names: ``mmap:DIR``, or the platform's data
        directory.

        Raises:
            InvalidUrl: it names a host, or an option makes no sense.
            DirectoryLocked: another broker owns the directory.
            StorageFailed, StorageFull: it cannot be made.
        """
        if url.host:
            raise InvalidUrl(f"{url}: expected mmap:DIR or mmap:/absolute/DIR, without a host")
        options = url.options(Options)
        return MmapStorage(path_of(url.path or default_directory(), url=str(url)), options)


def default_directory() -> str:
    """Where ``mmap:`` alone keeps its data: ``hermes`` in the user's data directory, as the XDG Base
    Directory Specification has it; by default ``~/.local/share/hermes``."""
    data = Path(os.environ.get("XDG_DATA_HOME", "").strip())
    return str((data if data.is_absolute() else Path("~/.local/share")) / "hermes")
