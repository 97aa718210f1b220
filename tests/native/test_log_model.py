"""The log against a plain list: whatever is done to it, it holds what the list says."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hermes.native import Encoder, Hole, Log, Run, decode
from hermes.native.log import INDEX_TICK_NS
from tests.effort import effort

pytestmark = pytest.mark.slow

SEGMENT_BYTES = 12288
RETENTION_BYTES = 10 * SEGMENT_BYTES
PUBLISHERS = [bytes([letter]) * 16 for letter in b"abc"]


@dataclass
class Message:
    """A message that the log must give back."""

    sequence: int
    position: int
    payload: bytes
    time_ns: int


def frames(payloads: list[bytes], topic: str = "t.a") -> bytes:
    """Whole frames, one per payload."""
    encoder = Encoder()
    for payload in payloads:
        encoder.encode(payload, topic=topic)
    return bytes(encoder.view)


def runs(log: Log, limit: int) -> Iterator[Run]:
    """Everything there is, in runs of at most ``limit`` bytes."""
    position = log.status().start_position
    while found := log.read(position, limit):
        assert isinstance(found, Run)
        yield found
        position += len(found.view)


class LogMachine(RuleBasedStateMachine):
    """Appends, reads, locates, trims, reopens and crashes, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="hermes-log-"))
        self.lives = 0
        self.messages: list[Message] = []
        self.sent: dict[bytes, int] = {}
        self.now_ns = 1_000_000_000
        self.held: list[tuple[memoryview, bytes]] = []
        self.log: Log = self._make()

    @property
    def directory(self) -> Path:
        """Directory of the current life."""
        return self.root / str(self.lives)

    def _make(self) -> Log:
        self.directory.mkdir(exist_ok=True)
        return Log.open(
            self.directory,
            segment_bytes=SEGMENT_BYTES,
            retention_bytes=RETENTION_BYTES,
            retention_ns=50_000_000,
            spares=1,
            hot_bytes=self.lives % 2 << 20,
        )

    @rule(
        sizes=st.lists(st.integers(0, 4000), min_size=1, max_size=12),
        publisher=st.sampled_from([None, *PUBLISHERS]),
        step_ns=st.integers(-1000, 3_000_000),
    )
    def append(self, sizes: list[int], publisher: bytes | None, step_ns: int) -> None:
        """A batch goes to the end, whatever its size."""
        payloads = [bytes([(len(self.messages) + i) % 256]) * size for i, size in enumerate(sizes)]
        data = frames(payloads)
        first = self.sent.get(publisher, 0) + 1 if publisher else 0
        time_ns = max(self.now_ns + step_ns, self.messages[-1].time_ns if self.messages else 0)
        before = self.log.status()

        done = self.log.append(
            data, len(sizes), publisher=publisher, first_sequence=first, now_ns=time_ns
        )

        assert done == (before.next_sequence, before.end_position, len(sizes))
        position = done.position
        for i, payload in enumerate(payloads):
            self.messages.append(Message(done.first_sequence + i, position, payload, time_ns))
            position += len(frames([payload]))
        if publisher:
            self.sent[publisher] = first + len(sizes) - 1
        self.now_ns = max(self.now_ns, time_ns)

    @rule(limit=st.integers(1, 20_000))
    def read(self, limit: int) -> None:
        """Reading from the start gives every message kept, in runs of whole frames."""
        kept = self.kept()
        seen = []
        for run in runs(self.log, limit):
            index = decode(run.view)
            assert run.next_sequence - run.first_sequence == len(index)
            assert len(run.view) <= limit or len(index) == 1
            seen += [(h.sequence, bytes(payload)) for h, _, payload in index]

        assert seen == [(m.sequence, m.payload) for m in kept]

    @rule(data=st.data())
    def locate(self, data: Any) -> None:
        """A sequence is found where it stands; one that is gone or to come, at the nearest end."""
        status = self.log.status()
        sequence = data.draw(st.integers(0, status.next_sequence + 3))

        place = self.log.locate(sequence)

        wanted = min(max(sequence, status.first_sequence), status.next_sequence)
        assert place.first_sequence == wanted
        if wanted < status.next_sequence:
            assert place.position == self.messages[wanted - 1].position
        else:
            assert place.position == status.end_position

    @rule(data=st.data())
    def locate_time(self, data: Any) -> None:
        """A start by time skips no message appended at or after it, and is early by less than a tick."""
        kept = self.kept()
        time_ns = data.draw(st.integers(self.now_ns - 30_000_000, self.now_ns + 1000))

        place = self.log.locate_time(time_ns)

        first = next((m.sequence for m in kept if m.time_ns >= time_ns), None)
        assert place.first_sequence <= (first or self.log.status().next_sequence)
        if place.first_sequence < self.log.status().next_sequence:
            message = self.messages[place.first_sequence - 1]
            assert message.position == place.position
            assert message.time_ns > time_ns - 2 * INDEX_TICK_NS

    @rule(step_ns=st.integers(0, 40_000_000))
    def trim(self, step_ns: int) -> None:
        """Retention takes whole segments from the front, and only what is too old or too much."""
        self.now_ns += step_ns
        before = self.log.status()

        self.log.trim(self.now_ns)

        after = self.log.status()
        assert after.first_sequence >= before.first_sequence
        assert after.next_sequence == before.next_sequence
        if after.segments > 1:
            assert after.end_position - after.start_position <= RETENTION_BYTES

    @rule()
    def sync(self) -> None:
        """After a sync everything is on disk."""
        self.log.sync()

        assert self.log.status().synced_sequence == self.log.status().next_sequence - 1

    @rule()
    def hold(self) -> None:
        """Views stay what they were, through everything that follows."""
        status = self.log.status()
        if run := self.log.read(status.start_position, 5000):
            assert isinstance(run, Run)
            self.held.append((run.view, bytes(run.view)))

    @rule()
    def reopen(self) -> None:
        """A close and an open change nothing."""
        before = self.log.status()
        self.log.close()
        self.log = self._make()

        self.check_same(before)
        assert self.log.report.cut_bytes == 0

    @rule()
    def crash(self) -> None:
        """The files as they stand, without a close, hold everything that was appended."""
        before = self.log.status()
        dead, old = self.log, self.directory
        self.lives += 1
        shutil.copytree(old, self.directory)
        self.log = self._make()
        dead.close()
        shutil.rmtree(old)

        self.check_same(before)

    def check_same(self, before: Any) -> None:
        """Check what a reopened log must have in common with what it was."""
        after = self.log.status()
        assert after.first_sequence == before.first_sequence
        assert after.next_sequence == before.next_sequence
        assert after.start_position == before.start_position
        assert after.end_position == before.end_position
        assert self.log.report.damaged_ranges == 0
        assert self.log.report.messages == after.next_sequence - after.first_sequence

    def kept(self) -> list[Message]:
        """The messages that retention has left."""
        return self.messages[self.log.status().first_sequence - 1 :]

    @invariant()
    def publishers_are_remembered(self) -> None:
        """The duplicate filter knows each publisher's last sequence, whatever was trimmed."""
        for publisher in PUBLISHERS:
            assert self.log.publisher_sequence(publisher) == self.sent.get(publisher, 0)

    @invariant()
    def held_views_are_unchanged(self) -> None:
        """Nobody writes where a reader looks."""
        assert all(bytes(view) == copy for view, copy in self.held)

    @precondition(lambda self: len(self.held) > 3)
    @rule()
    def drop(self) -> None:
        """Readers go away."""
        self.held.clear()

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.held.clear()
        with contextlib.closing(self.log):
            pass
        shutil.rmtree(self.root)


class MemoryMachine(LogMachine):
    """The same, in anonymous memory: all but what needs files."""

    def _make(self) -> Log:
        return Log.memory(
            segment_bytes=SEGMENT_BYTES,
            retention_bytes=RETENTION_BYTES,
            retention_ns=50_000_000,
            spares=1,
        )

    @initialize()
    def nothing_to_reopen(self) -> None:
        """Messages in memory are gone with the log."""

    @precondition(lambda self: False)
    @rule()
    def reopen(self) -> None:
        """Memory does not outlive its log."""

    @precondition(lambda self: False)
    @rule()
    def crash(self) -> None:
        """Memory does not outlive its log."""

    @precondition(lambda self: False)
    @rule()
    def sync(self) -> None:
        """Memory has no disk to reach."""


LIMITS = settings(
    max_examples=effort(15, 40),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = LIMITS
TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = LIMITS


def test_a_hole_says_where_to_go_on(tmp_path: Path) -> None:
    """A position that retention has passed answers with the oldest message kept."""
    with Log.open(tmp_path, segment_bytes=8192, retention_bytes=20_000) as log:
        for _ in range(40):
            log.append(frames([b"x" * 1000]), 1)

        hole = log.read(0, 1000)

        status = log.status()
        assert hole == Hole(status.start_position, status.first_sequence, gone=True)
