"""Streams: every cursor gets exactly what it wants, in order, and is told of every hole."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hermes.native._core import ffi, lib
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from hermes.errors import Closed
from hermes.native import Decoder, Encoder, Log, decode_batch, encode_batch, match
from hermes.native.frames import crc32c, stamp
from hermes.native.stream import Cursor, Feed, Ingest, Router, Start, Stream
from tests.effort import effort
from tests.native.deliveries import ROOM, Deliver, deliver

if TYPE_CHECKING:
    from tests.native.conftest import RunC

KIB = 1024


class Message(NamedTuple):
    sequence: int
    topic: str
    payload: bytes


def _frame(topic: str, payload: bytes) -> bytes:
    encoder = Encoder()
    encoder.encode(payload, topic=topic)
    return bytes(encoder.view)


class Model:
    """A stream over a log in memory, and the list of what was appended to it."""

    def __init__(
        self, *, segment: int = 8 * KIB, retention: int = 32 * KIB, **options: object
    ) -> None:
        self.log = Log.memory(segment_bytes=segment, retention_bytes=retention)
        self.open(Stream(self.log, **options))  # type: ignore[arg-type]
        self.messages: list[Message] = []
        self.clock = 1

    def append(self, *messages: tuple[str, bytes]) -> None:
        feed = self.feed(*(_frame(topic, payload) for topic, payload in messages))
        assert (feed.kind, feed.messages) == (Feed.MORE, len(messages))
        for topic, payload in messages:
            self.messages.append(Message(len(self.messages) + 1, topic, payload))

    def feed(self, *frames: bytes) -> Any:
        """Result of feeding a batch of ``frames`` from a connection."""
        self.ingest.close()
        self.ingest = Ingest(self.router)  # a refusal leaves the rest of its batch to be skipped
        self.ingest.open(1, bytes(16))
        after, count, joined = self.fed, len(frames), b"".join(frames)
        stamped = bytearray(joined)
        stamp(stamped, after + 1)
        header = encode_batch(id=1, after=after, through=after + count, frames_size=len(joined))
        data = header + bytes(stamped)
        self.clock += 1
        feed = self.ingest.feed(ffi.from_buffer("uint8_t[]", data), len(data), self.clock)
        self.fed += feed.messages
        return feed

    def open(self, stream: Stream) -> None:
        """Have what is appended from now on taken by ``stream``."""
        self.stream, self.router, self.fed = stream, Router(), 0
        self.router.add(stream)
        self.ingest = Ingest(self.router)

    @property
    def last(self) -> int:
        return len(self.messages)

    @property
    def first(self) -> int:
        return self.log.status().first_sequence

    def close(self) -> None:
        self.router.close()
        self.stream.close()
        self.log.close()


class Follower:
    """A cursor and what it must still be sent."""

    def __init__(
        self, model: Model, pattern: str, *, prefix: bool = False, start: Start, value: int = 0
    ) -> None:
        self.model = model
        self.pattern = pattern
        self.prefix = prefix
        self.cursor = model.stream.open_cursor(
            pattern, prefix=prefix, batch_id=7, start=start, value=value
        )
        self.covered = self.cursor.through
        self.received: list[Message] = []
        self.gaps: list[tuple[int, int]] = []
        self.kinds: list[Deliver] = []

    def wants(self, message: Message) -> bool:
        if self.prefix:
            return message.topic.startswith(self.pattern)
        return match(self.pattern, message.topic)

    def pull(self, limit: int = 16 * KIB, *, progress: bool = False) -> Deliver:
        """One delivery, held against the model."""
        delivery = deliver(self.cursor, limit, progress=progress)
        kind = delivery.kind
        self.kinds.append(kind)
        if kind in (Deliver.COPIED, Deliver.RANGE):
            frames = delivery.frames
            batch = decode_batch(delivery.header)
            assert (batch.id, batch.after, batch.through) == (7, delivery.after, delivery.through)
            assert batch.frames_size == len(frames)
            got = [
                Message(header.sequence, topic, bytes(payload))
                for header, topic, payload in Decoder(frames)
            ]
            assert delivery.messages == len(got)
            assert len(frames) <= limit or len(got) == 1
            self._covers(delivery.after, delivery.through, got)
        elif kind is Deliver.GAP:
            assert delivery.gap_first == self.covered + 1
            assert delivery.gap_first <= delivery.gap_last < self.model.first
            assert delivery.gap_reason == lib.HM_EGONE
            self.gaps.append((delivery.gap_first, delivery.gap_last))
            self.covered = delivery.gap_last
        assert self.cursor.through == self.covered
        return kind

    def _covers(self, after: int, through: int, got: list[Message]) -> None:
        assert after == self.covered
        assert through >= after
        assert got == [m for m in self.model.messages[after:through] if self.wants(m)]
        self.received += got
        self.covered = through

    def drain(self, limit: int = 16 * KIB) -> None:
        """Pull until there is nothing; then everything there is must be covered."""
        while self.pull(limit, progress=True) is not Deliver.NOTHING:
            pass
        assert self.covered == self.model.last


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    yield made
    made.close()


@pytest.fixture
def large() -> Iterator[Model]:
    made = Model(segment=4096 * KIB, retention=64 * 1024 * KIB)
    yield made
    made.close()


def test_a_selecting_cursor_gets_what_it_wants_and_nothing_else(model: Model) -> None:
    """A filter that wants one of two topics gets that one's messages, and coverage of the rest."""
    follower = Follower(model, "a.x", start=Start.LATEST)
    model.append(("a.x", b"1"), ("b.x", b"2"), ("a.x", b"3"), ("b.x", b"4"))

    follower.drain()

    assert [m.payload for m in follower.received] == [b"1", b"3"]
    assert follower.gaps == []


def test_a_filter_that_wants_everything_is_sent_log_memory(model: Model) -> None:
    """While every topic is wanted, deliveries are ranges of the log, not copies."""
    follower = Follower(model, "a.>", start=Start.EARLIEST)
    model.append(*[("a.x", b"%d" % i) for i in range(10)])

    follower.drain()

    assert set(follower.kinds) == {Deliver.RANGE, Deliver.NOTHING}


def test_the_first_unwanted_topic_turns_a_filter_selecting(model: Model) -> None:
    """Up to the first unwanted topic a cursor that is behind gets ranges, from there on selected
    frames."""
    follower = Follower(model, "a.>", start=Start.EARLIEST)
    model.append(("a.x", b"1"), ("a.y", b"2"))
    model.append(("a.z", b"3"), ("b", b"4"), ("a.x", b"5"))

    follower.drain()

    assert [m.payload for m in follower.received] == [b"1", b"2", b"3", b"5"]
    assert follower.kinds[0] is Deliver.RANGE
    assert Deliver.COPIED in follower.kinds


def test_consecutive_frames_share_a_note(model: Model) -> None:
    """Messages that stand behind one another take one note, whatever the number of appends."""
    Follower(model, "a", start=Start.LATEST)
    model.append(("b", b""))

    for _ in range(20):
        model.append(("a", b"x"), ("a", b"y"))

    assert model.stream.status().notes == 1


def test_a_note_that_grew_after_it_was_read_is_read_on(model: Model) -> None:
    """A cursor that has read a note to its end gets what is merged into it later."""
    model.append(("b", b""))
    follower = Follower(model, "a", start=Start.LATEST)
    model.append(("a", b"1"))
    follower.drain()
    model.append(("a", b"2"))

    follower.drain()

    assert [m.payload for m in follower.received] == [b"1", b"2"]
    assert model.stream.status().notes == 1


def test_notes_that_were_read_are_forgotten(model: Model) -> None:
    """A cursor that keeps up costs a ring of 64 notes, however many there were."""
    model.append(("b", b""))
    follower = Follower(model, "a", start=Start.LATEST)

    for i in range(1000):
        model.append(("a", b"%d" % i), ("b", b""))
        follower.drain()

    assert model.stream.status().notes <= 64
    assert len(follower.received) == 1000


def test_a_ring_that_overflows_makes_its_cursor_walk(large: Model) -> None:
    """With more notes than a filter keeps, a cursor behind them walks the log and misses
    nothing."""
    large.append(("b", b""))
    slow = Follower(large, "a", start=Start.LATEST)
    for _ in range(30):
        large.append(*[(topic, b"%d" % i) for i in range(500) for topic in ("a", "b")])

    status = large.stream.status()
    slow.drain(64 * KIB)

    assert status.notes <= lib.HM_NOTES_MAX
    assert status.walks == 1
    assert large.stream.status().walks == 0
    assert len(slow.received) == 30 * 500
    assert slow.gaps == []


def test_a_walk_is_bounded_per_call(large: Model) -> None:
    """A walk that finds nothing in its share of the log says AGAIN, and gets there in the end."""
    for _ in range(40):
        large.append(*[("b", bytes(1000))] * 100)
    large.append(("a", b"found"))
    follower = Follower(large, "a", start=Start.EARLIEST)

    kinds = [follower.pull() for _ in range(4)]
    follower.drain()

    assert kinds[:3] == [Deliver.AGAIN] * 3
    assert [m.payload for m in follower.received] == [b"found"]


def test_a_frame_larger_than_the_output_comes_from_the_log(large: Model) -> None:
    """A selected frame that no output chunk can hold is delivered as a range of its own, in its
    place."""
    large.append(("b", b""))
    noted = Follower(large, "a", start=Start.LATEST)
    large.append(("a", b"before"), ("b", b""), ("a", bytes(ROOM)), ("b", b""), ("a", b"after"))
    walking = Follower(large, "a", start=Start.EARLIEST)

    noted.drain(256 * KIB)
    walking.drain(256 * KIB)

    for follower in (noted, walking):
        assert [len(m.payload) for m in follower.received] == [6, ROOM, 5]
        assert follower.kinds.count(Deliver.RANGE) == 1


def test_a_frame_over_the_limit_goes_alone(model: Model) -> None:
    """A limit smaller than a frame still delivers that one frame, selected or not."""
    everything = Follower(model, ">", start=Start.LATEST)
    model.append(("b", b""))
    selected = Follower(model, "a", start=Start.LATEST)
    model.append(("a", bytes(100)), ("a", bytes(100)))

    everything.drain(1)
    selected.drain(1)

    assert len(everything.received) == 3
    assert len(selected.received) == 2


def test_what_retention_has_passed_is_a_gap(model: Model) -> None:
    """A cursor that retention overtakes is told the first and last sequence it missed, and goes
    on."""
    follower = Follower(model, ">", start=Start.EARLIEST)
    model.append(("a", b"x"))
    for _ in range(100):
        model.append(("a", bytes(1000)))

    follower.drain()

    assert follower.gaps == [(1, model.first - 1)]
    assert [m.sequence for m in follower.received] == list(range(model.first, model.last + 1))


def test_a_gap_of_unwanted_messages_is_none(model: Model) -> None:
    """A selecting cursor whose notes say that nothing wanted was trimmed is told of no gap."""
    model.append(("b", b""))
    follower = Follower(model, "a", start=Start.LATEST)
    for _ in range(100):
        model.append(("b", bytes(1000)))
    model.append(("a", b"x"))

    follower.drain()

    assert follower.gaps == []
    assert [m.payload for m in follower.received] == [b"x"]


def test_a_gap_in_notes_begins_with_the_first_wanted_message(model: Model) -> None:
    """A selecting cursor is first told what it covered without loss, then the gap, from the message
    that it misses."""
    model.append(("b", b""))
    follower = Follower(model, "a", start=Start.LATEST)
    model.append(("b", b""), ("a", b"lost"))
    lost = model.last
    for _ in range(100):
        model.append(("b", bytes(1000)))

    follower.drain()

    assert follower.gaps == [(lost, model.first - 1)]


def test_selecting_holds_no_segment(model: Model) -> None:
    """Copying selected frames, by note and by walking, leaves no segment pinned behind."""
    model.append(("b", b""), ("a", b""))
    noted = Follower(model, "a", start=Start.LATEST)
    walking = Follower(model, "a", start=Start.EARLIEST)
    for _ in range(100):
        model.append(("a", b"x"), ("b", bytes(1000)))
        noted.drain()
        walking.drain()

    assert model.log.status().trimmed > 5
    deadline = time.monotonic() + 60
    while model.log.status().pinned and time.monotonic() < deadline:  # the helper has it
        time.sleep(0.001)
    assert model.log.status().pinned == 0


def test_an_old_sequence_begins_with_a_gap(model: Model) -> None:
    """A start at a sequence that is kept no more reports what is missing; one that is kept begins
    exactly there."""
    for _ in range(100):
        model.append(("a", bytes(1000)))

    old = Follower(model, ">", start=Start.SEQUENCE, value=3)
    kept = Follower(model, ">", start=Start.SEQUENCE, value=model.last - 2)
    future = Follower(model, ">", start=Start.SEQUENCE, value=model.last + 100)
    old.drain()
    kept.drain()
    future.drain()

    assert old.gaps == [(3, model.first - 1)]
    assert [m.sequence for m in kept.received] == [model.last - 2, model.last - 1, model.last]
    assert kept.gaps == []
    assert future.received == []


def test_a_start_by_time_begins_at_the_first_message_of_that_time(model: Model) -> None:
    """A start by time gets everything appended then or later."""
    second = 10**9
    for i in range(10):
        model.clock = (i + 1) * second - 1
        model.append(("a", b"%d" % i))

    follower = Follower(model, ">", start=Start.TIME, value=8 * second)
    follower.drain()

    assert [m.payload for m in follower.received] == [b"7", b"8", b"9"]


def test_last_gives_the_newest_of_every_topic_then_goes_live(model: Model) -> None:
    """Start=last sends each wanted topic's newest message in the order of the log, then all that
    follows."""
    model.append(("a.x", b"old"), ("a.y", b"1"), ("b", b"no"), ("a.x", b"2"), ("b", b"no"))
    cursor = model.stream.open_cursor("a.*", start=Start.LAST)
    start = cursor.through
    model.append(("a.y", b"3"))

    deliveries = list(_deliveries(cursor))

    assert [payload for _, _, _, payloads in deliveries for payload in payloads] == [
        b"1",
        b"2",
        b"3",
    ]
    assert deliveries[0][1] == start == 1
    assert [after for _, after, _, _ in deliveries[1:]] == [
        through for _, _, through, _ in deliveries[:-1]
    ]
    assert deliveries[-1][2] == 6


def test_last_of_a_topic_that_was_trimmed_is_nothing(model: Model) -> None:
    """A topic whose newest message retention has passed has no last message, and says so."""
    model.append(("a", b"gone"))
    for _ in range(100):
        model.append(("b", bytes(1000)))

    cursor = model.stream.open_cursor("a", start=Start.LAST)
    infos = {info.name: info.last_sequence for info in model.stream.topics(0, 10)}

    assert cursor.through == model.last
    assert deliver(cursor, KIB).kind == Deliver.NOTHING
    assert infos == {"a": 0, "b": model.last}


def test_last_reports_what_is_trimmed_before_it_was_sent(model: Model) -> None:
    """A newest message that retention passes between the start and its delivery is reported as a
    gap."""
    model.append(("a.1", b"x"), ("a.2", b"x"))
    cursor = model.stream.open_cursor("a.*", start=Start.LAST)
    for _ in range(100):
        model.append(("b", bytes(1000)))

    delivery = deliver(cursor, KIB)

    assert delivery.kind == Deliver.GAP
    assert (delivery.gap_first, delivery.gap_last) == (1, 2)
    assert deliver(cursor, KIB, progress=True).after == 2


def test_last_in_small_bites(model: Model) -> None:
    """A limit of one frame sends the newest messages one by one, none twice."""
    model.append(*[(f"t.{i}", b"%d" % i) for i in range(20)])
    cursor = model.stream.open_cursor("t.*", start=Start.LAST)

    deliveries = list(_deliveries(cursor, limit=1))

    assert [payloads for _, _, _, payloads in deliveries] == [[b"%d" % i] for i in range(20)]


def _deliveries(
    cursor: Cursor, limit: int = KIB
) -> Iterator[tuple[Deliver, int, int, list[bytes]]]:
    while True:
        delivery = deliver(cursor, limit)
        if delivery.kind == Deliver.NOTHING:
            return
        payloads = [bytes(payload) for _, _, payload in Decoder(delivery.frames)]
        yield delivery.kind, delivery.after, delivery.through, payloads


def test_cursors_of_one_filter_go_their_own_ways(model: Model) -> None:
    """Cursors that share a filter and its notes each read from where they stand."""
    model.append(("b", b""), ("a", b"0"))
    early = Follower(model, "a", start=Start.EARLIEST)
    live = Follower(model, "a", start=Start.LATEST)
    model.append(("a", b"1"), ("b", b""))
    live.drain()
    later = Follower(model, "a", start=Start.SEQUENCE, value=3)
    model.append(("a", b"2"))

    for follower in (early, live, later):
        follower.drain()

    assert model.stream.status().filters == 1
    assert [m.payload for m in early.received] == [b"0", b"1", b"2"]
    assert [m.payload for m in live.received] == [b"1", b"2"]
    assert [m.payload for m in later.received] == [b"1", b"2"]


def test_a_filter_goes_with_its_last_cursor(model: Model) -> None:
    """Closing the last cursor of a filter gives its notes and its number back."""
    model.append(("b", b""))
    first = Follower(model, "a", start=Start.LATEST)
    second = Follower(model, "a", start=Start.LATEST)
    model.append(("a", b""))

    first.cursor.close()
    between = model.stream.status()
    second.cursor.close()
    after = model.stream.status()

    assert (between.filters, between.notes, between.cursors) == (1, 1, 1)
    assert (after.filters, after.notes, after.cursors) == (0, 0, 0)
    model.stream.wake()  # nobody is left to be told


def test_a_stream_learns_its_topics_from_the_log(model: Model) -> None:
    """A stream opened on a log that has messages knows their topics, their newest messages, and
    refuses no one of them."""
    model.append(("a", b"1"), ("b", b"2"), ("a", b"3"))
    model.router.close()
    model.stream.close()

    model.open(Stream(model.log, create=False))
    follower = Follower(model, "a", start=Start.EARLIEST)
    model.append(("b", b"4"))
    follower.drain()

    assert [(t.name, t.last_sequence) for t in model.stream.topics(0, 9)] == [("a", 3), ("b", 4)]
    assert [m.payload for m in follower.received] == [b"1", b"3"]


def _damaged(place: Path, sequence: int = 41) -> Log:
    """A log of 100 messages of two topics in turn, in one file; that of ``sequence`` is damaged."""
    with Log.open(place, segment_bytes=256 * KIB) as log:
        encoder = Encoder()
        for i in range(100):
            encoder.encode(bytes([i + 1]) * 200, topic="ab"[i % 2])
        log.append(encoder.view, 100)
    (file,) = [path for path in place.glob("*.log") if not path.name.startswith("spare")]
    data = bytearray(file.read_bytes())
    data[data.index(bytes([sequence]) * 200)] ^= 1
    file.write_bytes(data)
    return Log.open(place, segment_bytes=256 * KIB)


def test_a_start_by_time_begins_with_the_damage_before_it(tmp_path: Path) -> None:
    """When a damaged message came is not known: one that may have come since is a gap."""
    with _damaged(tmp_path, 1) as log, Stream(log) as stream:
        cursor = stream.open_cursor(">", start=Start.TIME, value=0)
        delivery = deliver(cursor, 4 * KIB)

        assert delivery.kind == Deliver.GAP
        assert (delivery.gap_first, delivery.gap_last) == (1, 1)
        assert delivery.gap_reason == lib.HM_EDAMAGED
        assert deliver(cursor, 4 * KIB).after == 1


@pytest.mark.parametrize("pattern", [">", "a"])
def test_what_is_damaged_is_a_gap(tmp_path: Path, pattern: str) -> None:
    """A quarantined message is a gap that says so, in a range and in a walk; all others are served."""
    with _damaged(tmp_path) as log, Stream(log) as stream:
        cursor = stream.open_cursor(pattern, start=Start.EARLIEST)
        seen: list[int] = []
        gaps: list[tuple[int, int, int]] = []
        while (delivery := deliver(cursor, 4 * KIB)).kind != Deliver.NOTHING:
            if delivery.kind == Deliver.GAP:
                gaps.append((delivery.gap_first, delivery.gap_last, delivery.gap_reason))
                continue
            seen += [header.sequence for header, _, _ in Decoder(delivery.frames)]

    step = 1 if pattern == ">" else 2
    assert gaps == [(41, 41, lib.HM_EDAMAGED)]
    assert seen == [sequence for sequence in range(1, 101, step) if sequence != 41]


def test_a_start_inside_damage_begins_with_a_gap(tmp_path: Path) -> None:
    """A start at a sequence that is quarantined says so before it goes on behind it."""
    with _damaged(tmp_path) as log, Stream(log) as stream:
        cursor = stream.open_cursor(">", start=Start.SEQUENCE, value=41)
        delivery = deliver(cursor, 4 * KIB)

        assert delivery.kind == Deliver.GAP
        assert (delivery.gap_first, delivery.gap_last) == (41, 41)
        assert delivery.gap_reason == lib.HM_EDAMAGED
        assert deliver(cursor, 4 * KIB).after == 41


def test_damage_before_all_that_is_sound_is_a_gap(tmp_path: Path) -> None:
    """The earliest start is the oldest message kept, readable or not: its loss is told."""
    with _damaged(tmp_path, 1) as log, Stream(log) as stream:
        cursor = stream.open_cursor(">", start=Start.EARLIEST)
        delivery = deliver(cursor, 4 * KIB)

        assert delivery.kind == Deliver.GAP
        assert (delivery.gap_first, delivery.gap_last) == (1, 1)
        assert delivery.gap_reason == lib.HM_EDAMAGED
        assert deliver(cursor, 4 * KIB).after == 1


def test_unknown_topics_are_refused_where_creation_is_off() -> None:
    """With creation off a topic must be declared; nothing of a refused append is kept."""
    made = Model(create=False)
    made.stream.declare("known")

    refused = made.feed(_frame("unknown", b""))

    assert (refused.kind, refused.error) == (Feed.REFUSED, -lib.HM_ETOPIC)
    assert made.log.status().next_sequence == 1
    made.append(("known", b"x"))
    made.close()


def test_topics_are_bounded() -> None:
    """A topic over the limit is refused; those that are there go on."""
    made = Model(topics_max=2)
    made.append(("a", b""), ("b", b""))

    refused = made.feed(_frame("c", b""))

    assert (refused.kind, refused.error) == (Feed.REFUSED, -lib.HM_ELIMIT)
    made.append(("a", b""))
    assert made.stream.status().topics == 2
    made.close()


def test_an_illegal_topic_is_refused(model: Model) -> None:
    """A frame whose topic is no legal name (the codec does not look) is refused when the topic
    would be added."""
    for name in (b"a..b", b""):
        refused = model.feed(_raw_frame(name))
        assert (refused.kind, refused.error) == (Feed.REFUSED, -lib.HM_ETOPIC)


def test_a_frame_larger_than_a_segment_is_refused(model: Model) -> None:
    """A message that no segment holds is refused, with nothing appended."""
    refused = model.feed(_frame("a", bytes(9000)))

    assert (refused.kind, refused.error) == (Feed.REFUSED, -lib.HM_ELENGTH)
    assert model.log.status().next_sequence == 1


def _raw_frame(topic: bytes) -> bytes:
    padded = topic + bytes(-len(topic) % 8)
    head = struct.pack("<4sBBHQQI", b"HRMS", 1, 1, len(topic), 0, 0, 0)
    return head + struct.pack("<I", crc32c(head[:8] + head[16:] + topic)) + padded


def test_closing_is_final_and_harmless(model: Model) -> None:
    """A closed stream has closed its cursors, may be closed again, and refuses to be used;
    deliveries stay readable."""
    model.append(("a", b"kept"))
    cursor = model.stream.open_cursor("a", start=Start.EARLIEST)
    delivery = deliver(cursor, KIB)
    frames = delivery.frames

    model.stream.close()
    model.stream.close()

    assert b"kept" in bytes(frames)
    with pytest.raises(Closed):
        deliver(cursor, KIB)
    with pytest.raises(Closed):
        model.stream.wake()


TOPICS = ["a", "a.x", "a.y", "b", "b.x", "b.x.c", "ab"]
PATTERNS = [">", "a", "a.*", "a.>", "*", "*.x", "b.*.c", "nobody", "*.*", "a.x"]
PREFIXES = ["", "a", "a.", "b.x", "c"]


class StreamMachine(RuleBasedStateMachine):
    """Random topics, filters, cursors, appends and trims against the list of what was appended."""

    followers = Bundle("followers")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(segment=8 * KIB, retention=24 * KIB)
        self.open: list[Follower] = []

    @rule(
        messages=st.lists(
            st.tuples(st.sampled_from(TOPICS), st.sampled_from([0, 1, 8, 100, 1000, 3000])),
            min_size=1,
            max_size=12,
        )
    )
    def append(self, messages: list[tuple[str, int]]) -> None:
        self.model.append(*[(topic, bytes([i]) * size) for i, (topic, size) in enumerate(messages)])

    @rule(
        target=followers,
        pattern=st.sampled_from(PATTERNS),
        start=st.sampled_from([Start.LATEST, Start.EARLIEST, Start.SEQUENCE]),
        back=st.integers(min_value=0, max_value=60),
    )
    def subscribe(self, pattern: str, start: Start, back: int) -> Follower:
        value = max(1, self.model.last - back)
        return self.follow(Follower(self.model, pattern, start=start, value=value))

    @rule(target=followers, prefix=st.sampled_from(PREFIXES))
    def subscribe_prefix(self, prefix: str) -> Follower:
        return self.follow(Follower(self.model, prefix, prefix=True, start=Start.EARLIEST))

    def follow(self, follower: Follower) -> Follower:
        self.open.append(follower)
        return follower

    @rule(
        follower=followers,
        limit=st.sampled_from([1, 200, 2000, 16 * KIB]),
        progress=st.booleans(),
        times=st.integers(min_value=1, max_value=4),
    )
    def pull(self, follower: Follower, limit: int, progress: bool, times: int) -> None:
        for _ in range(times):
            follower.pull(limit, progress=progress)

    @rule(follower=consumes(followers))
    def unsubscribe(self, follower: Follower) -> None:
        self.open.remove(follower)
        follower.cursor.close()

    @rule()
    def trim(self) -> None:
        self.model.log.trim(self.model.clock)

    @rule()
    def drain(self) -> None:
        for follower in self.open:
            follower.drain()

    @invariant()
    def counted(self) -> None:
        status = self.model.stream.status()
        assert status.cursors == len(self.open)
        assert status.filters == len({(f.prefix, f.pattern) for f in self.open})
        assert status.messages == self.model.last

    def teardown(self) -> None:
        self.drain()
        self.model.close()


TestStreamMachine = StreamMachine.TestCase
TestStreamMachine.settings = settings(
    max_examples=effort(30, 80), stateful_step_count=40, deadline=None
)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("small", [False, True])
def test_the_scenario_under_sanitizers(run_c: RunC, seed: int, small: bool) -> None:
    """A long random scenario holds in C too, also where rings and lists are tiny."""
    defines = ("HM_SMALL_BOUNDS=1",) if small else ()

    said = run_c("stream_scenario.c", "60000", str(seed), defines=defines)

    assert "delivered" in said
