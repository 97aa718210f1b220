"""A stream whose log is not native memory: a window in front, the log behind.

What is published stands in the window and is handed to the log after every pass, in runs of whole
frames; acknowledgements and subscribers wait until the log says that it has it.  What is older than
the window is read back from the log when a subscription asks for it.  Knows no connection.

Guarantees.  An acknowledged message is in the log, a delivered one too: a subscriber never sees what
a crash can take back from a persistent log.  A log that is full refuses publishers until there is
room; one that fails refuses them until the broker is started again.  Both go on serving what they
have.  What was taken and neither acknowledged nor refused is sent again by its publisher after a
restart, and recognised if the log had it.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from hermes.errors import HermesError, StorageDamaged, StorageFailed, StorageFull
from hermes.native.log import SEGMENT_HEADER, Hole, LogEvent, LogStatus, Place
from hermes.native.stream import Start
from hermes.native.window import DAMAGED, GONE, IO_ERROR, NO_SPACE, Window

if TYPE_CHECKING:
    from hermes.native.log import Appended, Run
    from hermes.native.stream import Cursor, Stream
    from hermes.spi.storage import LogSettings, LogState, Progress, StreamLog

LOG = logging.getLogger("hermes.broker")

WINDOW_BYTES = 64 << 20
"""Bytes of the newest messages kept in memory at least: live subscribers are served from there."""
WINDOW_SEGMENTS = 8
"""The window forgets an eighth at a time."""
CHOKE_BYTES = 16 << 20
"""With so much not confirmed, publishers are read from no more."""
UNCONFIRMED_MAX = 32 << 20
"""Bytes not confirmed beyond which appends are refused: what connections bring in one read each,
before they are held up, fits in between."""
FETCH_BYTES = 1 << 20
"""Bytes asked of the log at a time: enough to hide the price of asking, little enough to hold
nobody up."""
HAND_OVER_BYTES = 1 << 20
"""With so much not handed over, it is done in the middle of a pass."""


class Handed(NamedTuple):
    """The end of a run that the log was given and has not confirmed."""

    sequence: int
    """After its last message."""
    position: int


class Backed:
    """The two halves of one stream's log; has what the kernel asks of a :class:`hermes.native.Log`."""

    def __init__(self, name: str, store: StreamLog, settings: LogSettings) -> None:
        """Take over ``store``.

        Raises:
            StorageDamaged: its bounds are impossible.
        """
        self.name = name
        self.store = store
        state = store.status()
        if not 1 <= state.first_sequence <= state.next_sequence:
            raise StorageDamaged(
                f"the log of stream {name!r} claims the sequences {state.first_sequence} to "
                f"{state.next_sequence - 1}"
            )
        message = settings.message_max + 2 * SEGMENT_HEADER
        segment = max(WINDOW_BYTES // WINDOW_SEGMENTS, message)
        segment = -(-segment // SEGMENT_HEADER) * SEGMENT_HEADER
        size = max(WINDOW_BYTES, 4 * segment)
        self.window = Window.begin(
            first_sequence=state.first_sequence,
            start_position=state.start_position,
            next_sequence=state.next_sequence,
            end_position=state.end_position,
            retention_bytes=size,
            unstored_max=UNCONFIRMED_MAX,
            segment_bytes=segment,
            message_max=settings.message_max,
        )
        self.segment_bytes = segment
        self.retention_bytes = int(getattr(store, "retention_bytes", settings.retention_bytes))
        self.retention_ns = int(getattr(store, "retention_ns", settings.retention_ns))
        self.problem: HermesError | None = None
        """Why appends are refused."""
        self.damaged = 0
        """Stretches of the log that could not be read."""
        self._stream: Stream | None = None
        self._shown = self._given = Handed(state.next_sequence, state.end_position)
        self._waiting: deque[Handed] = deque()
        self._closed = False

    def begin(self, stream: Stream, progress: Progress | None) -> None:
        """Have ``stream``, which was made of the window, know what the log holds; reads all of it.

        Raises:
            StorageDamaged, StorageFailed: the log cannot be read.
        """
        self._stream = stream
        stream.hold()
        state = self.store.status()
        begun, position = state.start_position, state.start_position
        expected = state.first_sequence
        while position < state.end_position:
            found = self._read(position)
            if isinstance(found, Hole):
                self.damaged += 1
                position, expected = found.position, found.first_sequence
                continue
            if found.first_sequence != expected:
                raise StorageDamaged(
                    f"the log of stream {self.name!r} has sequence {found.first_sequence} where "
                    f"{expected} was expected"
                )
            sound = stream.learn(position, found.first_sequence, found.view)
            self.damaged += sound < len(found.view)
            position, expected = position + len(found.view), found.next_sequence
            if progress is not None:
                progress(self.name, position - begun, state.end_position - begun)

    # What the kernel does after every pass.

    @property
    def last_stored(self) -> int:
        """The newest message that the log has confirmed."""
        return self._shown.sequence - 1

    @property
    def behind_bytes(self) -> int:
        """Bytes appended here that the storage has not confirmed."""
        return self.window.status().end_position - self._shown.position

    @property
    def unhanded_bytes(self) -> int:
        """Bytes appended here and not yet passed to the storage."""
        return self.window.status().end_position - self._given.position

    def hand_over(self) -> None:
        """Give the log what was appended since; what prevents it is in :attr:`problem` then."""
        if self.problem is not None:
            return
        try:
            while runs := self.window.runs(self._given.position):
                for run in runs:
                    taken = self.store.append(
                        run.frames,
                        run.messages,
                        publisher=run.publisher,
                        first_sequence=run.publisher_first,
                        now_ns=run.time_ns,
                    )
                    self._check_place(taken, run.first_sequence, run.position)
                    self._given = Handed(
                        run.first_sequence + run.messages, run.position + len(run.frames)
                    )
                    self._waiting.append(self._given)
        except StorageFull as error:
            self._refuse(error, NO_SPACE)
        except Exception as error:
            self.fail(error)

    def retry(self) -> None:
        """If the log was full: there may be room now."""
        if isinstance(self.problem, StorageFull):
            self.problem = None
            self.hand_over()
            if self.problem is None:
                self.window.refuse(0)

    def collect(self) -> bool:
        """Show subscribers what the log has by now; False if nothing was added."""
        before = self._shown
        try:
            state = self.store.status()
            while self._waiting and self._waiting[0].sequence <= state.next_sequence:
                self._shown = self._waiting.popleft()
            self._check(state)
        except Exception as error:
            self._shown = before
            self.fail(error)
            return False
        if self._shown == before:
            return False
        assert self._stream is not None
        self._stream.show(self._shown.position, self._shown.sequence)
        return True

    def fail(self, error: Exception) -> None:
        """Appends are refused from now on; what there is is served."""
        if not isinstance(error, HermesError):  # a fault of the plugin: its author wants to see it
            LOG.error("the log of stream %r failed", self.name, exc_info=error)
            error = StorageFailed(f"{type(error).__name__}: {error}")
        self._refuse(error, IO_ERROR)

    # What subscriptions ask.

    def seek(self, cursor: Cursor, start: Start, value: int) -> None:
        """Have a new cursor begin where the log says.

        Raises:
            StorageFailed: it cannot say.
        """
        state = self.store.status()
        if start is Start.SEQUENCE:
            at, wanted = self.store.locate(value), value
        elif start is Start.TIME:
            at, wanted = self.store.locate_time(value), 0
        else:
            at = Place(state.start_position, state.first_sequence)
            wanted = at.first_sequence
        if at.position >= self._shown.position:
            at = Place(self._shown.position, self._shown.sequence)
            if start is Start.TIME:
                cursor.hold(value)
        reason = GONE if wanted < state.first_sequence else DAMAGED
        cursor.seek(at.position, at.first_sequence, wanted=wanted, reason=reason)

    def fetch(self, position: int) -> None:
        """Bring what stands at ``position`` into memory.

        Raises:
            StorageFailed: the log cannot be read.
        """
        found = self._read(position)
        if isinstance(found, Hole) and found.gone:
            self._begins(self.store.status())
            return
        if isinstance(found, Hole):
            self.window.fill_hole(
                position, found.first_sequence - 1, found.position, found.first_sequence
            )
        elif not self.window.fill(position, found.first_sequence, found.view):
            self.damaged += 1
            end = position + len(found.view)
            self.window.fill_hole(position, found.next_sequence - 1, end, found.next_sequence)

    def recall(self, publisher: bytes) -> None:
        """Know what the log has of a publisher that is about to open."""
        if not self.window.publisher_sequence(publisher):
            last = self.store.publisher_sequence(publisher)
            if last:
                self.window.remember(publisher, last)

    # The shape of a native log.

    def status(self) -> LogStatus:
        """Bounds of what is stored; counters of the window."""
        state, window = self.store.status(), self.window.status()
        failed = 0
        if self.problem is not None:
            failed = NO_SPACE if isinstance(self.problem, StorageFull) else IO_ERROR
        return window._replace(
            first_sequence=state.first_sequence,
            next_sequence=self._shown.sequence,
            start_position=state.start_position,
            end_position=self._shown.position,
            synced_sequence=state.synced_sequence,
            failed=failed,
            last_time_ns=getattr(self.store, "last_time_ns", 0),
        )

    def sync_begin(self) -> None:
        """Have what was handed over reach the disk.

        Raises:
            StorageFailed: it cannot.
        """
        if self.problem is not None and not isinstance(self.problem, StorageFull):
            raise StorageFailed(str(self.problem))
        try:
            self.store.sync_begin()
        except Exception as error:
            self.fail(error)
            raise StorageFailed(str(error)) from error

    def fileno(self) -> int:
        """The log's descriptor."""
        return self.store.fileno()

    def events(self) -> LogEvent:
        """Operations that have completed; a failure is in :attr:`problem` then."""
        if self.store.fileno() < 0:
            return LogEvent.SYNC
        try:
            return self.store.events()
        except Exception as error:
            self.fail(error)
            return LogEvent.SYNC

    def trim(self, now_ns: int) -> None:
        """Apply the log's retention, and try again what was refused."""
        try:
            if self.store.trim(now_ns):
                self._begins(self.store.status())
        except Exception as error:
            self.fail(error)
        self.retry()

    def close(self) -> None:
        """Hand over the rest and close both.  Idempotent.

        Raises:
            StorageFull, StorageFailed: some messages, none of them acknowledged, could not be kept.
        """
        if self._closed:
            return
        self._closed = True
        if isinstance(self.problem, StorageFull):
            self.problem = None
        self.hand_over()
        lost = self.window.status().next_sequence - self._given.sequence
        try:
            self.store.close()
        finally:
            self.window.close()
        if lost and self.problem is not None:
            raise type(self.problem)(
                f"{lost} messages of stream {self.name!r}, which were not acknowledged, could not "
                f"be kept: {self.problem}"
            )

    # Inside.

    def _read(self, position: int) -> Run | Hole:
        try:
            found = self.store.read(position, FETCH_BYTES)
        except HermesError:
            raise
        except Exception as error:
            LOG.exception("the log of stream %r failed", self.name)
            raise StorageFailed(f"{type(error).__name__}: {error}") from error
        if found is None:
            raise StorageFailed(
                f"the log of stream {self.name!r} has nothing at {position}, before its end"
            )
        if isinstance(found, Hole):
            if found.position <= position:
                raise StorageFailed(
                    f"the log of stream {self.name!r} leads from {position} back to "
                    f"{found.position}"
                )
        elif found.position != position or not found.view:
            raise StorageFailed(
                f"the log of stream {self.name!r} answers {position} with {found.position}"
            )
        return found

    def _begins(self, state: LogState) -> None:
        self.window.store_begins(state.first_sequence, state.start_position)

    def _check_place(self, taken: Appended, sequence: int, position: int) -> None:
        """Check that an append stands where subscribers will look for it."""
        if (taken.first_sequence, taken.position) != (sequence, position):
            raise StorageFailed(
                f"the log of stream {self.name!r} put sequence {sequence}, position {position} at "
                f"{taken.first_sequence}, {taken.position}: somebody else has written to it, or "
                "has put an older copy in its place; start the broker again to go on with what "
                "it has"
            )

    def _check(self, state: LogState) -> None:
        """Check that the log claims to have what it was given, and no less than it had."""
        if state.next_sequence < self._shown.sequence:
            raise StorageFailed(
                f"the log of stream {self.name!r} had the sequences up to {self.last_stored} and "
                f"ends at {state.next_sequence - 1} now: an older copy may have been put in its "
                "place; start the broker again to go on with what it has"
            )
        beyond = state.next_sequence > self._given.sequence
        known = state.next_sequence == self._shown.sequence
        if beyond or (known and state.end_position != self._shown.position):
            raise StorageFailed(
                f"the log of stream {self.name!r} claims to end at sequence "
                f"{state.next_sequence}, position {state.end_position}; it was given "
                f"{self._given.sequence}, {self._given.position}"
            )

    def _refuse(self, problem: HermesError, code: int) -> None:
        if self.problem is None or isinstance(self.problem, StorageFull):
            self.problem = problem
            self.window.refuse(code)
