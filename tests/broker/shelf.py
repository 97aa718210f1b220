"""A storage in Python lists whose every step the test makes: what other storages' logs may do."""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from hermes.errors import StorageFailed, StorageFull
from hermes.native.log import Appended, Hole, LogEvent, Place, Run
from hermes.spi.storage import API_VERSION, Capabilities, LogSettings, Progress
from hermes.spi.url import Url


class Row(NamedTuple):
    """One append."""

    first_sequence: int
    messages: int
    position: int
    frames: bytes
    time_ns: int
    publisher: bytes | None
    publisher_first: int

    @property
    def next_sequence(self) -> int:
        """After its last message."""
        return self.first_sequence + self.messages

    @property
    def end(self) -> int:
        """After its last byte."""
        return self.position + len(self.frames)


@dataclass
class Bounds:
    """The result of ``status()``."""

    first_sequence: int
    next_sequence: int
    start_position: int
    end_position: int
    synced_sequence: int


@dataclass
class Shelf:
    """A log: the broker's thread makes the calls, the test turns the switches."""

    later: bool = False
    """Appends and syncs complete only when the test says so."""
    full: bool = False
    append_error: Exception | None = None
    read_error: Exception | None = None
    lie: int = 0
    """Sequences that it claims to have beyond those it has."""
    piece: int = 1 << 30
    """Bytes that one read gives at most."""
    damaged: set[int] = field(default_factory=set)
    """First sequences of rows that have a wrong byte."""
    holes: set[int] = field(default_factory=set)
    """First sequences of rows that it knows to be lost."""
    rows: list[Row] = field(default_factory=list)
    waiting: deque[Row] = field(default_factory=deque)
    reads: int = 0
    synced: int = 0
    sync_asked: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.ended = LogEvent(0)

    # The test's side.

    def complete(self, count: int = 1 << 30, *, sync: bool = False) -> None:
        """Let up to ``count`` appends complete, and with ``sync`` what was asked to be synced."""
        with self.lock:
            while self.waiting and count:
                self.rows.append(self.waiting.popleft())
                count -= 1
            self.ended |= LogEvent.SPACE
            if sync:
                self.synced = min(self.sync_asked, self.rows[-1].next_sequence - 1)
                self.ended |= LogEvent.SYNC
            os.eventfd_write(self.fd, 1)

    def drop(self, count: int) -> None:
        """Have retention take the ``count`` oldest rows at the next trim."""
        with self.lock:
            del self.rows[:count]

    # The broker's side.

    def append(
        self,
        frames: memoryview,
        count: int,
        *,
        publisher: bytes | None = None,
        first_sequence: int = 0,
        now_ns: int | None = None,
    ) -> Appended:
        """See :class:`hermes.spi.storage.StreamLog`."""
        with self.lock:
            if self.append_error is not None:
                raise self.append_error
            if self.full:
                raise StorageFull("the shelf is full")
            last = self.waiting[-1] if self.waiting else self.rows[-1] if self.rows else None
            number, position = (last.next_sequence, last.end) if last else (1, 0)
            assert now_ns is not None
            row = Row(number, count, position, bytes(frames), now_ns, publisher, first_sequence)
            (self.waiting if self.later else self.rows).append(row)
            return Appended(number, position, count)

    def publisher_sequence(self, publisher: bytes) -> int:
        """The last row's of that publisher."""
        found = [r for r in [*self.rows, *self.waiting] if r.publisher == publisher]
        return found[-1].publisher_first + found[-1].messages - 1 if found else 0

    def read(self, position: int, limit: int) -> Run | Hole | None:
        """One row, or the rest of one."""
        self.reads += 1
        if self.read_error is not None:
            raise self.read_error
        with self.lock:
            rows = list(self.rows)
        if not rows or position >= rows[-1].end:
            return None
        if position < rows[0].position:
            return Hole(rows[0].position, rows[0].first_sequence, gone=True)
        row = next(r for r in rows if r.end > position)
        if row.first_sequence in self.holes:
            return Hole(row.end, row.next_sequence, gone=False)
        frames = bytearray(row.frames)
        if row.first_sequence in self.damaged:
            frames[-9] ^= 1
        start, number, end = 0, row.first_sequence, row.next_sequence
        while start < position - row.position:
            start, number = start + self.size(frames, start), number + 1
        if len(frames) - start > min(limit, self.piece):
            stop, end = start + self.size(frames, start), number + 1
            frames = frames[:stop]
        return Run(position, number, end, memoryview(bytes(frames[start:])).toreadonly())

    @staticmethod
    def size(frames: bytearray, at: int) -> int:
        """Bytes of the frame there; it has no properties."""
        topic, payload = frames[at + 6], int.from_bytes(frames[at + 24 : at + 28], "little")
        return 32 + -(-topic // 8) * 8 + -(-payload // 8) * 8

    def locate(self, sequence: int) -> Place:
        """By looking at every frame."""
        for row in self.rows:
            if row.next_sequence > sequence:
                at, number = 0, row.first_sequence
                while number < sequence:
                    at, number = at + self.size(bytearray(row.frames), at), number + 1
                return Place(row.position + at, number)
        state = self.status()
        return Place(state.end_position, state.next_sequence)

    def locate_time(self, time_ns: int) -> Place:
        """A row's beginning."""
        for row in self.rows:
            if row.time_ns >= time_ns:
                return Place(row.position, row.first_sequence)
        state = self.status()
        return Place(state.end_position, state.next_sequence)

    def status(self) -> Bounds:
        """Bounds of what is on the shelf."""
        with self.lock:
            if not self.rows:
                return Bounds(1, 1 + self.lie, 0, 0, 0)
            first, last = self.rows[0], self.rows[-1]
            return Bounds(
                first.first_sequence,
                last.next_sequence + self.lie,
                first.position,
                last.end,
                self.synced,
            )

    def sync_begin(self) -> None:
        """At once, or when the test says so."""
        with self.lock:
            last = [*self.rows, *self.waiting][-1:]
            self.sync_asked = last[0].next_sequence - 1 if last else 0
            if not self.later:
                self.complete(sync=True)

    def fileno(self) -> int:
        """Readable when something was completed."""
        return self.fd

    def events(self) -> LogEvent:
        """Operations that were completed."""
        with self.lock:
            ended, self.ended = self.ended, LogEvent(0)
            if ended:
                os.eventfd_read(self.fd)
            return ended

    def trim(self, now_ns: int | None = None) -> int:
        """Drop what the test has dropped."""
        return 1

    def close(self) -> None:
        """Close; it can be opened again."""
        self.closed = True


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options, of which there are none."""


class ShelfStorage:
    """One stream per name; outlives its brokers."""

    api_version = API_VERSION
    capabilities = Capabilities()
    options = NoOptions
    url = "shelf:"
    durable = True
    sync_interval_ns = None

    def __init__(self) -> None:
        self.shelves: dict[str, Shelf] = {}
        self.states: dict[str, bytes] = {}

    def probe(self) -> str | None:
        """None: it works."""
        return None

    def open(self, url: Url) -> ShelfStorage:
        """Itself."""
        return self

    def streams(self) -> list[str]:
        """Names."""
        return sorted(self.shelves)

    def open_stream(self, name: str, settings: LogSettings, progress: Progress | None) -> Any:
        """The shelf of that name."""
        return self.shelves.setdefault(name, Shelf())

    @property
    def shelf(self) -> Shelf:
        """The stream ``default``."""
        return self.shelves.setdefault("default", Shelf())

    def load_state(self, name: str) -> bytes | None:
        """As saved."""
        return self.states.get(name)

    def save_state(self, name: str, state: bytes) -> None:
        """Kept."""
        self.states[name] = state

    def close(self) -> None:
        """Nothing to do."""


__all__ = ["Row", "Shelf", "ShelfStorage", "StorageFailed"]
