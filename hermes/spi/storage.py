"""The storage SPI: a backend keeps one log per stream.

A log is anything of the shape of :class:`StreamLog`.  A backend may return a :class:`hermes.native.Log` (segments in
files or in memory), which the broker appends to and reads without entering Python; or an object of its own, a database
table or a remote store.  Then the broker keeps a bounded window of the stream in native memory: what is published
goes there first, is handed to the log once per pass of the loop in runs of whole frames, and is acknowledged and
shown to subscribers when the log says that it has it.  What is older than the window is read back, run by run.

What holds throughout, unless a method says otherwise:

**Threads.** One thread owns a storage and its logs, and makes all calls but :meth:`Storage.save_state`; views
of a log's memory may be held and dropped by any. A :class:`StorageBackend` may be used by any number of threads
at once.

**Blocking.** Opening and closing may take as long as they need, and say so through ``progress``. Everything
else is called from the loop and takes no longer than one batch takes: see :class:`StreamLog`.

**Ownership.** What :meth:`StreamLog.read` returns stays valid, and as it is, for as long as anything refers to
it, whatever is trimmed meanwhile; what is passed in may not be referred to after the return.

**Errors.** Only those of :mod:`hermes.errors` that the method names are let out; what the operating system
raises is translated at the edge, ``from`` the original. Anything else is taken for a defect of the plugin: the
connection that asked for it ends, or the broker does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from hermes.native.log import Appended, Hole, LogEvent, Place, Run
    from hermes.spi.url import Url

API_VERSION = 1
"""Version of this SPI: a plugin that was written for another is refused at start-up.  When it changes, and what is done
before that, is the same as for :data:`hermes.spi.transport.API_VERSION`."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Settings of a stream's log, from the broker's configuration."""

    segment_bytes: int
    """Size of a segment file or block, header included."""
    retention_bytes: int
    """Bytes of frames kept; 0: no bound.  The active segment always stays."""
    retention_ns: int
    """Age up to which frames are kept, by the broker's append time; 0: no bound."""
    message_max: int
    """Largest payload that is taken from now on, bytes.  What the log holds may be larger, and is read
    all the same."""
    given_out: int = 0
    """Sequences up to here are known to have been delivered: a log that ends before goes on behind
    them, with a gap in their place, if it can.  0: nothing is known."""
    retention_asked: bool = True
    """False: nobody has asked for ``retention_bytes``, and a storage that keeps less unless told may."""


Progress = Callable[[str, int, int], None]
"""Called with (stream, bytes verified, bytes in all) while a log is opened; at most a few times a second."""


class LogState(Protocol):
    """Bounds of a log, as of one instant.  An empty log has ``first_sequence == next_sequence``."""

    @property
    def first_sequence(self) -> int:
        """Sequence of the oldest message kept."""

    @property
    def next_sequence(self) -> int:
        """Sequence after the newest message that the log has: what is before it survives the end of
        this process, if the storage is persistent."""

    @property
    def start_position(self) -> int:
        """Position of the oldest message kept."""

    @property
    def end_position(self) -> int:
        """Position after the newest message that the log has."""

    @property
    def synced_sequence(self) -> int:
        """Messages up to here survive a loss of power.  0 where nothing does."""


class StreamLog(Protocol):
    """One stream's frames, in order.

    Sequences count messages from 1 and have no gaps.  A position is a count of bytes of frames over the life of the
    log: after a frame stands at its position plus its size, whatever was trimmed or lost before.  Frames are kept as
    they are, byte for byte; times are nanoseconds of the broker's clock and do not go back, unless
    that clock was ahead for long and has been set right.

    No call waits for a disk or a network longer than one batch takes, but for :meth:`close`: an append or a sync that
    takes longer is completed later, and what has completed is collected by :meth:`status` after :meth:`events`.
    One thread makes all calls.

    A log that keeps less than :class:`LogSettings` asked for says so in attributes ``retention_bytes`` and
    ``retention_ns``: users are told those.
    """

    def append(
        self,
        frames: memoryview,
        count: int,
        *,
        publisher: bytes | None = None,
        first_sequence: int = 0,
        now_ns: int | None = None,
    ) -> Appended:
        """Keep ``count`` whole, sound MESSAGE frames that bear the stream's next sequences; all of
        them or none.

        ``publisher``: 16 bytes, whose own sequence of the first message is ``first_sequence``; the others follow it.
        None: nobody in particular.  ``now_ns``: the append time.  ``frames`` may not be referred to after the
        return.  A log that completes later takes further appends meanwhile; returns where the frames go.

        Raises:
            StorageFull: there is no room; nothing was kept, and the same append may work later.
            StorageFailed: it cannot be written; every append from now on fails in the same way.
        """

    def publisher_sequence(self, publisher: bytes) -> int:
        """The last sequence of its own that ``publisher`` has in this log, 0 if there is none; also
        of messages trimmed since, as long as the log can tell."""

    def read(self, position: int, limit: int) -> Run | Hole | None:
        """Whole frames from ``position`` on, of at most ``limit`` bytes but at least one.

        None at the end; a Hole where nothing can be read, which says where to go on.  Never returns bytes that the
        log knows to be damaged.

        Raises:
            StorageFailed: it cannot be read now.
            UsageError: ``position`` is beyond the end.
        """

    def locate(self, sequence: int) -> Place:
        """The first message kept with a sequence of at least ``sequence``; the end if there is none."""

    def locate_time(self, time_ns: int) -> Place:
        """The first message appended at ``time_ns`` or later; it may be early by what one append
        holds, never late: damage directly before it, which may be as young, comes first."""

    def status(self) -> LogState:
        """Bounds, now."""

    def sync_begin(self) -> None:
        """Have everything appended so far, what is under way included, reach the disk: at once, or
        by the time :meth:`fileno` becomes readable.

        Raises:
            UsageError: the storage is not durable.
            StorageFailed: this or an earlier sync failed: nothing more can be promised.
        """

    def fileno(self) -> int:
        """A descriptor that becomes readable when something has completed or failed, or when there
        may be room again; -1: everything completes in the call that asks for it."""

    def events(self) -> LogEvent:
        """Return why the descriptor became readable, and make it unreadable.

        Raises:
            StorageFailed: an append or a sync that was under way has failed.
        """

    def trim(self, now_ns: int | None = None) -> int:
        """Apply retention; returns in how many steps something went.  The broker asks about once a
        second."""

    def close(self) -> None:
        """Complete what is under way, sync and close.  Idempotent.

        Raises:
            StorageFailed: what was not synced before may be lost.
        """


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Claims of a storage: the conformance kit tests each claim and skips what is not claimed."""

    persistent: bool = True
    """Appended messages are there when the storage is opened again, also after ``kill -9``."""
    durable: bool = True
    """A sync puts it where it survives a loss of power."""
    native: bool = False
    """Its logs are native memory: nothing enters Python for a message."""
    locks: bool = True
    """A second owner of the same place is refused."""
    detects_damage: bool = True
    """A byte that changed on the disk is never served: it becomes a gap or an error."""
    quota: bool = True
    """An option bounds what the place takes on the disk: what does not fit is refused with
    StorageFull."""


class Storage(Protocol):
    """An opened backend: a place with one log per stream in it.

    One that can keep state in the place of a stream, so that a copy of the stream has it too, has two
    calls more, ``load_stream_state(stream, name)`` and ``save_stream_state(stream, name, state)``, with
    the contract of the two without a stream.  The broker keeps the stream's epochs there.
    """

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
        """Names of the streams that are there already, whether open or not."""

    def open_stream(self, name: str, settings: LogSettings, progress: Progress | None) -> StreamLog:
        """Open or create the log of stream ``name``, recovering it if need be.

        Raises:
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened; the message says what to do.
        """

    def load_state(self, name: str) -> bytes | None:
        """Small named state (durable positions), as last saved; None if there is none."""

    def save_state(self, name: str, state: bytes) -> None:
        """Replace named state atomically; on disk when it returns, if ``durable``.

        The broker calls it from a thread of its own, one call at a time, while logs are in use.
        """

    def close(self) -> None:
        """Give up the place, its lock included; logs are closed by their owner first.  Idempotent."""


@runtime_checkable
class StorageBackend(Protocol):
    """One storage scheme.  Made by a factory that takes no argument."""

    api_version: int
    capabilities: Capabilities

    @property
    def options(self) -> type[msgspec.Struct]:
        """The options of its URL, for :meth:`hermes.spi.url.Url.options`; each has a docstring."""

    def probe(self) -> str | None:
        """None if it can work on this machine, else why not and what to do.  Takes milliseconds;
        touches no network, leaves nothing behind, raises nothing."""

    def open(self, url: Url) -> Storage:
        """Open the place that ``url`` names and lock it.  After an error nothing is left of it, the lock included.

        Raises:
            InvalidUrl: the URL or one of its options makes no sense here.
            DirectoryLocked: another broker owns it; the message names its process.
            StorageFailed, StorageFull, StorageDamaged: it cannot be opened; the message says what to do.
        """
