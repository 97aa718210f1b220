"""Streams in anonymous memory: the same log as on disk, bounded, without any promise.

Knows no files.  State that is saved lives as long as the storage.
"""

from __future__ import annotations

import msgspec

from hermes.errors import Closed, InvalidConfig, InvalidUrl
from hermes.native.log import SEGMENT_BYTES_MIN, SEGMENT_HEADER, Log
from hermes.spi.storage import API_VERSION, Capabilities, LogSettings, Progress
from hermes.spi.units import ByteSize
from hermes.spi.url import Url

LIMIT = 256 * 1024 * 1024
"""Bytes of frames a stream keeps if nothing says how many: a bound that a laptop does not
notice."""
LIMIT_MIN = 1024 * 1024
SEGMENTS_MIN = 8
"""The limit is divided in at least so many segments, so that retention forgets little at a time."""


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """``memory:?limit=BYTES``."""

    limit: ByteSize = ByteSize(0)
    """Most bytes of frames that a stream keeps; the oldest go first.  0: as many as the stream's
    retention says, or 256MiB where nothing says how many."""


class MemoryStorage:
    """One place in memory; see :class:`hermes.spi.storage.Storage` for the contract."""

    def __init__(self, limit: int) -> None:
        """Keep at most ``limit`` bytes a stream, if not 0."""
        self._limit = limit
        self._streams: set[str] = set()
        self._states: dict[str, bytes] = {}
        self._closed = False

    @property
    def url(self) -> str:
        """``memory:``, with its limit if it was given one."""
        return f"memory:?limit={self._limit}" if self._limit else "memory:"

    @property
    def durable(self) -> bool:
        """False: memory promises nothing."""
        return False

    @property
    def sync_interval_ns(self) -> int | None:
        """None: there is nothing to sync."""
        return None

    def streams(self) -> list[str]:
        """The streams opened so far."""
        return sorted(self._streams)

    def open_stream(self, name: str, settings: LogSettings, progress: Progress | None) -> Log:
        """A new, empty log that keeps what was asked for.

        Raises:
            InvalidConfig: more was asked for than the storage's limit.
            Closed: after :meth:`close`.
            MemoryError: there is none.
        """
        if self._closed:
            raise Closed("the memory storage is closed")
        retention = self._retention(name, settings)
        # A segment holds a message of the largest size, header and topic included, if the limit
        # allows.
        segment = min(settings.segment_bytes, max(retention // SEGMENTS_MIN, SEGMENT_BYTES_MIN))
        log = Log.memory(
            segment_bytes=segment // SEGMENT_HEADER * SEGMENT_HEADER,
            retention_bytes=retention,
            retention_ns=settings.retention_ns,
            message_max=settings.message_max,
        )
        self._streams.add(name)
        return log

    def _retention(self, name: str, settings: LogSettings) -> int:
        """Bytes that the stream keeps: as asked, but never without a bound."""
        asked = settings.retention_bytes if settings.retention_asked else 0
        if not self._limit:
            return asked or LIMIT
        if asked > self._limit:
            raise InvalidConfig(
                f"stream {name!r} is to keep {ByteSize(asked)}, more than the storage "
                f"memory:?limit={ByteSize(self._limit)} may: raise the limit, or leave it away, "
                "or lower the retention"
            )
        return asked or self._limit

    def load_state(self, name: str) -> bytes | None:
        """The bytes that :meth:`save_state` was last given; None if it was not called."""
        return self._states.get(name)

    def save_state(self, name: str, state: bytes) -> None:
        """Keep ``state`` until the storage is dropped."""
        self._states[name] = bytes(state)

    def close(self) -> None:
        """Refuse new streams.  Idempotent."""
        self._closed = True


class MemoryBackend:
    """The scheme ``memory``."""

    api_version = API_VERSION
    options = Options
    capabilities = Capabilities(
        persistent=False, durable=False, native=True, locks=False, detects_damage=False, quota=False
    )

    def probe(self) -> str | None:
        """None: memory is everywhere."""
        return None

    def open(self, url: Url) -> MemoryStorage:
        """A new, empty place.

        Raises:
            InvalidUrl: it names a path, or the limit makes no sense.
        """
        if url.host or url.path:
            raise InvalidUrl(
                f"{url}: a memory storage has no path; expected memory: or memory:?limit=BYTES"
            )
        limit = url.options(Options).limit
        if 0 < limit < LIMIT_MIN:
            raise InvalidUrl(
                f"{url}: limit={limit} is too little: {ByteSize(LIMIT_MIN)} is the least"
            )
        return MemoryStorage(limit)
