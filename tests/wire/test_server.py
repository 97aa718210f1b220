"""The broker's end: states, limits, and one defined answer to each way of being wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.native.envelopes import address_of
from hermes.wire import messages as m
from hermes.wire.codec import CONTROL_MAX, HELLO_MAX, encode_control
from hermes.wire.errorcodes import ERROR_CODES
from hermes.wire.server import PublisherRefused, ServerState, Violation
from tests.wire import reference as ref
from tests.wire.peers import BROKER_ID, LIMITS, MESSAGE_MAX, Server, cut

UUID = bytes(range(16))
HELLO = encode_control(m.Hello(1, 1, "test"))
OPEN = encode_control(m.Open(1, UUID))
CLOSE = encode_control(m.Close())


class Broker(Server):
    """Opens publishers and takes what they send; answers nothing else."""

    def __init__(self, ingest: ref.ReferenceIngest | None = None) -> None:
        self.ingest = ingest or ref.ReferenceIngest(ref.ReferenceStore(), MESSAGE_MAX)
        self.store = self.ingest.store
        super().__init__(self.ingest)

    def handle(self, event: Any) -> None:
        super().handle(event)
        if isinstance(event, m.Open):
            self.ingest.open_publisher(event.publisher, event.publisher_id)
        elif isinstance(event, m.Close) and event.publisher is not None:
            self.ingest.close_publisher(event.publisher)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def opened() -> Broker:
    """Greeted, one publisher open, and what was sent so far put away."""
    broker = Broker()
    broker.deliver(HELLO + OPEN)
    broker.events.clear()
    broker.output.clear()
    return broker


def published(first: int, *topics: str) -> bytes:
    """A batch of publisher 1: one message per topic."""
    frames = b"".join(ref.message(t, b"m%d" % i, first + i) for i, t in enumerate(topics))
    return ref.batch(1, 0, first - 1, first + len(topics) - 1, frames)


def changed(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + bytes([value]) + data[offset + 1 :]


# ---- in order ----


def test_hello_is_an_event_and_welcome_its_answer(broker: Broker) -> None:
    """Hello is returned; Welcome states the version, the broker and the limits."""
    broker.deliver(HELLO)

    assert broker.events == [m.Hello(1, 1, "test")]
    assert broker.protocol.state is ServerState.OPEN
    assert broker.sent() == [m.Welcome(1, "test", BROKER_ID, LIMITS, True)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 255), (0, 255)])
def test_the_newest_common_version_is_chosen(broker: Broker, low: int, high: int) -> None:
    """Any range of versions that holds 1 is welcomed with 1."""
    broker.deliver(encode_control(m.Hello(low, high)))

    assert broker.sent()[0].version == 1


def test_nothing_is_read_before_the_broker_has_decided() -> None:
    """Between Hello and Welcome the input rests where it is."""
    broker = Broker()
    broker.handle = lambda event: None  # type: ignore[method-assign]

    broker.deliver(HELLO + OPEN)
    assert broker.events == [m.Hello(1, 1, "test")]
    assert broker.protocol.state is ServerState.AWAIT_WELCOME
    del broker.handle
    broker.protocol.welcome(server="test", broker_id=BROKER_ID, durable=False)
    broker.deliver(b"")

    assert broker.events[1:] == [m.Open(1, UUID)]


def test_messages_are_events(opened: Broker) -> None:
    """Every request a client may make is returned as it was sent."""
    requests = [
        m.Subscribe(1, "md.>", start=m.Start(at="earliest"), durable="books"),
        m.Commit(1, {"md": 5}),
        m.Query(9, "streams", {"like": "md"}),
        m.Unsubscribe(1),
        m.Pong(3),
        m.Error("coverage", "a hole", fatal=False),
        m.Close(publisher=1),
        m.Close("done"),
    ]

    opened.deliver(b"".join(encode_control(request) for request in requests))

    assert opened.events == requests
    assert opened.output == b""
    assert opened.protocol.state is ServerState.PEER_CLOSED


def test_batches_go_to_the_sink_without_an_event(opened: Broker) -> None:
    """A read of batches only leaves no event and wants no particular number of bytes."""
    data = published(1, "a", "b") + published(3, "md.c")

    took = opened.protocol.receive(address_of(data), len(data), 0)

    assert (took, opened.protocol.event, opened.protocol.needed) == (len(data), None, 0)
    assert [one.topic for stream in opened.store.streams for one in stream] == ["a", "b", "md.c"]


def test_a_publisher_is_open_before_its_first_batch_is_fed(broker: Broker) -> None:
    """Hello, Open and a batch in one read: the batch is taken."""
    broker.deliver(HELLO + OPEN + published(1, "a"))

    assert [one.topic for one in broker.store.streams[0]] == ["a"]


def test_ping_is_answered_with_pong(opened: Broker) -> None:
    """A Pong with the same token is queued, no event made."""
    opened.deliver(encode_control(m.Ping(77)) + encode_control(m.Ping(78)))

    assert opened.events == []
    assert opened.sent() == [m.Pong(77), m.Pong(78)]


def test_a_refused_publisher_is_told_and_may_open_again(opened: Broker) -> None:
    """A stream's refusal is an Error that names publisher and sequence; Open brings it back."""
    opened.store.refused_topics["full"] = 18

    opened.deliver(published(1, "a", "full", "b") + published(4, "c"))
    assert opened.events == [PublisherRefused(1, 2, "storage_full", -18)]
    (error,) = opened.sent()
    assert (error.code, error.fatal, error.publisher, error.sequence) == (
        "storage_full",
        False,
        1,
        2,
    )
    opened.store.refused_topics.clear()
    opened.deliver(OPEN + published(2, "full", "b", "c"))

    assert [one.topic for one in opened.store.streams[0]] == ["a", "full", "b", "c"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (13, "topic_refused"),
        (18, "storage_full"),
        (19, "storage_failed"),
        (20, "too_many_topics"),
        (21, "publish_refused"),
    ],
)
def test_each_refusal_has_its_code(opened: Broker, number: int, code: str) -> None:
    """The core's number of a refusal becomes the protocol's code, and the connection lives."""
    opened.store.refused_topics["a"] = number

    opened.deliver(published(1, "a"))

    assert opened.sent()[0].code == code
    assert opened.protocol.state is ServerState.OPEN


def test_a_stream_is_announced_once(opened: Broker) -> None:
    """Positions announce their stream before the first, and not again."""
    opened.protocol.position(1, 0, "default", 7)
    opened.protocol.position(2, 0, "default", 9)
    opened.collect()

    first, second, third = opened.sent()
    assert first == m.Stream(0, "default")
    assert [second, third] == [ref.batch(1, 0, 7, 7), ref.batch(2, 0, 9, 9)]


def test_intentions_become_frames(opened: Broker) -> None:
    """Frames of the broker are queued in order."""
    protocol = opened.protocol
    protocol.ack(1, 10, "durable")
    protocol.gap(2, 0, first=3, last=4, reason="damaged")
    protocol.committed(2, {"md": 4})
    protocol.unsubscribed(2)
    protocol.ping(1)
    protocol.error("unknown_query", "what?", query=5)
    assert protocol.has_output
    opened.collect()

    assert opened.sent() == [
        m.Ack(1, 10, "durable"),
        m.Gap(2, 0, 3, 4, "damaged"),
        m.Commit(2, {"md": 4}),
        m.Unsubscribe(2),
        m.Ping(1),
        m.Error("unknown_query", "what?", False, query=5),
    ]
    assert not protocol.has_output


def test_ids_are_free_again(opened: Broker) -> None:
    """After Close, Unsubscribe, a refusal or the last Info an id may be used again."""
    subscribe = encode_control(m.Subscribe(1, ">"))
    query = encode_control(m.Query(1, "streams"))

    opened.deliver(encode_control(m.Close(publisher=1)) + OPEN)
    opened.deliver(subscribe)
    opened.protocol.error("invalid_filter", "no", subscription=1)
    opened.deliver(subscribe)
    opened.protocol.unsubscribed(1)
    opened.deliver(subscribe)
    opened.deliver(query)
    opened.protocol.info(1, {"streams": []})
    opened.deliver(query)
    opened.protocol.error("unknown_query", "no", query=1)
    opened.deliver(query)

    assert not any(isinstance(event, Violation) for event in opened.events)
    assert len(opened.events) == 8


@pytest.mark.parametrize("code", ["commit_refused", "storage_failed"])
def test_a_refused_commit_leaves_the_subscription(opened: Broker, code: str) -> None:
    """An error about one request of a subscription does not end it."""
    opened.deliver(encode_control(m.Subscribe(1, ">")))
    opened.protocol.error(code, "no", subscription=1, fatal=False)

    opened.deliver(encode_control(m.Commit(1, {})))

    assert opened.events[-1] == m.Commit(1, {})
    assert opened.protocol.output_count == 0


def test_close_is_answered_and_ends(opened: Broker) -> None:
    """After the peer's Close what is owed may be sent, then Close ends the connection in order."""
    opened.deliver(published(1, "a") + CLOSE)
    assert opened.protocol.state is ServerState.PEER_CLOSED
    opened.protocol.ack(1, 1)
    opened.protocol.close()
    opened.protocol.close()
    opened.collect()

    assert opened.sent() == [m.Ack(1, 1), m.Close()]
    assert opened.protocol.state is ServerState.CLOSED
    assert opened.protocol.eof()


def test_while_closing_batches_are_taken_and_requests_ignored(opened: Broker) -> None:
    """After our Close the peer's batches are stored, nothing is answered, its Close ends it."""
    opened.protocol.close("stopping")
    opened.protocol.ack(1, 1)

    opened.deliver(published(1, "a") + encode_control(m.Ping(1)) + encode_control(m.Query(1, "x")))
    opened.deliver(encode_control(m.Close(publisher=1)))
    assert opened.protocol.state is ServerState.CLOSING
    opened.deliver(CLOSE + b"whatever")

    assert opened.sent() == [m.Close("stopping")]
    assert [one.topic for one in opened.store.streams[0]] == ["a"]
    assert opened.protocol.state is ServerState.CLOSED


@pytest.mark.parametrize("junk", [b"GET /", changed(OPEN, 28, 0), ref.frame(30, b"\xc1")])
def test_junk_while_closing_ends_it_at_once(opened: Broker, junk: bytes) -> None:
    """After our Close nothing can be said, so malformed input just ends the connection."""
    opened.protocol.close()
    opened.collect()
    opened.output.clear()

    opened.deliver(junk)

    assert opened.protocol.state is ServerState.CLOSED
    assert opened.output == b""
    assert isinstance(opened.events[-1], Violation)


def test_closing_before_welcome_just_ends(broker: Broker) -> None:
    """Without a session there is no handshake to wait for."""
    broker.protocol.close("stopping")
    broker.collect()

    assert broker.sent() == [m.Close("stopping")]
    assert broker.protocol.state is ServerState.CLOSED


def test_the_end_of_input_without_close_is_out_of_order(opened: Broker) -> None:
    """A peer that hangs up without Close has ended out of order."""
    assert not opened.protocol.eof()
    assert opened.protocol.state is ServerState.CLOSED


def test_a_fatal_error_of_the_client_ends_the_connection(opened: Broker) -> None:
    """A client that gives up says why and is not answered."""
    opened.deliver(encode_control(m.Error("coverage", "a hole")) + OPEN)

    assert opened.events == [m.Error("coverage", "a hole")]
    assert opened.protocol.state is ServerState.CLOSED
    assert opened.output == b""


@given(st.randoms(use_true_random=False), st.integers(1, 200))
def test_any_segmentation_gives_the_same_events(random: Random, most: int) -> None:
    """However the bytes are cut, events, output and what was stored are the same."""
    script = HELLO + OPEN + published(1, "a", "md.b") + encode_control(m.Ping(1))
    script += encode_control(m.Subscribe(1, ">")) + published(3, "no", "c") + OPEN
    script += published(3, "c", "d") + encode_control(m.Query(1, "stats")) + CLOSE + b"late"
    whole, pieces = Broker(), Broker()
    for broker in (whole, pieces):
        broker.store.refused_topics["no"] = 13

    whole.deliver(script)
    for piece in cut(script, random, most=most):
        pieces.deliver(piece)

    assert pieces.events == whole.events
    assert pieces.output == whole.output
    assert pieces.store.streams == whole.store.streams
    assert isinstance(whole.events[-1], Violation)


# ---- out of order: one test input per code ----


def session(*requests: Any) -> bytes:
    return HELLO + b"".join(encode_control(request) for request in requests)


def open_many(count: int) -> list[m.Open]:
    return [m.Open(id, UUID) for id in range(count)]


BAD_CRC = changed(OPEN, 28, OPEN[28] ^ 1)
HUGE_HELLO = ref.frame(16, bytes(HELLO_MAX + 1))
HUGE_CONTROL = ref.HEADER.pack(b"HRMS", 1, 25, 0, 0, 0, CONTROL_MAX + 1, 0)
BATCH_OF_TWO = published(1, "a", "b")

VIOLATIONS: list[tuple[str, bytes]] = [
    ("not_hermes", b"GET / HTTP/1.1\r\n\r\n"),
    ("not_hermes", b"H\0"),
    ("not_hermes", b"\x16\x03\x01"),
    ("unsupported_version", changed(HELLO, 4, 2)),
    ("unsupported_version", b"HRMS\x00"),
    ("unsupported_version", encode_control(m.Hello(2, 9))),
    ("unsupported_version", encode_control(m.Hello(0, 0))),
    ("unsupported_version", encode_control(m.Hello(1, 0))),
    ("unsupported_version", HELLO + changed(OPEN, 4, 7)),
    ("hello_expected", OPEN),
    ("hello_expected", published(1, "a")),
    ("hello_expected", ref.message("a", b"", 1)),
    ("hello_expected", ref.frame(99)),
    ("bad_magic", HELLO + b"GET / HTTP/1.1\r\n"),
    ("bad_type", HELLO + ref.frame(3)),
    ("bad_type", HELLO + ref.frame(31)),
    ("bad_type", HELLO + ref.message("a", b"", 1)),
    ("bad_type", HELLO + OPEN + ref.batch(1, 0, 0, 1, encode_control(m.Ping(1)))),
    ("bad_flags", ref.frame(16, b"\x80", b"topic")),
    ("bad_flags", HELLO + ref.frame(25, b"\x81\xa5token\x01", flags=512)),
    ("bad_length", HUGE_HELLO),
    ("bad_length", HUGE_HELLO[:32]),
    ("bad_length", HELLO + HUGE_CONTROL),
    ("bad_length", HELLO + OPEN + ref.frame(ref.BATCH, bytes(16))),
    ("bad_length", HELLO + OPEN + ref.batch(1, 0, 0, 1, bytes(ref.message("a", b"x", 1))[:32])),
    ("bad_padding", HELLO + ref.frame(25, b"\x80")[:-1] + b"\x01"),
    ("bad_padding", ref.frame(16, b"\x80")[:-1] + b"\x01"),
    ("bad_checksum", HELLO + BAD_CRC),
    ("bad_checksum", changed(HELLO, 28, HELLO[28] ^ 1)),
    ("bad_checksum", HELLO + OPEN + BATCH_OF_TWO[:-8] + bytes(8)),
    ("bad_sequence", HELLO + OPEN + ref.batch(1, 0, 0, 2, ref.message("a", b"", 2))),
    ("bad_sequence", HELLO + OPEN + ref.batch(1, 0, 0, 0, ref.message("a", b"", 1))),
    ("bad_payload", ref.frame(16, b"\xc1")),
    ("bad_payload", HELLO + ref.frame(25, b"\x80")),
    ("unexpected", session(m.Ack(1, 1))),
    ("unexpected", session(m.Welcome(1, "x", UUID, LIMITS, True))),
    ("unexpected", session(m.Stream(0, "x"))),
    ("unexpected", session(m.Gap(0, 0, 1, 1, "damaged"))),
    ("hello_repeated", HELLO + HELLO),
    ("after_close", session(m.Close(), m.Ping(1))),
    ("id_in_use", session(m.Open(1, UUID), m.Open(1, UUID))),
    ("id_in_use", session(m.Subscribe(1, ">"), m.Subscribe(1, ">"))),
    ("id_in_use", session(m.Query(1, "stats"), m.Query(1, "stats"))),
    ("unknown_publisher", HELLO + published(1, "a")),
    ("unknown_publisher", session(m.Open(1, UUID), m.Close(publisher=1)) + published(1, "a")),
    ("unknown_publisher", session(m.Close(publisher=1))),
    ("too_many_publishers", session(*open_many(LIMITS.publishers_max + 1))),
    ("too_many_queries", session(*(m.Query(id, "stats") for id in range(m.QUERIES_MAX + 1)))),
]


@pytest.mark.parametrize(("code", "data"), VIOLATIONS)
def test_each_violation_is_named_and_ends_the_connection(code: str, data: bytes) -> None:
    """One Error with the code goes out, in version 1; then nothing is read or sent."""
    broker = Broker()

    broker.deliver(data)
    errors = [one for one in broker.sent() if isinstance(one, m.Error)]
    size = len(broker.output)
    broker.deliver(OPEN)
    broker.protocol.ack(1, 1)
    broker.collect()

    assert [(error.code, error.fatal) for error in errors] == [(code, True)]
    assert isinstance(broker.events[-1], Violation)
    assert broker.events[-1].code == code
    assert broker.protocol.state is ServerState.CLOSED
    assert len(broker.output) == size
    assert errors[0].message


def test_a_publisher_is_opened_again_once_per_refusal(opened: Broker) -> None:
    """The Open that follows a refusal uses it up; another is of an id in use."""
    opened.store.refused_topics["a"] = 13

    opened.deliver(published(1, "a") + OPEN)
    assert not isinstance(opened.events[-1], Violation)
    opened.deliver(OPEN)

    assert isinstance(opened.events[-1], Violation)
    assert opened.events[-1].code == "id_in_use"


def test_a_reopened_publisher_keeps_its_id(opened: Broker) -> None:
    """After a refusal only the same publisher may come back under its number."""
    opened.store.refused_topics["a"] = 13

    opened.deliver(published(1, "a") + encode_control(m.Open(1, UUID[::-1])))

    assert isinstance(opened.events[-1], Violation)
    assert opened.events[-1].code == "id_in_use"


REFUSALS: list[tuple[str, list[Any]]] = [
    ("too_many_subscriptions", [m.Subscribe(id, ">") for id in range(5)]),
    ("unknown_subscription", [m.Unsubscribe(4)]),
    ("unknown_subscription", [m.Commit(4, {})]),
    ("invalid_start", [m.Subscribe(4, ">", start=m.Start(at="durable"))]),
]


@pytest.mark.parametrize(("code", "requests"), REFUSALS)
def test_each_refused_request_is_named_and_the_connection_lives(
    opened: Broker, code: str, requests: list[Any]
) -> None:
    """An Error that names the subscription is the answer, and nothing else changes."""
    opened.deliver(b"".join(encode_control(request) for request in requests))

    (error,) = opened.sent()
    assert (error.code, error.fatal, error.subscription) == (code, False, 4)
    assert opened.protocol.state is ServerState.OPEN
    assert len(opened.events) == len(requests) - 1


def test_the_error_table_is_what_the_server_goes_by(opened: Broker) -> None:
    """Whether an error ends the connection is its row's business, unless the broker insists."""
    for code, row in ERROR_CODES.items():
        broker = Broker()
        broker.deliver(HELLO)
        broker.protocol.error(code, "text")
        assert (broker.protocol.state is ServerState.CLOSED) is row.fatal

    opened.protocol.error("not_allowed", "you may not publish", publisher=1, fatal=True)
    assert opened.protocol.state is ServerState.CLOSED


@pytest.mark.parametrize("say", [lambda p: p.ack(1, 1), lambda p: p.ping(1)])
def test_nothing_is_said_before_welcome(broker: Broker, say: Callable[[Any], None]) -> None:
    """A broker that speaks too early is mistaken, and finds out at once."""
    with pytest.raises(AssertionError):
        say(broker.protocol)


@given(st.binary(max_size=300))
def test_random_bytes_never_raise(data: bytes) -> None:
    """With any bytes, at any point, the protocol asks for more or answers with an Error."""
    for prefix in (b"", HELLO, HELLO + OPEN, HELLO + OPEN + b"HRMS\x01\x02\0\0"):
        broker = Broker()
        broker.deliver(prefix + data)
        broker.sent()


def scrambled(frames: list[bytes], random: Random) -> bytes:
    """Frames dropped, repeated, swapped; control payloads changed, with a checksum that fits."""
    chosen = [frame for frame in frames for _ in range(random.choice([0, 1, 1, 1, 1, 2]))]
    for _ in range(random.randint(0, 2)):
        if len(chosen) > 1:
            at = random.randrange(len(chosen) - 1)
            chosen[at], chosen[at + 1] = chosen[at + 1], chosen[at]
    for at, one in enumerate(chosen):
        if one[5] >= 16 and random.random() < 0.2:
            (size,) = ref.struct.unpack_from("<I", one, 24)
            payload = bytearray(one[32 : 32 + size])
            for _ in range(random.randint(1, 3)):
                payload[random.randrange(len(payload))] = random.choice([0, 1, 127, 128, 192, 255])
            chosen[at] = ref.frame(one[5], bytes(payload))
    return b"".join(chosen)


@pytest.mark.parametrize("seed", range(300))
def test_scrambled_sessions_have_one_answer(seed: int) -> None:
    """With any frames in any order, all is well, or one fatal Error is the last frame."""
    random = Random(seed)
    frames = [HELLO, OPEN, published(1, "a", "md.b"), encode_control(m.Ping(1))]
    frames += [encode_control(m.Subscribe(1, ">")), published(3, "c"), published(4, "d", "e")]
    frames += [encode_control(m.Query(1, "stats")), encode_control(m.Unsubscribe(1)), CLOSE]
    broker = Broker()

    for piece in cut(scrambled(frames, random), random, most=300):
        broker.deliver(piece)

    sent = [one for one in broker.sent() if isinstance(one, m.Error) and one.fatal]
    violated = [one for one in broker.events if isinstance(one, Violation)]
    assert [one.code for one in violated] == [one.code for one in sent]
    assert len(sent) <= 1
    assert not sent or broker.sent()[-1] == sent[0]
