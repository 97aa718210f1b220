"""The storage SPI: a backend keeps one log per stream.

The log of a built-in backend is a :class:`hermes.native.Log`: native memory that the broker appends to and reads
without entering Python.  It has the shape of :class:`StreamLog`.

Threads: one thread owns a log; views of its memory may be held and dropped by any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from hermes.native import Log
    from hermes.url import Url

API_VERSION = 1
"""Version of this SPI: a plugin that was written for another is refused at start-up."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the broker asks of a stream's log."""

    segment_bytes: int
    """Size of a segment file or block, header included."""
    retention_bytes: int
    """Bytes of frames kept; 0: no bound.  The active segment always stays."""
    retention_ns: int
    """Age up to which frames are kept, by the broker's append time; 0: no bound."""
    message_max: int
    """Largest payload, bytes."""


Progress = Callable[[str, int, int], None]
"""Called with (stream, bytes verified, bytes in all) while a log is opened; at most a few times a second."""


class Storage(Protocol):
    """An opened backend: a place with one log per stream in it."""

    @property
    def url(self) -> str:
        """Where it is, e.g. ``mmap:/var/lib/hermes``."""

    @property
    def durable(self) -> bool:
        """True if ``sync`` can promise anything: acknowledgements of level ``durable`` are refused otherwise."""

    @property
    def sync_interval_ns(self) -> int | None:
        """None: sync only when a durable acknowledgement asks; 0: after every pass; else at this interval."""

    def streams(self) -> list[str]:
        """Names of the streams that are there already."""

    def open_stream(self, name: str, settings: LogSettings, progress: Progress | None) -> Log:
        """Open or create the log of stream ``name``, recovering it if need be.

        Raises:
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened; the message says what to do.
        """

    def load_state(self, name: str) -> bytes | None:
        """Small named state (durable positions), as last saved; None if there is none."""

    def save_state(self, name: str, state: bytes) -> None:
        """Replace named state atomically; on disk when it returns, if ``durable``."""

    def close(self) -> None:
        """Give up the place, its lock included; logs are closed by their owner first.  Idempotent."""


@runtime_checkable
class StorageBackend(Protocol):
    """One storage scheme.  Made by a factory that takes no argument."""

    api_version: int

    @property
    def options(self) -> type[msgspec.Struct]:
        """The options of its URL, for :meth:`hermes.url.Url.options`; each has a docstring."""

    def probe(self) -> str | None:
        """None if it can work on this machine, else why not, with the cure."""

    def open(self, url: Url) -> Storage:
        """Open the place that ``url`` names and lock it.

        Raises:
            InvalidUrl: the URL or one of its options makes no sense here.
            DirectoryLocked: another broker owns it; the message names its process.
        """
