"""The compiled fast paths: messages out of batches, and what they refuse."""

from __future__ import annotations

import errno
import socket
import struct
import sys
import threading
from types import SimpleNamespace

import pytest
from hermes.native._core import lib

from hermes.native import _fast
from hermes.native.api import (
    API_VERSION,
    REFUSED,
    Message,
    Reader,
    Source,
    acknowledge,
    api_address,
)
from hermes.native.outbox import EMPTY, Outbox
from hermes.wire import messages as m
from hermes.wire.codec import ControlEncoder

MESSAGE_MAX = 1 << 20
WAIT_NS = 60_000_000_000
FAR = 1 << 62


def frames(*payloads: bytes, topic: bytes = b"md.a", first: int = 1) -> bytearray:
    outbox = Outbox(id=1, first_sequence=first)
    for payload in payloads:
        outbox.put(topic, payload, 77)
    batch = outbox.batch(1 << 30, 1)
    assert batch is not None
    return bytearray(batch[1])


def test_a_message_has_its_attributes_and_a_repr():
    """A message carries topic, stream, sequence, timestamp and payload, and shows them."""
    data = frames(b"hello", topic="md.é".encode(), first=5)

    found = Reader(MESSAGE_MAX).messages(data, 0, len(data), "quotes", 4, 5)

    assert isinstance(found, list)
    (message,) = found
    assert (message.topic, message.stream, message.payload) == ("md.é", "quotes", b"hello")
    assert (message.sequence, message.timestamp_ns) == (5, 77)
    assert repr(message) == (
        "Message(topic='md.é', stream='quotes', sequence=5, timestamp_ns=77, payload=b'hello')"
    )


def test_a_long_payload_is_cut_in_the_repr():
    """A repr shows the beginning of a long payload and how long it is."""
    data = frames(b"x" * 1000)

    (message,) = Reader(MESSAGE_MAX).messages(data, 0, len(data), "default", 0, 1)  # type: ignore[misc]

    assert repr(message).endswith("x'... 1000 bytes)")


def test_messages_are_read_only_and_made_by_subscriptions_alone():
    """Attributes cannot be set, and nobody makes a message by hand."""
    data = frames(b"x")
    (message,) = Reader(MESSAGE_MAX).messages(data, 0, len(data), "default", 0, 1)  # type: ignore[misc]

    with pytest.raises(AttributeError):
        message.payload = b""
    with pytest.raises(TypeError):
        Message()


def test_payloads_are_copies():
    """A message keeps its payload when the buffer is used again."""
    data = frames(b"before")
    (message,) = Reader(MESSAGE_MAX).messages(data, 0, len(data), "default", 0, 1)  # type: ignore[misc]

    data[:] = bytes(len(data))

    assert message.payload == b"before"


def test_many_topics_keep_their_names():
    """More topics than a reader remembers: every message still has its own."""
    outbox = Outbox(id=1)
    names = [f"md.x{i}" for i in range(40_000)]
    for name in names:
        outbox.put(name.encode(), b"")
    reader, found = Reader(MESSAGE_MAX), []
    while (batch := outbox.batch(1 << 30, 1)) is not None:
        outbox.sent()
        got = reader.messages(batch[1], 0, len(batch[1]), "default", len(found), FAR)
        assert isinstance(got, list)
        found += got

    assert [message.topic for message in found] == names


def test_equal_topics_are_one_object():
    """The topic of many messages is one string."""
    data = frames(b"1", b"2")

    first, second = Reader(MESSAGE_MAX).messages(data, 0, len(data), "default", 0, 2)  # type: ignore[misc]

    assert first.topic is second.topic


def test_the_index_names_every_frame():
    """An index is one hm_slice per frame, offsets relative to the start given."""
    data = b"8 bytes." + bytes(frames(b"abc", b"defgh"))

    slices = Reader(MESSAGE_MAX).index(data, 8, len(data), 0, 2)

    assert isinstance(slices, bytes)
    rows = list(struct.iter_unpack("=QQIIIBBH", slices))
    assert [(row[0], row[3], row[4]) for row in rows] == [(1, 40, 3), (2, 88, 5)]


@pytest.mark.parametrize("offset", [0, 5, 8, 20, 33, 40, 44])
def test_any_damage_is_found(offset: int):
    """A flipped bit in header, topic, payload or padding is an error in every way of reading."""
    data = frames(b"abc")
    data[offset] ^= 1
    reader = Reader(MESSAGE_MAX)

    for result in (
        reader.messages(data, 0, len(data), "default", 0, 1),
        reader.index(data, 0, len(data), 0, 1),
    ):
        assert isinstance(result, int)
        assert result < 0


def test_sequences_must_rise_within_the_coverage():
    """A batch that holds a sequence outside what it covers, or out of order, is refused."""
    data = frames(b"a", b"b")
    reader = Reader(MESSAGE_MAX)

    assert reader.messages(data, 0, len(data), "default", 1, 2) == -lib.HM_ESEQUENCE
    assert reader.messages(data, 0, len(data), "default", 0, 1) == -lib.HM_ESEQUENCE
    swapped = data[48:] + data[:48]
    assert reader.index(swapped, 0, len(data), 0, 2) == -lib.HM_ESEQUENCE


def test_a_batch_is_taken_directly_only_if_it_goes_on_exactly_there():
    """direct() takes a whole sound batch that continues its coverage, and leaves all else alone."""
    outbox = Outbox(id=7, first_sequence=5)
    outbox.put(b"md.a", b"x")
    outbox.put(b"md.b", b"y")
    header, frames_ = outbox.batch(1 << 20, 1) or (b"", memoryview(b""))
    whole = header + bytes(frames_)
    damaged = whole[:-8] + b"!" + whole[-7:]
    reader, names, key = Reader(MESSAGE_MAX), {0: "default"}, 7 << 32
    size = len(whole)

    for data, end, id, coverage, known in (
        (whole, size - 8, 7, {key: 4}, names),  # not wholly there
        (whole, size, 8, {key: 4}, names),  # another subscription's
        (whole, size, 7, {key: 3}, names),  # a gap
        (whole, size, 7, {}, names),  # the first one
        (whole, size, 7, {key: 4}, {}),  # an unknown stream
        (damaged, size, 7, {key: 4}, names),
        (whole[56:], size - 56, 7, {key: 4}, names),  # no batch
    ):
        before = dict(coverage)
        assert reader.direct(data, 0, end, id, coverage, known, {}) is None
        assert coverage == before

    coverage = {key: 4}
    found = reader.direct(b"12345678" + whole + whole, 8, 8 + 2 * size, 7, coverage, names, {})
    assert found is not None
    messages, start, stop, stream, after, through = found
    assert [(m.topic, m.payload) for m in messages] == [("md.a", b"x"), ("md.b", b"y")]
    assert (start, stop, stream, after, through) == (8 + 56, 8 + size, "default", 4, 6)
    assert coverage == {key: 6}


def acked_batch(*acks: m.Ack) -> tuple[bytes, bytes]:
    """Acknowledgements, and a batch of subscription 7 that covers (4, 5]."""
    outbox = Outbox(id=7, first_sequence=5)
    outbox.put(b"md.a", b"x")
    header, frames_ = outbox.batch(1 << 20, 1) or (b"", memoryview(b""))
    encode = ControlEncoder().encode
    return b"".join(map(encode, acks)), header + bytes(frames_)


encode_control = ControlEncoder().encode


def offered(count: int) -> Outbox:
    """An outbox of which ``count`` messages are on the wire."""
    outbox = Outbox(id=3)
    for _ in range(count):
        outbox.put(b"md.a", b"x")
    outbox.batch(1 << 20, 1)
    outbox.sent()
    return outbox


def test_acknowledgements_before_a_batch_are_taken_with_it():
    """Memory that they acknowledge is freed, and the batch's place is told behind them."""
    outbox = offered(3)
    acks, batch = acked_batch(m.Ack(3, 1), m.Ack(3, 2))
    coverage = {7 << 32: 4}
    data = acks + batch

    found = Reader(MESSAGE_MAX).direct(
        data, 0, len(data), 7, coverage, {0: "default"}, {3: outbox.sender(None)}
    )

    assert found is not None
    assert found[1:] == (len(acks) + 56, len(data), "default", 4, 5)
    assert outbox.status().acked == 2


@pytest.mark.parametrize(
    "ack",
    [
        m.Ack(4, 1),  # another's
        m.Ack(3, 1, "opened"),
        m.Ack(3, 1, "durable"),
        m.Ack(3, 4),  # it was never sent
    ],
)
def test_an_acknowledgement_that_is_not_ours_to_take_is_left(ack: m.Ack):
    """Nothing is taken where one stands that only the protocol can judge."""
    outbox = offered(3)
    acks, batch = acked_batch(ack)
    coverage = {7 << 32: 4}
    data = acks + batch

    found = Reader(MESSAGE_MAX).direct(
        data, 0, len(data), 7, coverage, {0: "default"}, {3: outbox.sender(None)}
    )

    assert found is None
    assert coverage == {7 << 32: 4}
    assert outbox.status().acked == 0


def test_an_acknowledgement_is_not_taken_without_its_batch():
    """Where the batch is not wholly there, or goes on elsewhere, it waits for the protocol too."""
    outbox = offered(3)
    acks, batch = acked_batch(m.Ack(3, 1))
    data, senders = acks + batch, {3: outbox.sender(None)}
    reader, names = Reader(MESSAGE_MAX), {0: "default"}

    for end, coverage in ((len(acks), 4), (len(data) - 8, 4), (len(data), 3)):
        found = reader.direct(data, 0, end, 7, {7 << 32: coverage}, names, senders)
        assert found is None

    assert outbox.status().acked == 0


def test_acknowledgements_are_settled_up_to_what_is_none():
    """Acknowledgements in front are taken, of several publishers; what else stands behind them is left."""
    first, second = offered(300), offered(3)
    senders = {3: first.sender(None), 4: second.sender(None)}
    acks = b"".join(
        encode_control(m.Ack(publisher, sequence))
        for publisher, sequence in [*((3, n) for n in range(1, 201)), (4, 2), (3, 300), (4, 1)]
    )
    data = b"12345678" + acks + encode_control(m.Pong(7)) + encode_control(m.Ack(4, 3))

    found = acknowledge(data, 8, len(data), senders)

    assert found == 8 + len(acks)
    assert first.status().acked == 300
    assert second.status().acked == 2
    assert acknowledge(data, found, len(data), senders) == found


@pytest.mark.parametrize("cut", [1, 8, 31, 40])
def test_half_an_acknowledgement_waits(cut: int):
    """An acknowledgement that has not wholly arrived is left."""
    outbox = offered(3)
    one = encode_control(m.Ack(3, 1))
    data = one + encode_control(m.Ack(3, 2))[:-cut]

    assert acknowledge(data, 0, len(data), {3: outbox.sender(None)}) == len(one)
    assert outbox.status().acked == 1


@pytest.mark.parametrize(
    "ack",
    [m.Ack(4, 1), m.Ack(3, 1, "opened"), m.Ack(3, 2, "durable"), m.Ack(3, 4)],
    ids=["another's", "opened", "durable", "never sent"],
)
def test_an_acknowledgement_for_the_protocol_to_judge_is_left(ack: m.Ack):
    """The acknowledgement stays where it stands, and so does what is behind it; what is before it is settled, unless
    it is an older one of the same that was never sent."""
    outbox = offered(3)
    good, bad = encode_control(m.Ack(3, 1)), encode_control(ack)
    data = good + bad + encode_control(m.Ack(5, 3))
    senders = {3: outbox.sender(None)}

    assert acknowledge(data, 0, len(data), senders) == len(good)
    assert acknowledge(data, len(good), len(data), senders) == len(good)
    assert outbox.status().acked == (0 if ack.sequence == 4 else 1)


def test_what_acknowledge_takes_is_checked():
    """Nothing that is no sender is written to, and nothing outside the buffer is read."""
    ack = encode_control(m.Ack(3, 1))

    with pytest.raises(TypeError, match="is not a Sender"):
        acknowledge(ack, 0, len(ack), {3: object()})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="4 arguments, the last a dict"):
        acknowledge(ack, 0, len(ack), [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="buffer of"):
        acknowledge(ack, 0, len(ack) + 1, {})


def test_half_a_frame_is_an_error():
    """A batch ends where its last frame ends."""
    data = frames(b"a", b"b")

    assert Reader(MESSAGE_MAX).messages(data, 0, 60, "default", 0, 2) == -lib.HM_ETRUNC
    assert Reader(MESSAGE_MAX).index(data, 0, 60, 0, 2) == -lib.HM_ETRUNC


def test_a_region_outside_its_buffer_is_an_error():
    """Offsets are checked before anything is read."""
    with pytest.raises(ValueError, match="buffer of 4 bytes"):
        Reader(MESSAGE_MAX).index(b"1234", 2, 5, 0, 1)


def test_messages_do_not_leak():
    """Making and dropping messages leaves the topic with the references it had."""
    data = frames(*[b"x"] * 100)
    reader = Reader(MESSAGE_MAX)
    (first,) = reader.messages(data, 0, 48, "default", 0, 1)  # type: ignore[misc]
    before = sys.getrefcount(first.topic)

    for _ in range(100):
        reader.messages(data, 0, len(data), "default", 0, 100)

    after = sys.getrefcount(first.topic)
    assert after == before


def test_bad_arguments_are_python_errors():
    """Wrong types and counts raise, they do not crash."""
    outbox = Outbox(id=1)
    assert outbox.sender(None).send(b"no topic") == REFUSED - lib.HM_ETOPIC
    with pytest.raises(TypeError):
        outbox.sender(None).send(b"", "md.a")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        outbox.sender(b"md.a").send()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        outbox.sender(b"md.a").send("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        outbox.sender("md.a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="address 0"):
        _fast.Sender(0, None, None)


def test_the_table_is_of_the_version_the_headers_say():
    """api_address() names a table whose version is HM_API_VERSION."""
    assert API_VERSION == lib.HM_API_VERSION
    assert api_address() != 0


def place(buffer: bytearray, end: int) -> SimpleNamespace:
    """An inbox, as far as a source knows it."""
    return SimpleNamespace(buffer=buffer, end=end)


def test_a_source_reads_behind_what_is_held_and_says_how_it_went():
    """Bytes go to the end of what is held, which is moved on; nothing, the end, no room and a failure
    are told apart."""
    ours, theirs = socket.socketpair()
    inbox = place(bytearray(b"12345678"), 2)
    with ours, theirs:
        source = Source(ours.fileno(), None)

        assert source.receive(inbox, 0, 0) == EMPTY
        assert inbox.end == 2
        theirs.send(b"abc")
        assert source.receive(inbox, 0, -1) == 3
        assert (inbox.buffer, inbox.end) == (b"12abc678", 5)
        theirs.send(b"xyz?")
        assert source.receive(inbox, 0, -1) == 3
        assert source.receive(inbox, 0, -1) == EMPTY
        assert (inbox.buffer, inbox.end) == (b"12abcxyz", 8)
        inbox.end = 0
        assert source.receive(inbox, 0, -1) == 1
        theirs.close()
        assert source.receive(inbox, 0, -1) == 0
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            Source(1_000_000, None).receive(inbox, 0, 0)
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("end", [-1, 9])
def test_a_source_is_not_told_to_read_beside_its_buffer(end: int):
    """A place outside the buffer is refused."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ValueError, match="not within a buffer of 8 bytes"):
        Source(ours.fileno(), None).receive(place(bytearray(8), end), 0, 0)


def test_a_source_is_one_thing():
    """Neither a descriptor nor a medium, or both, is a mistake."""
    for fd, medium in ((-1, None), (3, 4096)):
        with pytest.raises(ValueError, match="a descriptor or a medium"):
            Source(fd, medium)


@pytest.mark.parametrize("spin_ns", [0, WAIT_NS])
def test_others_run_while_a_source_waits(spin_ns: int):
    """A thread that waits for input, asleep or spinning, has let the GIL go: what it waits for may come
    from a thread of the same process."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=theirs.send, args=(b"x",))
        thread.start()

        size = Source(ours.fileno(), None).receive(place(bytearray(8), 0), spin_ns, WAIT_NS)

        thread.join()
    assert size == 1  # 0, had it held the GIL for as long as it may wait
