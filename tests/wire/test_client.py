"""The client's end: states, coverage, resumption, and each way a broker can be wrong."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes import errors
from hermes.native.frames import DELIVERED_MAX
from hermes.wire import messages as m
from hermes.wire.client import BatchReceived, ClientProtocol, ClientState
from hermes.wire.codec import CONTROL_MAX, encode_control
from tests.wire import reference as ref
from tests.wire.peers import LIMITS, Client, cut, frames_of

UUID = bytes(range(16))
WELCOME = encode_control(m.Welcome(1, "test", UUID, LIMITS, True))
STREAM = encode_control(m.Stream(0, "default"))
FRAMES = ref.message("a", b"one", 6) + ref.message("b", b"two", 8)


@pytest.fixture
def client() -> Client:
    """Hello is said."""
    client = Client()
    client.protocol.hello(client="test")
    return client


@pytest.fixture
def subscribed(client: Client) -> Client:
    """Subscription 1 stands at 5 of stream 0, publisher 1 is open; the events so far put away."""
    client.protocol.subscribe(1, ">")
    client.protocol.open_publisher(1, UUID)
    client.deliver(WELCOME + STREAM + ref.batch(1, 0, 5, 5))
    client.events.clear()
    client.frames.clear()
    return client


def said(*frames: bytes) -> list[Any]:
    return frames_of(b"".join(frames))


# ---- output ----


def test_intentions_become_frames() -> None:
    """Each method returns the frame of its message, all before any answer."""
    say = ClientProtocol()
    start = m.Start(at="sequence", sequence=9)

    frames = [
        say.hello(client="c", identity="ann", credentials={"password": "s"}),
        say.open_publisher(1, UUID, "durable"),
        say.subscribe(2, "md.", kind="prefix", start=start, durable="books"),
        say.commit(2, {"md": 3}),
        say.ping(4),
        say.query(3, "topics", {"stream": "md"}),
        say.unsubscribe(2),
        say.close_publisher(1),
        say.close("done"),
    ]

    assert said(*frames) == [
        m.Hello(1, 1, "c", "ann", {"password": "s"}),
        m.Open(1, UUID, "durable"),
        m.Subscribe(2, "md.", "prefix", start, "books"),
        m.Commit(2, {"md": 3}),
        m.Ping(4),
        m.Query(3, "topics", {"stream": "md"}),
        m.Unsubscribe(2),
        m.Close(publisher=1),
        m.Close("done"),
    ]
    assert say.state is ClientState.CLOSING
    assert say.close() == b""


def test_ids_are_not_used_twice() -> None:
    """Each id is new, also behind those taken over."""
    say = ClientProtocol()
    say.hello()
    say.restore(m_resume(7))

    assert [say.new_id(), say.new_id()] == [8, 9]


def m_resume(subscription: int) -> Any:
    from hermes.wire.client import Resume

    return Resume([], [m.Subscribe(subscription, ">")])


def test_closing_what_was_never_opened_sends_nothing() -> None:
    """Without Hello there is nobody to say goodbye to."""
    say = ClientProtocol()

    assert say.close() == b""
    assert say.state is ClientState.CLOSED


# ---- input in order ----


def test_welcome_opens(client: Client) -> None:
    """Welcome is an event and tells the limits."""
    client.deliver(WELCOME)

    assert client.protocol.state is ClientState.OPEN
    assert client.protocol.welcome is not None
    assert client.protocol.welcome.limits == LIMITS
    assert len(client.events) == 1


def test_a_batch_is_handed_out_in_place(subscribed: Client) -> None:
    """A whole batch is an event with the place of its frames; nothing is copied."""
    data = bytearray(b"........" + ref.batch(1, 0, 5, 8, FRAMES))
    protocol = subscribed.protocol

    event = protocol.receive(data, 8, len(data))

    assert event == BatchReceived(1, 0, 5, 8, 64, len(data))
    assert protocol.position == len(data)
    assert data[64:] == FRAMES


def test_batches_continue_one_another(subscribed: Client) -> None:
    """Each batch begins where the last one ended; an empty one moves on as well."""
    subscribed.deliver(ref.batch(1, 0, 5, 8, FRAMES) + ref.batch(1, 0, 8, 20))
    subscribed.deliver(ref.batch(1, 0, 20, 21, ref.message("c", b"", 21)))

    batches = [event for event in subscribed.events if isinstance(event, BatchReceived)]
    assert [(one.after, one.through) for one in batches] == [(5, 8), (8, 20), (20, 21)]
    assert subscribed.protocol.positions(1) == {"default": 21}


def test_an_incomplete_batch_waits(subscribed: Client) -> None:
    """A batch is returned only when whole, and the bytes wanted are stated."""
    data = ref.batch(1, 0, 5, 8, FRAMES)
    protocol = subscribed.protocol

    for there, needed in ((0, 32), (40, 56), (len(data) - 1, len(data))):
        assert protocol.receive(data, 0, there) is None
        assert (protocol.position, protocol.needed) == (0, needed)


def test_streams_and_subscriptions_have_positions_of_their_own(subscribed: Client) -> None:
    """Coverage is kept per subscription and stream."""
    subscribed.protocol.subscribe(2, "md.>")
    subscribed.deliver(encode_control(m.Stream(1, "md")))
    subscribed.deliver(ref.batch(2, 1, 0, 0) + ref.batch(2, 0, 9, 9) + ref.batch(1, 1, 3, 3))
    subscribed.deliver(ref.batch(2, 1, 0, 4) + ref.batch(1, 0, 5, 6) + ref.batch(1, 1, 3, 4))

    assert subscribed.protocol.positions(1) == {"default": 6, "md": 4}
    assert subscribed.protocol.positions(2) == {"default": 9, "md": 4}


def test_an_epoch_that_ended_before_a_position_takes_it_back(client: Client) -> None:
    """The gap comes before the first batch, which begins before it; the new epoch is known."""
    start = m.Start(at="positions", positions={"default": 20}, epochs={"default": 7})
    client.protocol.subscribe(1, ">", start=start)
    gap = m.Gap(1, 0, 11, 20, "epoch")

    client.deliver(WELCOME + encode_control(m.Stream(0, "default", 9)) + encode_control(gap))
    client.deliver(ref.batch(1, 0, 10, 10) + ref.batch(1, 0, 10, 12))

    assert gap in client.events
    assert client.protocol.positions(1) == {"default": 12}
    (resumed,) = client.protocol.snapshot().subscriptions
    assert (resumed.start.positions, resumed.start.epochs) == ({"default": 12}, {"default": 9})


def test_a_resumed_subscription_is_taken_back_from_where_it_stood(client: Client) -> None:
    """A broker that takes back another position than the one it was given is wrong."""
    start = m.Start(at="positions", positions={"default": 20}, epochs={"default": 7})
    before = Client()
    before.protocol.hello(client="test")
    before.protocol.subscribe(1, ">", start=start)
    before.deliver(WELCOME + encode_control(m.Stream(0, "default", 7)) + ref.batch(1, 0, 20, 20))
    client.protocol.restore(before.protocol.snapshot())

    with pytest.raises(errors.MalformedInput) as caught:
        client.deliver(WELCOME + STREAM + encode_control(m.Gap(1, 0, 11, 19, "epoch")))

    assert caught.value.code == "coverage"


@pytest.mark.parametrize("sequences", [(6, 9), (1, 5), (0, 5)])
def test_an_epoch_does_not_end_within_a_connection(
    subscribed: Client, sequences: tuple[int, int]
) -> None:
    """Behind the first batch of a stream such a gap is a violation."""
    with pytest.raises(errors.MalformedInput) as caught:
        subscribed.deliver(encode_control(m.Gap(1, 0, *sequences, "epoch")))

    assert caught.value.code == "coverage"


def test_a_gap_moves_the_position(subscribed: Client) -> None:
    """After a gap the next batch begins behind it."""
    gap = m.Gap(1, 0, 6, 9, "retention")

    subscribed.deliver(encode_control(gap) + ref.batch(1, 0, 9, 12))

    assert subscribed.events[0] == gap
    assert subscribed.protocol.positions(1) == {"default": 12}


def test_answers_are_events(subscribed: Client) -> None:
    """Everything a broker may say that concerns something open is returned as it was sent."""
    subscribed.protocol.query(3, "stats")
    subscribed.protocol.unsubscribe(1)
    subscribed.protocol.subscribe(4, ">")
    answers = [
        m.Ack(1, 5, "durable"),
        m.Commit(4, {"default": 5}),
        m.Pong(9),
        m.Unsubscribe(1),
        m.Error("unknown_query", "what?", False, query=3),
        m.Error("storage_full", "no room", False, publisher=1, sequence=6),
        m.Close("bye"),
    ]

    subscribed.deliver(b"".join(encode_control(answer) for answer in answers))

    assert subscribed.events == answers
    assert subscribed.protocol.state is ClientState.PEER_CLOSED
    assert said(subscribed.protocol.close()) == [m.Close()]
    assert subscribed.protocol.state is ClientState.CLOSED


def test_info_comes_in_parts(subscribed: Client) -> None:
    """Parts of an answer are events until the last, which ends the query."""
    subscribed.protocol.query(3, "topics")
    parts = [m.Info(3, msgspec.Raw(msgspec.msgpack.encode(n)), n < 2) for n in range(3)]

    subscribed.deliver(b"".join(encode_control(part) for part in parts))

    data = [msgspec.msgpack.decode(e.data) for e in subscribed.events if isinstance(e, m.Info)]
    assert data == [0, 1, 2]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_an_answer_outlives_the_buffer(client: Client, kind: Any) -> None:
    """The content of Info is the caller's to keep when the buffer is filled again."""
    client.deliver(WELCOME)
    client.protocol.query(3, "stats")
    memory = bytearray(encode_control(m.Info(3, msgspec.Raw(msgspec.msgpack.encode("kept")))))

    event = client.protocol.receive(kind(memory), 0, len(memory))
    memory[:] = bytes(len(memory))

    assert isinstance(event, m.Info)
    assert msgspec.msgpack.decode(event.data) == "kept"


def test_ping_is_answered(subscribed: Client) -> None:
    """A Pong with the same token is put into the output, no event made."""
    subscribed.deliver(encode_control(m.Ping(7)))

    assert subscribed.events == []
    assert said(bytes(subscribed.output)) == [m.Pong(7)]


def test_what_crossed_an_end_is_dropped(subscribed: Client) -> None:
    """Batches, gaps, commits and acks of what the client has ended meanwhile are no events."""
    subscribed.protocol.unsubscribe(1)
    subscribed.protocol.close_publisher(1)

    subscribed.deliver(ref.batch(1, 0, 5, 6) + encode_control(m.Gap(1, 0, 7, 8, "damaged")))
    subscribed.deliver(encode_control(m.Commit(1, {})) + encode_control(m.Ack(1, 3)))
    subscribed.deliver(ref.batch(1, 0, 8, 9) * 2000 + encode_control(m.Unsubscribe(1)))

    assert subscribed.events == [m.Unsubscribe(1)]


def test_an_id_may_be_used_again_after_its_end(subscribed: Client) -> None:
    """Once Unsubscribe is answered, a new subscription under the id begins anywhere."""
    subscribed.protocol.unsubscribe(1)
    subscribed.deliver(encode_control(m.Unsubscribe(1)))
    subscribed.protocol.subscribe(1, "x")

    subscribed.deliver(ref.batch(1, 0, 99, 99))

    assert subscribed.protocol.positions(1) == {"default": 99}


def test_a_refused_subscription_is_forgotten(subscribed: Client) -> None:
    """An Error that ends a subscription takes it out of the session; one about a commit does
    not."""
    subscribed.protocol.subscribe(2, "..")
    refused = m.Error("invalid_filter", "no", False, subscription=2)
    commit = m.Error("commit_refused", "no", False, subscription=1)

    subscribed.deliver(encode_control(refused) + encode_control(commit))

    assert [s.subscription for s in subscribed.protocol.snapshot().subscriptions] == [1]


def test_closing_reads_on_until_the_brokers_close(subscribed: Client) -> None:
    """After our Close what is owed still comes; the broker's Close ends it in order."""
    subscribed.protocol.close()

    subscribed.deliver(encode_control(m.Ack(1, 4)) + encode_control(m.Ping(1)))
    subscribed.deliver(encode_control(m.Close()))

    assert subscribed.events == [m.Ack(1, 4), m.Close()]
    assert subscribed.output == b""
    assert subscribed.protocol.state is ClientState.CLOSED
    assert subscribed.protocol.eof()


def test_the_end_of_input_without_close_is_out_of_order(subscribed: Client) -> None:
    """A connection that breaks has not said goodbye."""
    assert not subscribed.protocol.eof()


def test_a_fatal_error_ends_the_connection(client: Client) -> None:
    """The broker's last frame is an event, and the state CLOSED."""
    error = m.Error("authentication_failed", "no")

    client.deliver(encode_control(error))

    assert client.events == [error]
    assert client.protocol.state is ClientState.CLOSED


@given(st.randoms(use_true_random=False), st.integers(1, 200))
def test_any_segmentation_gives_the_same_events(random: Random, most: int) -> None:
    """However the bytes are cut, events, frames and output are the same."""
    script = WELCOME + STREAM + encode_control(m.Ack(1, 0, "opened")) + ref.batch(1, 0, 5, 5)
    script += ref.batch(1, 0, 5, 8, FRAMES) + encode_control(m.Ping(3))
    script += encode_control(m.Gap(1, 0, 9, 11, "damaged")) + ref.batch(1, 0, 11, 12)
    script += encode_control(m.Close("bye"))
    whole, pieces = Client(), Client()
    for client in (whole, pieces):
        client.protocol.hello()
        client.protocol.open_publisher(1, UUID)
        client.protocol.subscribe(1, ">")

    whole.deliver(script)
    for piece in cut(script, random, most=most):
        pieces.deliver(piece)

    assert pieces.events == whole.events
    assert pieces.frames == whole.frames
    assert pieces.output == whole.output
    assert len(whole.events) == 8


# ---- taking a session over ----


def test_a_snapshot_starts_behind_the_last_batch(subscribed: Client) -> None:
    """Subscriptions resume behind what was delivered, by stream name; publishers under their
    ids."""
    subscribed.deliver(ref.batch(1, 0, 5, 8, FRAMES))
    subscribed.protocol.subscribe(2, "x", start=m.Start(at="last"), durable="d")

    resume = subscribed.protocol.snapshot()

    assert resume.publishers == [m.Open(1, UUID)]
    assert resume.subscriptions == [
        m.Subscribe(
            1, ">", start=m.Start(at="positions", positions={"default": 8}, otherwise="latest")
        ),
        m.Subscribe(2, "x", start=m.Start(at="last"), durable="d"),
    ]


@pytest.mark.parametrize(
    ("start", "otherwise"),
    [
        (m.Start(), "latest"),
        (m.Start(at="earliest"), "earliest"),
        (m.Start(at="last"), "earliest"),
        (m.Start(at="durable", otherwise="latest"), "latest"),
    ],
)
def test_streams_not_met_yet_begin_as_asked(client: Client, start: m.Start, otherwise: str) -> None:
    """A resumed start keeps how streams without a position begin."""
    client.protocol.subscribe(1, ">", start=start, durable="d")
    client.deliver(WELCOME + STREAM + ref.batch(1, 0, 5, 5))

    (subscription,) = client.protocol.snapshot().subscriptions

    assert subscription.start.otherwise == otherwise


def test_a_session_is_taken_over(subscribed: Client) -> None:
    """A new protocol opens everything again and holds the broker to the old positions."""
    subscribed.deliver(ref.batch(1, 0, 5, 8, FRAMES))
    resume = subscribed.protocol.snapshot()
    fresh = Client()
    fresh.protocol.hello()

    frames = fresh.protocol.restore(resume)
    assert said(*frames) == [*resume.publishers, *resume.subscriptions]
    assert fresh.protocol.positions(1) == {"default": 8}
    fresh.deliver(WELCOME + encode_control(m.Stream(7, "default")) + ref.batch(1, 7, 8, 8))
    fresh.deliver(ref.batch(1, 7, 8, 9))

    assert fresh.protocol.positions(1) == {"default": 9}


def test_positions_survive_a_connection_that_told_nothing(subscribed: Client) -> None:
    """A connection that breaks before its first batch, or after Close, loses no position."""
    subscribed.deliver(encode_control(m.Close()))
    first = subscribed.protocol.snapshot()
    fresh = Client()
    fresh.protocol.hello()
    fresh.protocol.restore(first)

    assert fresh.protocol.snapshot() == first
    assert first.subscriptions[0].start.positions == {"default": 5}


def test_a_resumed_subscription_must_go_on_where_it_was(subscribed: Client) -> None:
    """A broker that begins elsewhere has lost or repeated something: coverage is violated."""
    fresh = Client()
    fresh.protocol.hello()
    fresh.protocol.restore(subscribed.protocol.snapshot())

    with pytest.raises(errors.MalformedInput) as caught:
        fresh.deliver(WELCOME + STREAM + ref.batch(1, 0, 0, 0))

    assert caught.value.code == "coverage"


# ---- input out of order: one test input per code ----


def changed(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + bytes([value]) + data[offset + 1 :]


BATCH = ref.batch(1, 0, 5, 8, FRAMES)
PONG = encode_control(m.Pong(1))
GREETING: list[tuple[str, bytes]] = [
    ("not_hermes", b"HTTP/1.1 400 Bad Request\r\n"),
    ("not_hermes", b"SSH-2.0"),
    ("hello_expected", PONG),
    ("hello_expected", ref.batch(1, 0, 0, 0)),
    ("unsupported_version", encode_control(m.Welcome(2, "test", UUID, LIMITS, True))),
    ("bad_payload", ref.frame(17, b"\x80")),
]
OPEN: list[tuple[str, bytes]] = [
    ("bad_magic", b"HTTP/1.1"),
    ("bad_type", ref.message("a", b"", 1)),
    ("bad_type", ref.frame(99)),
    ("bad_flags", ref.frame(26, b"\x80", b"topic")),
    ("bad_length", ref.HEADER.pack(b"HRMS", 1, 26, 0, 0, 0, CONTROL_MAX + 1, 0)),
    ("bad_length", ref.HEADER.pack(b"HRMS", 1, 2, 0, 0, 0, DELIVERED_MAX + 32, 0)),
    ("bad_padding", ref.frame(26, b"\x80")[:-1] + b"\x01"),
    ("bad_checksum", changed(PONG, 28, PONG[28] ^ 1)),
    ("bad_checksum", changed(BATCH, 44, 1)),
    ("bad_sequence", ref.batch(1, 0, 9, 5)),
    ("bad_payload", ref.frame(26, b"\x80")),
    ("hello_repeated", WELCOME),
    ("unexpected", encode_control(m.Hello(1, 1))),
    ("unexpected", encode_control(m.Open(1, UUID))),
    ("unexpected", encode_control(m.Subscribe(1, ">"))),
    ("unexpected", encode_control(m.Query(1, "x"))),
    ("unexpected", STREAM),
    ("unexpected", encode_control(m.Info(9, msgspec.Raw(b"\xc0")))),
    ("unexpected", encode_control(m.Close(publisher=1))),
    ("unknown_stream", ref.batch(1, 3, 0, 0)),
    ("unknown_subscription", ref.batch(9, 0, 0, 0)),
    ("unknown_subscription", encode_control(m.Unsubscribe(1))),
    ("coverage", ref.batch(1, 0, 6, 8, FRAMES)),
    ("coverage", ref.batch(1, 0, 4, 8, FRAMES)),
    ("coverage", BATCH + BATCH),
    ("coverage", encode_control(m.Stream(1, "x")) + ref.batch(1, 1, 0, 3)),
    ("coverage", encode_control(m.Gap(1, 0, 7, 9, "retention"))),
    ("coverage", encode_control(m.Gap(1, 0, 6, 5, "retention"))),
    ("coverage", encode_control(m.Stream(1, "x")) + encode_control(m.Gap(1, 1, 1, 2, "damaged"))),
    ("after_close", encode_control(m.Close()) + PONG),
    ("after_close", encode_control(m.Close()) + BATCH),
    ("after_close", encode_control(m.Close()) + b"junk"),
    ("after_close", encode_control(m.Error("internal", "sorry")) + BATCH),
]


@pytest.mark.parametrize(("code", "data"), GREETING)
def test_each_wrong_greeting_is_named(client: Client, code: str, data: bytes) -> None:
    """A frame that cannot follow Hello raises with its code, and the broker is told."""
    check_violation(client, code, data)


@pytest.mark.parametrize(("code", "data"), OPEN)
def test_each_violation_is_named(subscribed: Client, code: str, data: bytes) -> None:
    """A frame that a broker may not send raises with its code, and the broker is told."""
    check_violation(subscribed, code, data)


def check_violation(client: Client, code: str, data: bytes) -> None:
    with pytest.raises(errors.MalformedInput) as caught:
        client.deliver(data)

    (error,) = said(*client.protocol.output)
    assert (caught.value.code, error.code, error.fatal) == (code, code, True)
    assert client.protocol.state is ClientState.CLOSED


@pytest.mark.parametrize("before", [b"", WELCOME])
def test_frames_of_another_version_are_refused(client: Client, before: bytes) -> None:
    """An unknown frame version is no malformed input but a refusal with a clear name."""
    client.deliver(before)

    with pytest.raises(errors.VersionRefused):
        client.deliver(changed(PONG, 4, 9))

    (error,) = said(*client.protocol.output)
    assert error.code == "unsupported_version"
    assert client.protocol.state is ClientState.CLOSED


def test_too_many_streams_are_refused(client: Client) -> None:
    """A broker cannot make a client keep names without bound."""
    client.deliver(WELCOME)

    with pytest.raises(errors.MalformedInput, match="more than 1024 streams"):
        client.deliver(b"".join(encode_control(m.Stream(n, f"s{n}")) for n in range(1025)))


def test_nothing_is_said_after_close_about_what_comes(subscribed: Client) -> None:
    """Once we have said Close, malformed input raises and nobody is told."""
    subscribed.protocol.close()

    with pytest.raises(errors.MalformedInput):
        subscribed.deliver(b"junk")

    assert subscribed.protocol.output == []


@given(st.binary(max_size=200))
def test_random_bytes_are_events_or_malformed(data: bytes) -> None:
    """With any bytes of a broker, the answer is an event, a wait or one of two exceptions."""
    for prefix in (b"", WELCOME, WELCOME + STREAM + b"HRMS\x01\x02\0\0"):
        client = Client()
        client.protocol.hello()
        try:
            client.deliver(prefix + data)
        except (errors.MalformedInput, errors.VersionRefused):
            assert client.protocol.state is ClientState.CLOSED
