"""Ingest: any segmentation gives the same logs; every way to be malformed has its answer."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hermes.native._core import ffi, lib
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.errors import InvalidTopic, MalformedInput, Refused, UsageError
from hermes.native import Decoder, Encoder, Log, MessageType, Run, encode_batch
from hermes.native.stream import PUBLISHERS_MAX, STREAMS_MAX, Feed, Ingest, Router, Start, Stream
from tests.effort import effort
from tests.native.deliveries import deliver

KIB = 1024
MESSAGE_MAX = 4 * KIB
ALICE, BOB, NOBODY = b"alice's 16 bytes", b"bob's 16 bytes, ", bytes(16)


class Stored(NamedTuple):
    stream: int
    sequence: int
    topic: str
    payload: bytes


class Broker:
    """Streams in memory and a router; ``claims`` are the patterns of streams 1, 2, ..."""

    def __init__(self, *claims: str, segment: int = 1024 * KIB, **options: Any) -> None:
        self.logs = [
            Log.memory(segment_bytes=segment, retention_bytes=64 * 1024 * KIB)
            for _ in range(len(claims) + 1)
        ]
        self.streams = [Stream(log, index=i, **options) for i, log in enumerate(self.logs)]
        self.router = Router()
        for stream in self.streams:
            self.router.add(stream)
        for i, claim in enumerate(claims):
            self.router.claim(i + 1, claim)

    def ingest(self, **publishers: bytes) -> Ingest:
        made = Ingest(self.router, MESSAGE_MAX)
        for name, identity in publishers.items():
            made.open(int(name.removeprefix("p")), identity)
        return made

    def stored(self) -> list[Stored]:
        found = []
        for i, log in enumerate(self.logs):
            position = log.status().start_position
            while isinstance(run := log.read(position, 1024 * KIB), Run):
                for header, topic, payload in Decoder(run.view):
                    found.append(Stored(i, header.sequence, topic, bytes(payload)))
                position = run.position + len(run.view)
        return found

    def close(self) -> None:
        self.router.close()
        for stream in self.streams:
            stream.close()
        for log in self.logs:
            log.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.close()


def message(sequence: int, payload: bytes = b"x", topic: str = "a") -> bytes:
    encoder = Encoder()
    encoder.encode(payload, topic=topic, sequence=sequence)
    return bytes(encoder.view)


def envelope(
    frames: bytes,
    *,
    after: int,
    through: int,
    publisher: int = 1,
    stream: int = 0,
    size: int | None = None,
) -> bytes:
    """A batch whose envelope claims what it is told to; its checksum is right."""
    size = 24 + (len(frames) if size is None else size)
    head = struct.pack("<4sBBHQQI", b"HRMS", 1, MessageType.BATCH, 0, 0, 0, size)
    prefix = struct.pack("<IIQQ", publisher, stream, after, through)
    crc = 0
    for piece in (head[:8], head[16:28], prefix):
        crc = lib.hm_crc32c(crc, piece, len(piece))
    return head + struct.pack("<I", crc) + prefix + frames


def batch(first: int, *messages: tuple[str, bytes], publisher: int = 1) -> bytes:
    frames = b"".join(
        message(first + i, payload, topic) for i, (topic, payload) in enumerate(messages)
    )
    through = first - 1 + len(messages)
    return (
        encode_batch(id=publisher, after=first - 1, through=through, frames_size=len(frames))
        + frames
    )


def control(kind: MessageType = MessageType.PING, payload: bytes = b"\x80") -> bytes:
    encoder = Encoder()
    encoder.encode(payload, type=kind)
    return bytes(encoder.view)


class Outcome(NamedTuple):
    kind: Feed
    error: int
    publisher: int
    stream: int
    sequence: int


class Total:
    """Result of feeding all of some bytes, however they were cut."""

    def __init__(self) -> None:
        self.messages = self.duplicates = self.batches = self.bytes = self.streams = 0
        self.controls: list[bytes] = []
        self.outcomes: list[Outcome] = []
        self.left = b""


def feed_all(ingest: Ingest, pieces: Iterable[bytes]) -> Total:
    """Feed ``pieces`` as a connection does: what is not consumed stands before the next piece."""
    total = Total()
    for piece in pieces:
        total.left += piece
        while True:
            data = ffi.from_buffer("uint8_t[]", total.left)
            feed = ingest.feed(data, len(total.left), 1)
            total.messages += feed.messages
            total.duplicates += feed.duplicates
            total.batches += feed.batches
            total.bytes += feed.bytes
            total.streams |= feed.streams
            rest = total.left[feed.consumed :]
            if feed.kind == Feed.CONTROL:
                total.controls.append(rest[: feed.frame_size])
                rest = rest[feed.frame_size :]
            elif feed.kind != Feed.MORE:
                total.outcomes.append(
                    Outcome(Feed(feed.kind), feed.error, feed.publisher, feed.stream, feed.sequence)
                )
            total.left = rest
            if feed.kind == Feed.ERROR:
                return total
            if feed.kind == Feed.MORE:
                assert feed.needed == 0 or feed.needed > len(rest)
                break
    return total


def refusal(ingest: Ingest, data: bytes) -> int:
    """The error of the one outcome that ``data`` has, which must be an ERROR."""
    (outcome,) = feed_all(ingest, [data]).outcomes
    assert outcome.kind is Feed.ERROR
    return -outcome.error


# ---- the same, however it is cut ----

topics = st.sampled_from(["a", "b.x", "b.y", "c.long.topic.name", "é"])
payloads = st.binary(max_size=40) | st.integers(0, 3000).map(bytes)
parts = st.one_of(
    st.tuples(st.sampled_from([1, 2]), st.lists(st.tuples(topics, payloads), max_size=6)),
    st.just(None),
)


@settings(deadline=None, max_examples=effort(30, 80))
@given(st.lists(parts, max_size=12), st.data())
def test_any_segmentation_gives_the_same(
    plan: list[tuple[int, list[tuple[str, bytes]]] | None], data: st.DataObject
) -> None:
    """Wherever the bytes are cut, the logs, the counts, the control frames and the progress are the
    same."""
    following = {1: 1, 2: 1}
    stream = b""
    for part in plan:
        if part is None:
            stream += control()
            continue
        publisher, messages = part
        stream += batch(following[publisher], *messages, publisher=publisher)
        following[publisher] += len(messages)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    seen = []

    for cut in ([stream], pieces):
        broker = Broker("b.*")
        ingest = broker.ingest(p1=ALICE, p2=BOB)
        total = feed_all(ingest, cut)
        assert total.left == b""
        assert total.outcomes == []
        assert total.messages == sum(n - 1 for n in following.values())
        seen.append(
            (broker.stored(), total.controls, total.bytes, total.streams, sorted(ingest.touched()))
        )
        broker.close()

    assert seen[0] == seen[1]
    wanted = [(t, p) for part in plan if part for t, p in part[1]]
    assert sorted((m.topic, m.payload) for m in seen[0][0]) == sorted(wanted)
    for i in (0, 1):
        in_order = [(t, p) for t, p in wanted if t.startswith("b.") == (i == 1)]
        assert [(m.topic, m.payload) for m in seen[0][0] if m.stream == i] == in_order


def test_one_byte_at_a_time(broker: Broker) -> None:
    """A peer that sends single bytes gets its messages in, and is asked for no more than one
    frame."""
    ingest = broker.ingest(p1=ALICE)
    stream = batch(1, ("a", b"1"), ("a", b"2")) + control() + batch(3, ("b", b"3"))

    total = feed_all(ingest, (stream[i : i + 1] for i in range(len(stream))))

    assert [m.payload for m in broker.stored()] == [b"1", b"2", b"3"]
    assert len(total.controls) == 1


def test_needed_says_how_much_the_next_frame_takes(broker: Broker) -> None:
    """With a frame partly there, ``needed`` is its whole size once its header is known."""
    ingest = broker.ingest(p1=ALICE)
    whole = batch(1, ("a", bytes(1000)))
    data = ffi.from_buffer("uint8_t[]", whole)

    empty = ingest.feed(data, 0, 1).needed
    header = ingest.feed(data, 10, 1).needed
    first = ingest.feed(data, 56 + 32, 1)

    assert (empty, header) == (0, 32)
    assert first.consumed == 56
    assert first.needed == len(whole) - 56


def test_thousands_of_one_message_batches_are_few_appends(broker: Broker) -> None:
    """Messages of one read are put together: one append takes many one-message batches."""
    ingest = broker.ingest(p1=ALICE)
    stream = b"".join(batch(i, ("a", b"%d" % i)) for i in range(1, 2001))

    total = feed_all(ingest, [stream])

    assert (total.messages, total.batches) == (2000, 2000)
    assert [m.payload for m in broker.stored()] == [b"%d" % i for i in range(1, 2001)]
    assert broker.logs[0].status().appends < 20
    assert broker.logs[0].publisher_sequence(ALICE) == 2000


# ---- duplicates ----


def test_what_was_sent_before_is_skipped(broker: Broker) -> None:
    """After a reconnect what is in the log already is counted as a duplicate, the rest is
    appended."""
    first = broker.ingest(p1=ALICE)
    feed_all(first, [batch(1, ("a", b"1"), ("a", b"2"), ("a", b"3"))])
    first.close()
    second = Ingest(broker.router, MESSAGE_MAX)

    last = second.open(9, ALICE)
    total = feed_all(second, [batch(2, ("a", b"2"), ("a", b"3"), ("a", b"4"), publisher=9)])

    assert last == 3
    assert (total.messages, total.duplicates) == (1, 2)
    assert [m.payload for m in broker.stored()] == [b"1", b"2", b"3", b"4"]
    assert second.touched() == [(9, 4, 1)]


def test_duplicates_are_known_per_stream() -> None:
    """A publisher whose messages went to two streams is compared with each stream's own last
    sequence."""
    broker = Broker("b")
    whole = batch(1, ("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", b"4"))
    feed_all(broker.ingest(p1=ALICE), [batch(1, ("a", b"1"), ("b", b"2"), ("a", b"3"))])

    total = feed_all(broker.ingest(p1=ALICE), [whole])

    assert (total.messages, total.duplicates) == (1, 3)
    assert [m.payload for m in broker.stored()] == [b"1", b"3", b"2", b"4"]
    broker.close()


def test_a_batch_twice_in_one_read_is_one(broker: Broker) -> None:
    """Duplicates within one call are found too, although the first is not appended yet when it is
    read."""
    ingest = broker.ingest(p1=ALICE)
    once = batch(1, ("a", b"1"), ("a", b"2"))

    total = feed_all(ingest, [once + once])

    assert (total.messages, total.duplicates) == (2, 2)
    assert len(broker.stored()) == 2


def test_two_connections_of_one_publisher_append_once(broker: Broker) -> None:
    """The last bytes of a dead connection and the first of its successor do not append a message
    twice."""
    old, new = broker.ingest(p1=ALICE), broker.ingest(p1=ALICE)
    feed_all(old, [batch(1, ("a", b"1"))])
    feed_all(new, [batch(1, ("a", b"1"), ("a", b"2"))])

    late = feed_all(old, [batch(2, ("a", b"2"), ("a", b"3"))])

    assert late.duplicates == 1
    assert [m.payload for m in broker.stored()] == [b"1", b"2", b"3"]


def test_nobody_in_particular_has_no_duplicates(broker: Broker) -> None:
    """A publisher without an identity sends what it sends, twice if it likes."""
    ingest = broker.ingest(p1=NOBODY)
    once = batch(1, ("a", b"1"))

    total = feed_all(ingest, [once + once])

    assert (total.messages, total.duplicates) == (2, 0)


def test_progress_counts_duplicates_and_their_streams() -> None:
    """A message that is there already is acknowledged like a new one, with the streams that a sync must
    cover."""
    broker = Broker("b")
    whole = batch(1, ("a", b"1"), ("b", b"2"))
    feed_all(broker.ingest(p1=ALICE), [whole])
    again = broker.ingest(p1=ALICE)

    feed_all(again, [whole])

    assert again.touched() == [(1, 2, 0b11)]
    assert again.touched() == []
    broker.close()


# ---- malformed ----


def test_a_publisher_that_is_not_open(broker: Broker) -> None:
    """A batch of a publisher that nobody opened, or that was closed, is malformed."""
    assert refusal(broker.ingest(), batch(1, ("a", b""))) == lib.HM_EUNKNOWN
    closed = broker.ingest(p1=ALICE)
    closed.close_publisher(1)
    assert refusal(closed, batch(1, ("a", b""))) == lib.HM_EUNKNOWN


def test_a_stream_index_from_a_publisher(broker: Broker) -> None:
    """A publisher does not choose streams: the index is 0."""
    bad = envelope(message(1), after=0, through=1, stream=1)
    assert refusal(broker.ingest(p1=ALICE), bad) == lib.HM_EUNKNOWN


@pytest.mark.parametrize(
    ("first", "after", "through"),
    [(1, 0, 2), (1, 0, 0), (2, 0, 1), (1, 1, 2), (1, 5, 4), (1, 0, 99)],
)
def test_sequences_that_are_not_those_of_the_envelope(
    broker: Broker, first: int, after: int, through: int
) -> None:
    """One frame under an envelope that promises others: the frames must be after + 1 .. through."""
    bad = envelope(message(first), after=after, through=through)

    assert refusal(broker.ingest(p1=ALICE), bad) == lib.HM_ESEQUENCE
    assert broker.stored() == []


def test_a_repeated_sequence_inside_a_batch(broker: Broker) -> None:
    """Frames of one batch are contiguous; what came before the breach is kept."""
    bad = envelope(message(1) + message(1), after=0, through=2)

    assert refusal(broker.ingest(p1=ALICE), bad) == lib.HM_ESEQUENCE
    assert len(broker.stored()) == 1


def test_a_hole_between_batches(broker: Broker) -> None:
    """A batch that begins behind the end of the one before would be a silent loss."""
    assert (
        refusal(broker.ingest(p1=ALICE), batch(1, ("a", b"")) + batch(3, ("a", b"")))
        == lib.HM_ESEQUENCE
    )


def test_an_empty_batch_that_covers_something(broker: Broker) -> None:
    """An empty batch is allowed where it covers nothing, and only there."""
    ingest = broker.ingest(p1=ALICE)
    assert feed_all(ingest, [envelope(b"", after=0, through=0)]).batches == 1
    assert refusal(ingest, envelope(b"", after=0, through=1)) == lib.HM_ESEQUENCE


def test_a_frame_that_crosses_the_end_of_its_batch(broker: Broker) -> None:
    """An inner frame must end where the batch ends, at the latest; a rest too short for a header is
    as bad."""
    frame = message(1, bytes(100))
    for size in (len(frame) - 8, 32, 24, 8):
        bad = envelope(frame, after=0, through=1, size=size)
        assert refusal(broker.ingest(p1=ALICE), bad) in (lib.HM_ELENGTH, lib.HM_ESEQUENCE)
    assert broker.stored() == []


def test_a_batch_over_the_limit(broker: Broker) -> None:
    """The envelope alone shows that a batch is too large: nothing more is asked for."""
    bad = envelope(b"", after=0, through=9, size=MESSAGE_MAX + lib.HM_BATCH_SLACK + 8)
    assert refusal(broker.ingest(p1=ALICE), bad) == lib.HM_ELENGTH


def test_a_message_over_the_limit(broker: Broker) -> None:
    """A message larger than the limit is malformed as soon as its header is there."""
    frame = message(1, bytes(MESSAGE_MAX + 1))
    bad = envelope(frame[:40], after=0, through=1, size=len(frame))
    assert refusal(broker.ingest(p1=ALICE), bad) == lib.HM_ELENGTH


def test_a_control_frame_over_the_limit(broker: Broker) -> None:
    """A control frame is bounded whatever the message limit, and by its header alone."""
    fits = control(payload=bytes(2 * MESSAGE_MAX))
    assert feed_all(broker.ingest(), [fits]).controls == [fits]
    header = bytearray(control()[:32])
    header[24:28] = struct.pack("<I", lib.HM_CONTROL_MAX + 1)
    assert refusal(broker.ingest(), bytes(header)) == lib.HM_ELENGTH


def test_what_is_no_message_inside_a_batch(broker: Broker) -> None:
    """Neither a control frame nor another batch may stand in a batch."""
    for inner in (control(), batch(1, ("a", b""))):
        bad = envelope(inner, after=0, through=1)
        assert refusal(broker.ingest(p1=ALICE), bad) == lib.HM_ETYPE


def test_a_message_outside_a_batch(broker: Broker) -> None:
    """Messages travel in batches only, and a header is enough to see it."""
    assert refusal(broker.ingest(p1=ALICE), message(1)) == lib.HM_ETYPE
    assert refusal(broker.ingest(p1=ALICE), message(1, bytes(100))[:32]) == lib.HM_ETYPE


@pytest.mark.parametrize(
    ("offset", "value", "error"),
    [
        (0, 0xFF, lib.HM_EMAGIC),
        (4, 9, lib.HM_EVERSION),
        (5, 99, lib.HM_ETYPE),
        (7, 0x80, lib.HM_EFLAGS),
        (20, 1, lib.HM_ECRC),
        (33, 1, lib.HM_EPADDING),
    ],
)
@pytest.mark.parametrize("inner", [False, True])
def test_a_frame_that_is_not_sound(
    broker: Broker, offset: int, value: int, error: int, inner: bool
) -> None:
    """Every flaw of a frame has its code, inside a batch and outside; nothing of it is appended."""
    if inner:
        bad = bytearray(batch(1, ("a", b"x")))
        bad[56 + offset] = value
    else:
        bad = bytearray(control())
        bad[offset] = value

    assert refusal(broker.ingest(p1=ALICE), bytes(bad)) == error
    assert broker.stored() == []


def test_random_bytes_are_refused_at_once(broker: Broker) -> None:
    """Input that does not even begin like a frame is refused with its first bytes."""
    assert refusal(broker.ingest(), b"GET / HTTP/1.1\r\n") == lib.HM_EMAGIC


def test_after_an_error_the_good_before_it_is_kept(broker: Broker) -> None:
    """Input before the malformed frame is appended and acknowledged."""
    ingest = broker.ingest(p1=ALICE)

    refusal(ingest, batch(1, ("a", b"1")) + batch(2, ("a", b"2")) + b"x" * 100)

    assert len(broker.stored()) == 2
    assert ingest.touched() == [(1, 2, 1)]


# ---- refused ----


def test_an_unknown_topic_refuses_its_publisher_until_it_is_reopened() -> None:
    """A refusal is said once; that publisher's messages are skipped, others go on; opening again
    ends it."""
    broker = Broker(create=False)
    broker.streams[0].declare("a")
    ingest = broker.ingest(p1=ALICE, p2=BOB)
    data = (
        batch(1, ("a", b"1"), ("no", b"2"), ("a", b"3"))
        + batch(4, ("a", b"4"))
        + batch(1, ("a", b"bob"), publisher=2)
    )

    total = feed_all(ingest, [data])
    skipped = feed_all(ingest, [batch(5, ("a", b"5"))])
    last = ingest.open(1, ALICE)
    again = feed_all(ingest, [batch(3, ("a", b"3"))])

    assert total.outcomes == [Outcome(Feed.REFUSED, -lib.HM_ETOPIC, 1, 0, 2)]
    assert (skipped.outcomes, skipped.messages) == ([], 0)
    assert last == 1
    assert again.messages == 1
    assert [m.payload for m in broker.stored()] == [b"1", b"bob", b"3"]
    assert sorted(ingest.touched()) == [(1, 3, 1), (2, 1, 1)]
    broker.close()


def test_a_refusal_in_the_middle_of_a_batch_that_is_cut(broker: Broker) -> None:
    """The rest of a refused batch is skipped although it arrives later, and the next control frame
    is found."""
    ingest = broker.ingest(p1=ALICE)
    data = _with_bad_topic()

    total = feed_all(ingest, [data[:150], data[150:200], data[200:], control()])

    assert [o.error for o in total.outcomes] == [-lib.HM_ETOPIC]
    assert total.controls == [control()]


def _with_bad_topic() -> bytes:
    good = message(1)
    bad = bytearray(message(2, topic="a.b"))
    bad[32] = ord(".")  # "..b"
    bad[28:32] = struct.pack("<I", _crc(bytes(bad)))
    return envelope(good + bytes(bad) + message(3, bytes(100)), after=0, through=3)


def _crc(frame: bytes) -> int:
    crc = 0
    for piece in (frame[:8], frame[16:28], frame[32 : 32 + frame[6]], b"x"):
        crc = lib.hm_crc32c(crc, piece, len(piece))
    return crc


def test_topics_over_the_limit_are_refused() -> None:
    """A topic too many is a refusal, not the end of the connection."""
    broker = Broker(topics_max=1)
    ingest = broker.ingest(p1=ALICE)

    total = feed_all(ingest, [batch(1, ("a", b""), ("b", b""))])

    assert total.outcomes == [Outcome(Feed.REFUSED, -lib.HM_ELIMIT, 1, 0, 2)]
    assert len(broker.stored()) == 1
    broker.close()


def test_a_message_larger_than_a_segment_is_refused() -> None:
    """A log that can never take a message refuses it; the messages before it are in."""
    broker = Broker(segment=8 * KIB)
    ingest = Ingest(broker.router, 64 * KIB)
    ingest.open(1, ALICE)

    total = feed_all(ingest, [batch(1, ("a", b"1")) + batch(2, ("a", bytes(20 * KIB)))])

    assert total.outcomes == [Outcome(Feed.REFUSED, -lib.HM_ELENGTH, 1, 0, 2)]
    assert len(broker.stored()) == 1
    assert ingest.touched() == [(1, 1, 1)]
    broker.close()


def test_a_full_disk_refuses_and_serves_on(tmp_path: Path) -> None:
    """When the log has no space the publisher is told from which message on; what is in stays readable."""
    log = Log.open(tmp_path, segment_bytes=64 * KIB, disk_bytes=192 * KIB)
    stream = Stream(log)
    router = Router()
    router.add(stream)
    ingest = Ingest(router, MESSAGE_MAX)
    ingest.open(1, ALICE)

    total = feed_all(ingest, [batch(i, ("a", bytes(1000))) for i in range(1, 1000)])

    (outcome,) = total.outcomes
    assert (outcome.kind, outcome.error) == (Feed.REFUSED, -lib.HM_ENOSPACE)
    assert outcome.sequence == total.messages + 1 == log.status().next_sequence
    assert ingest.touched() == [(1, total.messages, 1)]
    assert deliver(stream.open_cursor(">", start=Start.EARLIEST), 4 * KIB).messages > 0
    router.close()
    stream.close()
    log.close()


def test_a_refusal_found_late_is_blamed_on_its_own_publisher() -> None:
    """Frames wait to be appended together: when that fails, the publisher they are of is refused,
    not the next one."""
    broker = Broker(segment=8 * KIB)
    ingest = Ingest(broker.router, 64 * KIB)
    ingest.open(1, ALICE)
    ingest.open(2, BOB)

    total = feed_all(
        ingest, [batch(1, ("a", bytes(20 * KIB))) + batch(1, ("a", b"2"), publisher=2)]
    )

    assert [(o.publisher, o.sequence) for o in total.outcomes] == [(1, 1)]
    assert [m.payload for m in broker.stored()] == [b"2"]
    assert ingest.touched() == [(2, 1, 1)]
    broker.close()


# ---- routing ----


def test_topics_go_to_the_stream_that_claims_them() -> None:
    """Each claim takes its topics, the first stream the rest; sequences count per stream."""
    broker = Broker("md.>", "log.*")
    ingest = broker.ingest(p1=ALICE)
    names = ["md.a", "x", "log.b", "log.b.c", "md.a.b", "md"]

    total = feed_all(ingest, [batch(1, *[(name, name.encode()) for name in names])])

    assert total.streams == 0b111
    assert [(m.stream, m.sequence, m.topic) for m in broker.stored()] == [
        (0, 1, "x"),
        (0, 2, "log.b.c"),
        (0, 3, "md"),
        (1, 1, "md.a"),
        (1, 2, "md.a.b"),
        (2, 1, "log.b"),
    ]
    assert [broker.router.route(name) for name in names] == [1, 0, 2, 0, 1, 0]
    broker.close()


def test_more_topics_than_the_cache_remembers_are_routed_right() -> None:
    """Topics that drive one another out of the router's cache still reach their streams."""
    broker = Broker("b.*")
    ingest = broker.ingest(p1=ALICE)
    count = 2 * lib.HM_ROUTER_CACHE
    sequence = 1

    for first in range(0, count, 4096):
        messages = [(f"{'ab'[i % 2]}.{i}", b"") for i in range(first, first + 4096)]
        assert feed_all(ingest, [batch(sequence, *messages)]).outcomes == []
        sequence += 4096

    assert [stream.status().topics for stream in broker.streams] == [count // 2, count // 2]
    broker.close()


def test_claims_may_not_overlap() -> None:
    """A pattern that meets another stream's is refused, as is an illegal one and one for no
    stream."""
    broker = Broker("a.>", "b")
    with pytest.raises(Refused):
        broker.router.claim(2, "*.x")
    with pytest.raises(InvalidTopic):
        broker.router.claim(2, "a..b")
    with pytest.raises(UsageError):
        broker.router.claim(3, "c")
    broker.router.claim(1, "a.b")
    with pytest.raises(InvalidTopic):
        broker.router.route("a.*")
    broker.close()


def test_streams_and_publishers_are_bounded(broker: Broker) -> None:
    """A stream and a publisher too many are refused; an unknown publisher cannot be closed."""
    for _ in range(STREAMS_MAX - 1):
        broker.router.add(broker.streams[0])
    with pytest.raises(Refused):
        broker.router.add(broker.streams[0])
    ingest = broker.ingest()
    for i in range(PUBLISHERS_MAX):
        ingest.open(i * 7919, i.to_bytes(16, "big"))
    with pytest.raises(Refused):
        ingest.open(1, ALICE)
    ingest.close_publisher(7919)
    ingest.open(1, ALICE)
    with pytest.raises(MalformedInput):
        ingest.close_publisher(7919)
    with pytest.raises(UsageError):
        ingest.open(2, b"short")


def test_publishers_are_told_apart(broker: Broker) -> None:
    """Batches of many publishers in turn keep each one's sequence and identity."""
    ingest = broker.ingest()
    identities = [bytes([i]) * 16 for i in range(1, 40)]
    for i, identity in enumerate(identities):
        ingest.open(i, identity)

    total = feed_all(
        ingest,
        [batch(n, ("a", b"%d" % i), publisher=i) for n in (1, 2) for i in range(len(identities))],
    )

    assert total.messages == 2 * len(identities)
    assert {broker.logs[0].publisher_sequence(identity) for identity in identities} == {2}
    assert sorted(ingest.touched()) == [(i, 2, 1) for i in range(len(identities))]


# Grants.


def test_only_granted_topics_are_taken(broker: Broker) -> None:
    """A message outside the grant is refused where it stands, and its topic does not come to be."""
    ingest = broker.ingest(p1=ALICE)
    ingest.restrict(["md.*", "orders.>"])
    data = batch(1, ("md.a", b"1"), ("orders.x.y", b"2"), ("md.a.b", b"3"), ("md.a", b"4"))

    total = feed_all(ingest, [data])

    assert total.outcomes == [Outcome(Feed.REFUSED, -lib.HM_EDENIED, 1, 0, 3)]
    assert [stored.topic for stored in broker.stored()] == ["md.a", "orders.x.y"]
    assert [topic.name for topic in broker.streams[0].topics(0, 10)] == ["md.a", "orders.x.y"]
    ingest.close()


def test_a_refused_publisher_goes_on_within_its_grant(broker: Broker) -> None:
    """Opened again, it is taken; the grant stays."""
    ingest = broker.ingest(p1=ALICE)
    ingest.restrict(["a"])
    feed_all(ingest, [batch(1, ("a", b"1"), ("b", b"no"))])

    ingest.open(1, ALICE)
    total = feed_all(ingest, [batch(2, ("a", b"2")), batch(3, ("b", b"no"))])

    assert [stored.payload for stored in broker.stored()] == [b"1", b"2"]
    assert [outcome.sequence for outcome in total.outcomes] == [3]
    ingest.close()


def test_a_grant_of_nothing_takes_nothing(broker: Broker) -> None:
    """A restriction without patterns refuses every topic."""
    ingest = broker.ingest(p1=ALICE)
    ingest.restrict([])

    total = feed_all(ingest, [batch(1, ("a", b"x"))])

    assert [outcome.error for outcome in total.outcomes] == [-lib.HM_EDENIED]
    assert broker.stored() == []
    ingest.close()


@given(st.lists(st.integers(0, 299), min_size=1, max_size=40))
@settings(max_examples=30)
def test_what_is_remembered_never_lets_another_topic_through(numbers: list[int]) -> None:
    """However many topics come and go, each is judged by the patterns: what the grant remembers of
    one is never taken for another."""
    broker = Broker()
    ingest = broker.ingest(p1=ALICE)
    ingest.restrict([f"t{i}" for i in range(0, 300, 2)])
    sequence = 0
    refused = []
    for number in numbers:
        ingest.open(1, ALICE)
        total = feed_all(ingest, [batch(sequence + 1, (f"t{number}", b"x"))])
        if total.outcomes:
            refused.append(number)
        else:
            sequence += 1

    assert refused == [number for number in numbers if number % 2]
    assert [stored.topic for stored in broker.stored()] == [
        f"t{number}" for number in numbers if number % 2 == 0
    ]
    ingest.close()
    broker.close()


@pytest.mark.parametrize("pattern", ["", "a..b", "a.>.b"])
def test_an_illegal_pattern_cannot_be_granted(broker: Broker, pattern: str) -> None:
    """An illegal pattern is an error of the caller, and what was granted before it stays."""
    ingest = broker.ingest(p1=ALICE)

    with pytest.raises(InvalidTopic):
        ingest.restrict(["a", pattern])

    assert feed_all(ingest, [batch(1, ("a", b"x"))]).messages == 1
    assert feed_all(ingest, [batch(2, ("b", b"x"))]).outcomes
    ingest.close()


def test_a_grant_has_a_bound(broker: Broker) -> None:
    """More patterns than a new topic may be held against are refused."""
    ingest = broker.ingest()

    with pytest.raises(Refused, match="bound"):
        ingest.restrict(f"t{i}" for i in range(1025))

    ingest.close()


def test_what_is_known_of_an_older_id_counts(broker: Broker) -> None:
    """A publisher that inherits from an older id goes on behind what the logs have of that, and
    changes nothing of it."""
    x = ("a", b"x")
    feed_all(broker.ingest(p1=ALICE), [batch(1, x, x)])

    first, second = broker.ingest(), broker.ingest()
    assert first.open(1, BOB, ALICE) == 2
    assert feed_all(first, [batch(2, x, x)]).duplicates == 1
    assert second.open(1, b"c's sixteen byte", ALICE) == 2
    assert broker.ingest().open(1, BOB, ALICE) == 3
    assert broker.ingest().open(1, ALICE) == 2
