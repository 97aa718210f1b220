"""Use of a log by the storage tests: frames that say what they are, and a record of what was
appended to compare what is read with.

Knows no pytest.
"""

from __future__ import annotations

import random
import select
import time
from bisect import bisect_left
from dataclasses import dataclass, field

from hermes.native import Encoder, Hole, Run, decode
from hermes.native.log import LogEvent
from hermes.spi.storage import LogSettings, LogState, StreamLog
from hermes.testing.compare import same

SEGMENT = 64 << 10
"""Bytes of a segment: small, so that little data makes many."""
MESSAGE_MAX = 16 << 10
"""Bytes of the largest payload."""
SETTINGS = LogSettings(
    segment_bytes=SEGMENT, retention_bytes=1 << 30, retention_ns=0, message_max=MESSAGE_MAX
)
TICK_NS = 2_000_000
"""Between two appends, in the tests' own time: more than any log joins."""
EVENTS_MAX = 100
"""Calls of events() after which a log that nobody appends to has nothing more to report."""
EPOCH_NS = 1_700_000_000 * 10**9
"""When the tests' own time begins."""


def payload(sequence: int, size: int) -> bytes:
    """Payload of message ``sequence`` of a stream: bytes that no other message has."""
    return random.Random(sequence * 1_000_003 + size).randbytes(size)


def encode(first_sequence: int, sizes: list[int], topic: str = "kit.topic") -> list[bytes]:
    """One frame for each of ``sizes``, which bear consecutive sequences."""
    frames = []
    for number, size in enumerate(sizes):
        encoder = Encoder()
        sequence = first_sequence + number
        encoder.encode(payload(sequence, size), topic=topic, sequence=sequence, timestamp_ns=1)
        frames.append(bytes(encoder.view))
    return frames


@dataclass(slots=True)
class Appended:
    """One message of the record."""

    sequence: int
    position: int
    frame: bytes
    time_ns: int
    first: int
    """Sequence of the first message of the same append."""


@dataclass(slots=True)
class Reading:
    """Result of reading all of a log."""

    frames: dict[int, bytes] = field(default_factory=dict)
    """By sequence."""
    holes: list[tuple[int, int]] = field(default_factory=list)
    """First and last missing sequence of each."""
    end: int = 0
    next_sequence: int = 0


class Scribe:
    """Appends to one log, and knows what must be read from it."""

    def __init__(self, log: StreamLog, deadline_s: float) -> None:
        self.log = log
        self.deadline_s = deadline_s
        self.messages: list[Appended] = []
        self.publishers: dict[bytes, int] = {}
        self.start = 0
        """Messages of the record that retention has taken."""
        self.time_ns = EPOCH_NS
        state = log.status()
        self.next_sequence = state.next_sequence
        self.end = state.end_position

    def append(
        self,
        sizes: list[int],
        *,
        publisher: bytes | None = None,
        topic: str = "kit.topic",
        wait: bool = True,
    ) -> list[Appended]:
        """One append, in which each of ``sizes`` is a message; ``wait`` until the log has it."""
        frames = encode(self.next_sequence, sizes, topic)
        joined = bytearray(b"".join(frames))
        first = self.publishers.get(publisher, 0) + 1 if publisher is not None else 0
        self.time_ns += TICK_NS
        where = self.log.append(
            memoryview(joined),
            len(frames),
            publisher=publisher,
            first_sequence=first,
            now_ns=self.time_ns,
        )
        joined[:] = bytes(len(joined))  # the log may not refer to it any more
        assert (where.first_sequence, where.position) == (self.next_sequence, self.end), (
            f"append() returned {where}, expected sequence {self.next_sequence}, position "
            f"{self.end}: sequences count by one, positions by the bytes of frames"
        )
        assert where.messages == len(frames), f"append() kept {where.messages} of {len(frames)}"
        begun = self.next_sequence
        for frame in frames:
            self.messages.append(Appended(self.next_sequence, self.end, frame, self.time_ns, begun))
            self.next_sequence += 1
            self.end += len(frame)
        if publisher is not None:
            self.publishers[publisher] = first + len(frames) - 1
        if wait:
            self.settle()
        return self.messages[-len(frames) :]

    def fill(self, count: int, size: int = 500, *, publisher: bytes | None = None) -> None:
        """Append ``count`` messages, one by one."""
        for _ in range(count):
            self.append([size], publisher=publisher)

    def settle(self) -> None:
        """Wait until the log has all that was appended."""
        settle(self.log, self.next_sequence, self.deadline_s)
        state = self.log.status()
        assert (state.next_sequence, state.end_position) == (self.next_sequence, self.end), (
            f"status() says {state}, {self.next_sequence} and {self.end} come next"
        )
        check_synced(state)

    def forget(self) -> None:
        """Follow what the log says that retention took; it must be the oldest messages, whole."""
        state = self.log.status()
        first = self.messages[0].sequence if self.messages else self.next_sequence
        gone = state.first_sequence - first
        assert self.start <= gone <= len(self.messages), (
            f"status() says that {state.first_sequence} is the oldest message"
        )
        self.start = gone
        expected = self.messages[gone].position if gone < len(self.messages) else self.end
        assert state.start_position == expected, (
            f"status() says that message {state.first_sequence} stands at {state.start_position}, "
            f"it was appended at {expected}"
        )

    @property
    def kept(self) -> list[Appended]:
        """Appends that must still be there."""
        return self.messages[self.start :]

    @property
    def kept_bytes(self) -> int:
        """How much that is."""
        return sum(len(message.frame) for message in self.kept)

    def check(self, limit: int = 10_000) -> None:
        """Everything that must be there is, and nothing else."""
        reading = read_all(self.log, limit)
        assert not reading.holes, (
            f"StreamLog.read: sequences have no gaps; these are missing: {reading.holes}"
        )
        expected = {message.sequence: message.frame for message in self.kept}
        assert same(list(reading.frames), list(expected)), (
            "other sequences are read than were appended"
        )
        wrong = [number for number, frame in expected.items() if reading.frames[number] != frame]
        assert not wrong, f"other bytes are read than were appended, of the sequences {wrong}"

    def at(self, sequence: int) -> tuple[int, int]:
        """Position and sequence of the first message kept with at least ``sequence``."""
        kept = self.kept
        index = bisect_left(kept, sequence, key=lambda message: message.sequence)
        if index == len(kept):
            return self.end, self.next_sequence
        return kept[index].position, kept[index].sequence


def settle(log: StreamLog, next_sequence: int, deadline_s: float) -> None:
    """Wait until ``log`` has everything before ``next_sequence``."""
    end = time.monotonic() + deadline_s
    while log.status().next_sequence < next_sequence:
        assert log.fileno() >= 0, (
            "fileno() is -1, so appends complete at once; status() says that one has not"
        )
        wait(log, end)


def sync(log: StreamLog, through: int, deadline_s: float) -> None:
    """Have everything up to sequence ``through`` synced, and wait for it."""
    end = time.monotonic() + deadline_s
    log.sync_begin()
    while log.status().synced_sequence < through:
        assert log.fileno() >= 0, (
            "fileno() is -1, so a sync completes at once; status() says that it has not"
        )
        wait(log, end)


def wait(log: StreamLog, end: float) -> LogEvent:
    """Wait until something has completed, at most until ``time.monotonic()`` is ``end``."""
    left = end - time.monotonic()
    poll = select.poll()
    poll.register(log.fileno(), select.POLLIN)
    assert left > 0, "nothing completed in time"
    assert poll.poll(left * 1000), f"fileno() did not become readable within {left:.0f} s"
    happened = log.events()
    for _ in range(EVENTS_MAX):
        if not poll.poll(0):
            return happened
        happened |= log.events()  # something more may have completed meanwhile
    raise AssertionError(
        "StreamLog.events: it makes fileno() unreadable; the descriptor is readable after "
        f"{EVENTS_MAX} calls, and a broker that waits on it would never sleep"
    )


def check_synced(state: LogState) -> None:
    """Fail if ``state`` promises more than the log has."""
    assert state.synced_sequence < state.next_sequence, (
        f"LogState.synced_sequence: messages up to {state.synced_sequence} are said to survive a loss "
        f"of power, and {state.next_sequence} is the next that the log will have"
    )


def read_all(log: StreamLog, limit: int = 10_000) -> Reading:
    """Read ``log`` from its start to its end, checking that every answer leads on to the next."""
    state = log.status()
    position, expected = state.start_position, state.first_sequence
    reading = Reading()
    while (found := log.read(position, limit)) is not None:
        if isinstance(found, Hole):
            assert not found.gone, f"read({position}) says that it is gone: status() knows nothing"
            assert found.position > position, "a hole has to lead on"
            assert found.first_sequence >= expected, "a hole leads back"
            reading.holes.append((expected, found.first_sequence - 1))
            position, expected = found.position, found.first_sequence
            continue
        take(found, position, expected, limit, reading)
        position += len(found.view)
        expected = found.next_sequence
    assert position == state.end_position, (
        f"reading ended at {position}, status() says {state.end_position}"
    )
    assert expected == state.next_sequence, (
        f"reading ended before sequence {expected}, status() says {state.next_sequence}"
    )
    reading.end, reading.next_sequence = position, expected
    return reading


def take(run: Run, position: int, expected: int, limit: int, reading: Reading) -> None:
    """Check one run of frames, and enter its frames."""
    assert run.position == position, f"read({position}) answers with {run.position}"
    assert run.first_sequence == expected, (
        f"read({position}) begins with sequence {run.first_sequence}, {expected} comes next: "
        "sequences have no gaps but holes"
    )
    assert run.view.readonly, "read() returns memory that its reader could change"
    index = decode(run.view, message_max=MESSAGE_MAX)  # raises if a byte is wrong
    assert index.consumed == len(run.view), "read() returns whole frames"
    assert len(index) > 0, "read() returns at least one frame, or None"
    assert len(run.view) <= limit or len(index) == 1, (
        f"read() returned {len(run.view)} bytes in {len(index)} frames, the limit was {limit}"
    )
    bounds = [*index.frame_offset, len(run.view)]
    for number in range(len(index)):
        assert index.sequence[number] == expected + number, (
            f"a frame bears sequence {index.sequence[number]}, not {expected + number}"
        )
        frame = bytes(run.view[bounds[number] : bounds[number + 1]])
        reading.frames[expected + number] = frame
    assert run.next_sequence == expected + len(index), (
        f"read() says that {run.next_sequence} comes next, {len(index)} frames follow {expected}"
    )
