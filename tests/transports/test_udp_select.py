"""A subscriber's choice out of a group's stream, against the same choice made in Python."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.native.decoder import decode
from hermes.native.envelopes import EnvelopeReader
from hermes.native.frames import encode_batch
from hermes.native.patterns import match
from hermes.wire import messages as m
from hermes.wire.codec import decode_control, encode_control
from hermes_udp.native import ffi, lib
from tests.effort import effort
from tests.wire import reference as ref

INDEX = 3
"""The group's index of the stream."""
OUT = 9
"""The client's index of it."""
MORE, FULL = lib.HU_SELECT_MORE, lib.HU_SELECT_FULL
CONTROL, HOLE = lib.HU_SELECT_CONTROL_AT, lib.HU_SELECT_HOLE
MALFORMED = lib.HU_SELECT_MALFORMED
TOPICS = ["a", "a.b", "a.c", "b", "long." + "x" * 200]
FILTERS = [(">", False), ("a.*", False), ("a", True), ("nothing", False), ("long.>", False)]


def message(topic: str, sequence: int, size: int = 8) -> bytes:
    return ref.message(topic, bytes(size), sequence)


def batch(after: int, through: int, found: bytes = b"", stream: int = INDEX) -> bytes:
    """A batch of the group's own subscription."""
    head = encode_batch(
        id=1, stream=stream, after=after, through=through, frames_size=len(found), timestamp_ns=5
    )
    return head + found


@dataclass
class Got:
    """Messages that one subscription was given."""

    batches: list[tuple[int, int]] = field(default_factory=list)
    messages: list[tuple[int, str]] = field(default_factory=list)
    holes: list[tuple[int, int]] = field(default_factory=list)


class Selector:
    """A selector, its input and what came of it."""

    def __init__(self) -> None:
        self.select = ffi.gc(lib.hu_select_new(), lib.hu_select_free)
        self.event = ffi.new("hu_select_event *")
        self.consumed = ffi.new("uint64_t *")
        self.out = bytearray()
        self.holes: dict[int, list[tuple[int, int]]] = {}
        self.controls: list[bytes] = []
        self.begun: dict[int, int] = {}
        assert lib.hu_select_stream(self.select, INDEX, 0) == 0

    def add(self, id: int, filter: str, *, prefix: bool = False, through: int = 0) -> int:
        data = filter.encode()
        row = int(lib.hu_select_add(self.select, id, prefix, data, len(data)))
        assert row >= 0
        self.begun[id] = through
        assert lib.hu_select_route(self.select, row, INDEX, OUT, through) == 0
        return row

    def walk(self, data: bytes, split: int, capacity: int) -> tuple[int, int]:
        """One walk over ``data`` in two pieces; bytes consumed, and what stopped it."""
        keep = [ffi.new("uint8_t[]", part or b"\0") for part in (data[:split], data[split:])]
        bytes_ = ffi.new("hu_bytes *")
        bytes_.data[0], bytes_.data[1] = keep
        bytes_.size[0], bytes_.size[1] = split, len(data) - split
        place = ffi.new("uint8_t[]", max(capacity, 1))
        size = lib.hu_select_walk(self.select, bytes_, place, capacity, self.consumed, self.event)
        assert size <= capacity
        self.out += ffi.buffer(place, size)
        return int(self.consumed[0]), int(self.event.what)

    def feed(self, data: bytes, draw: Callable[[int, int], int] | None = None) -> int:
        """Walk over all of ``data``, in pieces as ``draw`` has it; what stopped it last."""
        at = arrived = 0
        stuck = 0
        while True:
            arrived = len(data) if draw is None else min(len(data), arrived + draw(1, 600))
            split = arrived - at if draw is None else draw(0, arrived - at)
            capacity = 1 << 20 if draw is None else draw(1, 700)
            before = len(self.out)
            consumed, what = self.walk(data[at:arrived], split, capacity)
            at += consumed
            if what == HOLE:
                hole = (int(self.event.first), int(self.event.last))
                self.holes.setdefault(self.event.id, []).append(hole)
                self.out += encode_control(m.Gap(self.event.id, OUT, *hole, "retention"))
            elif what == CONTROL:
                control = bytes(ffi.buffer(lib.hu_select_control(self.select), self.event.size))
                self.controls.append(control)
            elif what == MALFORMED or (what == MORE and arrived == len(data)):
                return what
            came = consumed or len(self.out) > before or arrived < len(data)
            stuck = 0 if came else stuck + 1
            assert stuck < 1000, "the walk does not come forward"

    def got(self) -> dict[int, Got]:
        """Output by subscription, its coverage proved to be seamless."""
        found: dict[int, Got] = {}
        position = dict(self.begun)
        for envelope, body in envelopes(bytes(self.out)):
            if isinstance(envelope, m.Gap):
                one = found.setdefault(envelope.subscription, Got())
                assert envelope.first == position[envelope.subscription] + 1
                position[envelope.subscription] = envelope.last
                one.holes.append((envelope.first, envelope.last))
                continue
            id, after, through = envelope
            one = found.setdefault(id, Got())
            assert after == position[id]
            position[id] = through
            one.batches.append((after, through))
            last = after
            for sequence, topic in body:
                assert last < sequence <= through
                last = sequence
                one.messages.append((sequence, topic))
        return found


def envelopes(data: bytes) -> Iterator[tuple[Any, list[tuple[int, str]]]]:
    """Output for a client: gaps, and batches as (id, after, through) with their messages."""
    reader = EnvelopeReader(control_max=4096, batch_max=1 << 20)
    at = 0
    while at < len(data):
        size, after, through, _, id, stream, payload, kind = reader.read(data, at, len(data))
        assert kind > 0, "the output is sound, and whole"
        if kind == ref.BATCH:
            assert stream == OUT
            found = decode(data[at + 56 : at + size])
            yield (id, after, through), [(header.sequence, topic) for header, topic, _ in found]
        else:
            yield decode_control(kind, data[at + 32 : at + 32 + payload]), []
        at += size


def wants(filter: str, prefix: bool, topic: str) -> bool:
    return topic.startswith(filter) if prefix else match(filter, topic)


@st.composite
def streams(draw: Callable[[Any], Any]) -> tuple[bytes, list[tuple[int, str]], list[range]]:
    """A group's stream of several batches, the messages in it, and the holes between them."""
    data, messages, holes, sequence = b"", [], [], 0
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.integers(0, 4)) == 0:
            skipped = draw(st.integers(1, 5))
            holes.append(range(sequence + 1, sequence + 1 + skipped))
            sequence += skipped
        after, found = sequence, b""
        for _ in range(draw(st.integers(0, 6))):
            sequence += draw(st.integers(1, 3))
            topic = draw(st.sampled_from(TOPICS))
            found += message(topic, sequence, draw(st.integers(0, 900)))
            messages.append((sequence, topic))
        sequence += draw(st.integers(0, 3))
        data += batch(after, sequence, found)
    return data, messages, holes


@settings(max_examples=effort(100, 300), deadline=None)
@given(streams(), st.integers(0, 1 << 32), st.integers(0, 8))
def test_selection_equals_filtering(
    stream: tuple[bytes, list[tuple[int, str]], list[range]], seed: int, begun: int
) -> None:
    """However the stream arrives, wraps and leaves, each subscription gets what it wants from where
    it began, in coverage without a seam, and every hole is told."""
    raw, messages, holes = stream
    selector = Selector()
    for id, (filter, prefix) in enumerate(FILTERS):
        selector.add(id, filter, prefix=prefix, through=begun)

    assert selector.feed(raw, random.Random(seed).randint) == MORE

    lost = [sequence for hole in holes for sequence in hole if sequence > begun]
    got = selector.got()
    for id, (filter, prefix) in enumerate(FILTERS):
        one = got.get(id, Got())
        wanted = [(s, t) for s, t in messages if s > begun and wants(filter, prefix, t)]
        assert one.messages == wanted
        assert [s for first, last in one.holes for s in range(first, last + 1)] == lost


def test_what_nobody_wants_is_marked_in_time() -> None:
    """A subscription that meets nothing is told how far it was looked, at least every 65,536
    sequences and every MiB."""
    selector = Selector()
    selector.add(1, "nothing")
    few = b"".join(batch(at, at + 1000) for at in range(0, 140_000, 1000))
    large = message("a", 140_001, 60_000)
    size = len(large)
    many = b"".join(
        batch(140_000 + i, 140_001 + i, message("a", 140_001 + i, 60_000)) for i in range(40)
    )

    selector.feed(few)
    selector.feed(many)

    marks = [through for _, through in selector.got()[1].batches]
    assert marks[:2] == [66_000, 132_000]
    assert [b - a for a, b in itertools.pairwise(marks[2:])] == [18] * (len(marks) - 3)
    assert size * 18 >= lib.HU_MARK_BYTES > size * 17


def test_a_mark_finds_room_wherever_there_is_any() -> None:
    """An output smaller than a mark gets it in parts: who has asked for little is not stuck."""
    selector = Selector()
    selector.add(1, "nothing")
    data = batch(0, 70_000)

    for _ in range(2):
        consumed, what = selector.walk(data, len(data), 40)
        data = data[consumed:]

    assert what == MORE
    assert selector.got()[1].batches == [(0, 70_000)]


def test_a_stream_that_nobody_wants_is_passed_over() -> None:
    """Batches of unknown streams and of streams without a route are skipped unread, and known ones
    keep count."""
    selector = Selector()
    selector.add(1, ">")
    assert lib.hu_select_stream(selector.select, 4, 7) == 0

    selector.feed(batch(7, 9, bytes(64), stream=4) + batch(0, 1, bytes(64), stream=5))
    selector.feed(batch(0, 1, message("a", 1)))

    assert selector.got()[1].messages == [(1, "a")]
    assert lib.hu_select_through(selector.select, 4) == 9
    assert lib.hu_select_through(selector.select, 5) == 2**64 - 1


def test_control_frames_come_out_and_the_groups_own_gaps_reach_every_row() -> None:
    """The group's Gap becomes one for every subscription that has not got past it."""
    selector = Selector()
    selector.add(1, ">")
    selector.add(2, ">", through=6)
    gap = encode_control(m.Gap(1, INDEX, 1, 6, "retention"))

    selector.feed(gap)
    lib.hu_select_gap(selector.select, INDEX, 6)
    selector.feed(batch(6, 7, message("a", 7)))

    assert selector.controls == [gap]
    assert selector.got()[1] == Got([(6, 7)], [(7, "a")], [(1, 6)])
    assert selector.got()[2] == Got([(6, 7)], [(7, "a")], [])


def test_a_row_that_ends_makes_room_for_another() -> None:
    """As many rows as there may be; one that is removed gets nothing, and its place is free."""
    selector = Selector()
    rows = [selector.add(id, ">") for id in range(lib.HU_SELECT_ROWS)]
    assert lib.hu_select_add(selector.select, 99, 0, b">", 1) < 0

    lib.hu_select_remove(selector.select, rows[5])
    row = selector.add(99, ">", through=1)
    selector.feed(batch(0, 2, message("a", 1) + message("a", 2)))

    got = selector.got()
    assert row == rows[5]
    assert 5 not in got
    assert got[99].messages == [(2, "a")]
    assert got[0].messages == [(1, "a"), (2, "a")]


def test_rows_may_come_where_the_coverage_is_whole_only() -> None:
    """Inside a chunk, or a batch that is skipped, is no border."""
    selector = Selector()
    skipped = batch(0, 5, bytes(640))
    assert lib.hu_select_border(selector.select)

    selector.walk(skipped[:100], 100, 1000)
    assert not lib.hu_select_border(selector.select)
    selector.feed(skipped[100:])
    assert lib.hu_select_border(selector.select)

    selector.add(1, ">", through=5)
    wanted = batch(5, 6, message("a", 6, 800))
    consumed, what = selector.walk(wanted, len(wanted), 100)
    assert what == FULL
    assert lib.hu_select_pending(selector.select)
    assert not lib.hu_select_border(selector.select)
    selector.feed(wanted[consumed:])
    assert lib.hu_select_border(selector.select)
    assert selector.got()[1].messages == [(6, "a")]


def test_what_follows_bytes_that_were_given_up_is_a_hole() -> None:
    """After a resync the walk begins with an envelope, and tells what is missing before it."""
    selector = Selector()
    selector.add(1, ">")
    first = batch(0, 3, message("a", 1) + message("a", 2) + message("a", 3))
    selector.walk(first[:-60], 100, 10_000)

    lib.hu_select_resync(selector.select)
    selector.feed(batch(8, 9, message("a", 9)))

    got = selector.got()[1]
    last = got.messages[0][0]
    assert got.holes == [(last + 1, 8)]
    assert got.messages == [(last, "a"), (9, "a")]


def test_a_gap_is_told_before_anything_else_comes() -> None:
    """Where bytes were given up and nothing follows, the rows hear of it all the same; until then
    no row may come."""
    selector = Selector()
    selector.add(1, ">")
    selector.add(2, ">", through=9)
    assert lib.hu_select_stream(selector.select, 8, 3) == 0
    assert lib.hu_select_stream(selector.select, 9, 0) == 0

    lib.hu_select_resync(selector.select)
    lib.hu_select_gap(selector.select, INDEX, 9)
    lib.hu_select_gap(selector.select, 8, 5)
    lib.hu_select_gap(selector.select, 9, 0)
    assert not lib.hu_select_border(selector.select)
    assert selector.feed(b"") == MORE

    assert lib.hu_select_border(selector.select)
    assert selector.holes == {1: [(1, 9)]}
    assert lib.hu_select_through(selector.select, INDEX) == 9
    assert lib.hu_select_through(selector.select, 8) == 5
    assert lib.hu_select_through(selector.select, 9) == 0  # it is known that it has nothing


def broken(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + bytes([value]) + data[offset + 1 :]


GOOD = batch(0, 2, message("a", 1) + message("a", 2))


@pytest.mark.parametrize(
    "data",
    [
        broken(GOOD, 0, 1),
        broken(GOOD, 4, 9),
        broken(GOOD, 5, 1),
        broken(GOOD, 40, 3),
        broken(GOOD, 56, 1),
        broken(GOOD, 56 + 5, 2),
        broken(GOOD, 56 + 8, 3),
        broken(GOOD, 56 + 8, 0),
        broken(GOOD, 56 + 24, 200),
        broken(GOOD, 56 + 7, 1),
        batch(0, 1, message("a", 1) + message("a", 2)),
        ref.frame(21, bytes(5000)),
        broken(ref.frame(21, bytes(50)), 33, 1),
    ],
)
def test_what_cannot_be_a_stream_is_malformed(data: bytes) -> None:
    """Everything the walk relies on is checked: it stops, and stays stopped."""
    selector = Selector()
    selector.add(1, ">")

    assert selector.feed(data) == MALFORMED
