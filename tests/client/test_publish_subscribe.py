"""Publishing and subscribing through a real broker."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from array import array
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import hermes
from hermes.errors import (
    Closed,
    Forked,
    InvalidTopic,
    MalformedInput,
    MessageTooLarge,
    Refused,
    Timeout,
    UsageError,
)
from hermes.native import Encoder
from hermes.native.outbox import Outbox
from hermes.wire.codec import encode_control
from hermes.wire.messages import Ping

if TYPE_CHECKING:
    from collections.abc import Callable

np = pytest.importorskip("numpy")


def payloads(subscription: hermes.Subscription, count: int) -> list[bytes]:
    """The payloads of the next ``count`` messages."""
    return [subscription.receive(60).payload for _ in range(count)]


def frames(*payloads: bytes) -> bytes:
    """Messages of one topic, as frames."""
    encoder = Encoder()
    for payload in payloads:
        encoder.encode(payload, topic="md.a", sequence=1, timestamp_ns=1)
    return bytes(encoder.view)


def test_what_is_published_after_subscribe_returns_is_seen(client: hermes.Client):
    """subscribe() returns once the broker has confirmed: the very next message arrives."""
    subscription = client.subscribe("md.>")
    with client.publisher("md.a") as publisher:
        assert publisher.send(b"hello") == 1

    message = subscription.receive(60)

    assert (message.topic, message.payload, message.sequence) == ("md.a", b"hello", 1)
    assert message.stream == "default"
    assert abs(message.timestamp_ns / 1e9 - datetime.now().timestamp()) < 60


def test_flush_waits_for_the_acknowledgement(client: hermes.Client):
    """After flush() everything is acknowledged, and sequences count from 1."""
    publisher = client.publisher("md.a")
    assert [publisher.send(b"x") for _ in range(3)] == [1, 2, 3]

    publisher.flush()

    assert publisher.acked == publisher.sent == 3
    assert client.streams()[0]["messages"] == 3


def test_a_message_may_have_a_topic_and_a_time_of_its_own(client: hermes.Client):
    """send() takes another topic than the publisher's, and a timestamp."""
    subscription = client.subscribe(">")
    publisher = client.publisher("md.a")
    publisher.send(b"1")
    publisher.send(b"2", "md.b")
    publisher.send(b"3", timestamp_ns=77)

    found = [subscription.receive(60) for _ in range(3)]

    assert [m.topic for m in found] == ["md.a", "md.b", "md.a"]
    assert found[2].timestamp_ns == 77


@pytest.mark.parametrize("linger", [None, 0.001])
def test_many_at_once(client: hermes.Client, linger: float | None):
    """Payloads as a sequence, or joined with lengths in any 32-bit form, arrive one by one in order."""
    subscription = client.subscribe("md.*")
    publisher = client.publisher("md.a", linger=linger)
    publisher.send_many([b"a", b"", b"ccc"])
    publisher.send_many(b"ddee", array("I", [2, 2]))
    publisher.send_many(b"ffg", [2, 1], "md.b")
    publisher.send_many(memoryview(b"hij"), np.array([1, 2], dtype=np.uint32))
    last = publisher.send_many(np.frombuffer(b"kl", np.uint8), np.array([1, 1], dtype=np.int64))

    assert last == 11
    expected = [b"a", b"", b"ccc", b"dd", b"ee", b"ff", b"g", b"h", b"ij", b"k", b"l"]
    assert payloads(subscription, 11) == expected


def test_far_more_than_the_window_at_once(client: hermes.Client, other: hermes.Client):
    """send_many() of several times what the window holds waits for acknowledgements in between."""
    subscription = other.subscribe("md.a")
    publisher = client.publisher("md.a", window=1 << 16)
    sent = [b"%d" % i * (i % 50) for i in range(5000)]

    publisher.send_many(sent)

    assert payloads(subscription, 5000) == sent


def test_rows_of_arrays(client: hermes.Client):
    """Rows of a 2-D array, records of a 1-D one and a strided view are sent as the bytes they are."""
    subscription = client.subscribe("md.a")
    publisher = client.publisher("md.a")
    grid = np.arange(12, dtype=np.uint16).reshape(3, 4)
    records = np.zeros(2, dtype=[("price", "<f8"), ("size", "<u4")])
    records["size"] = [7, 8]

    publisher.send_rows(grid)
    publisher.send_rows(records)
    publisher.send_rows(grid[:, ::2])
    publisher.send_rows(grid[:0])

    expected = [row.tobytes() for row in (*grid, *records, *grid[:, ::2])]
    assert payloads(subscription, 8) == expected


def test_a_batch_shows_arrays_over_the_memory_it_arrived_in(client: hermes.Client):
    """Sequences, timestamps, offsets, lengths, topics, payloads and rows of a batch, nothing copied."""
    subscription = client.subscribe("md.a")
    kind = np.dtype([("number", "<u4"), ("double", "<u4")])
    rows = np.array([(i, 2 * i) for i in range(100)], dtype=kind)
    client.publisher("md.a").send_rows(rows)
    found, count = [], 0
    for batch in subscription.batches(timeout=60):
        found.append(batch)
        count += len(batch)
        if count == 100:
            break

    assert np.concatenate([b.sequences for b in found]).tolist() == list(range(1, 101))
    assert all((b.lengths == 8).all() and (b.timestamps > 0).all() for b in found)
    assert np.concatenate([b.rows(kind) for b in found]).tolist() == rows.tolist()
    (first, *_) = found
    assert first.topics[0] == "md.a"
    assert first.payloads()[0] == rows[0].tobytes()
    assert first.frames[first.offsets[0] : first.offsets[0] + 8] == rows[0].tobytes()
    assert [m.payload for m in first] == [bytes(p) for p in first.payloads()]
    assert not first.rows(kind).flags.owndata
    assert "covers 1 to" in repr(first)
    with pytest.raises(TypeError):
        first.frames[0] = 0


def test_rows_of_mixed_topics_are_gathered(client: hermes.Client):
    """rows() works over frames of different sizes; payloads of another size are an error."""
    subscription = client.subscribe("md.>")
    publisher = client.publisher("md.a", linger=0.05)
    for i in range(4):
        publisher.send(i.to_bytes(4, "little"), "md.a" if i % 2 else "md.a.much.longer.topic")
    publisher.flush()
    (batch,) = (next(subscription.batches(timeout=60)),)

    assert batch.rows("<u4").tolist() == list(range(len(batch)))
    with pytest.raises(UsageError, match="4 bytes"):
        batch.rows("<u8")


def test_batches_go_on_where_single_messages_stopped(client: hermes.Client):
    """Messages and batches may be mixed: nothing is skipped and nothing comes twice."""
    subscription = client.subscribe("md.a", start="earliest")
    publisher = client.publisher("md.a")
    publisher.send_many([b"%d" % i for i in range(100)])
    publisher.flush()
    found = payloads(subscription, 3)
    while len(found) < 97:
        batch = next(subscription.batches(timeout=60))
        found += [bytes(p) for p in batch.payloads()]
    found += payloads(subscription, 100 - len(found))

    assert found == [b"%d" % i for i in range(100)]


def test_positions_follow_the_consumer(client: hermes.Client):
    """positions says what was returned, message by message, and starts another subscription there."""
    client.publisher("md.a").send_many([b"%d" % i for i in range(10)])
    first = client.subscribe("md.a", start="earliest")
    payloads(first, 4)

    second = client.subscribe("md.a", start=first.positions)

    assert first.positions == {"default": 4}
    assert payloads(second, 6) == payloads(first, 6)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("earliest", [b"a1", b"b1", b"a2"]),
        ("last", [b"b1", b"a2"]),
        (2, [b"b1", b"a2"]),
        (datetime(2000, 1, 1, tzinfo=UTC), [b"a1", b"b1", b"a2"]),
        ({"default": 2}, [b"a2"]),
        (hermes.Start(at="sequence", sequence=3), [b"a2"]),
    ],
)
def test_a_subscription_starts_where_it_is_told(
    client: hermes.Client, start: hermes.client.StartPoint, expected: list[bytes]
):
    """Every form of start gives exactly the messages behind it, then goes on live."""
    publisher = client.publisher("md.a")
    publisher.send(b"a1")
    publisher.send(b"b1", "md.b")
    publisher.send(b"a2")
    publisher.flush()

    subscription = client.subscribe("md.>", start=start)
    publisher.send(b"live")

    assert payloads(subscription, len(expected) + 1) == [*expected, b"live"]


def test_a_durable_subscription_goes_on_where_it_was_committed(
    client: hermes.Client, other: hermes.Client
):
    """After commit() and close, the same name continues behind the last message that was returned."""
    client.publisher("md.a").send_many([b"%d" % i for i in range(10)])
    with client.subscribe("md.a", start="earliest", durable="app") as subscription:
        payloads(subscription, 4)
        subscription.commit()
    client.ping()

    with other.subscribe("md.a", durable="app") as subscription:
        assert payloads(subscription, 6) == [b"%d" % i for i in range(4, 10)]


def test_a_committed_position_only_moves_forwards(client: hermes.Client, other: hermes.Client):
    """A commit behind what is stored is confirmed and changes nothing; what lies before
    it is read again without the name."""
    client.publisher("md.a").send_many([b"%d" % i for i in range(10)])
    with client.subscribe("md.a", start="earliest", durable="app") as subscription:
        payloads(subscription, 4)
        subscription.commit({"default": 8})

        subscription.commit({"default": 3})
        subscription.commit()
    client.ping()

    with other.subscribe("md.a", durable="app") as subscription:
        assert payloads(subscription, 2) == [b"8", b"9"]
    with other.subscribe("md.a", start={"default": 3}) as subscription:
        assert payloads(subscription, 1) == [b"3"]


def test_only_durable_subscriptions_commit(client: hermes.Client):
    """commit() without a durable name says what is missing."""
    with pytest.raises(UsageError, match="durable=NAME"):
        client.subscribe("md.a").commit()


def test_a_refused_commit_leaves_the_subscription_alive(client: hermes.Client):
    """A commit that the broker refuses raises, and messages still come."""
    subscription = client.subscribe("md.a", durable="app")

    with pytest.raises(Refused):
        subscription.commit({"default": 1_000_000})

    client.publisher("md.a").send(b"x")
    assert payloads(subscription, 1) == [b"x"]


def test_receive_gives_up_in_time(client: hermes.Client):
    """Without a message, receive() and iteration raise Timeout that names the pattern."""
    subscription = client.subscribe("md.a")

    with pytest.raises(Timeout, match=r"'md\.a'"):
        subscription.receive(0.05)
    with pytest.raises(Timeout):
        next(subscription.messages(timeout=0))
    with pytest.raises(Timeout):
        next(subscription.batches(timeout=0.01))


def test_iteration_ends_when_the_subscription_is_closed(client: hermes.Client):
    """Closing a subscription from another thread ends a loop over it."""
    subscription = client.subscribe("md.a")
    closing = threading.Timer(0.1, subscription.close)
    closing.start()

    assert list(subscription) == []

    closing.join()
    with pytest.raises(Closed):
        subscription.receive(1)


@pytest.mark.parametrize("topic", ["", ".", "md.", "md.*", ">", "x" * 256, "\udc80"])
def test_an_illegal_topic_is_refused_before_anything_is_sent(client: hermes.Client, topic: str):
    """Publishers and messages with an illegal topic raise InvalidTopic."""
    publisher = client.publisher("md.a")
    with pytest.raises(InvalidTopic):
        client.publisher(topic)
    with pytest.raises(InvalidTopic):
        publisher.send(b"x", topic)
    with pytest.raises(InvalidTopic):
        publisher.send_many([b"x"], topic=topic)

    assert publisher.sent == 0


def test_a_topic_has_to_come_from_somewhere(client: hermes.Client):
    """A publisher without a topic needs one with each message."""
    publisher = client.publisher()
    with pytest.raises(InvalidTopic, match="no topic"):
        publisher.send(b"x")
    with pytest.raises(InvalidTopic, match="no topic"):
        publisher.send_many([b"x"])

    assert publisher.send(b"x", "md.a") == 1


@pytest.mark.parametrize("pattern", ["", "md..a", "md.>.a", "x" * 256])
def test_an_illegal_pattern_is_refused(client: hermes.Client, pattern: str):
    """subscribe() checks the pattern itself."""
    with pytest.raises(InvalidTopic):
        client.subscribe(pattern)


def test_too_large_a_message_is_refused_before_anything_is_sent(
    serve: Callable[..., hermes.Broker],
):
    """A payload over the broker's limit raises, alone or among others, and nothing is sent."""
    broker = serve(limits={"message": 1000})
    with hermes.connect(broker.url) as client:
        publisher = client.publisher("md.a")
        with pytest.raises(MessageTooLarge, match="1001 bytes is over the 1000"):
            publisher.send(b"x" * 1001)
        with pytest.raises(MessageTooLarge, match="1001"):
            publisher.send_many([b"x", b"x" * 1001])
        with pytest.raises(MessageTooLarge, match="1001"):
            publisher.send_rows(np.zeros((2, 1001), dtype=np.uint8))

        with pytest.raises(MessageTooLarge, match="1001 bytes is over the 1000"):
            publisher.send_frames(frames(b"x", b"x" * 1001))

        assert publisher.sent == 0
        assert publisher.send(b"x" * 1000) == 1


def test_frames_are_passed_on_wholly_or_not_at_all(client: hermes.Client):
    """Frames of which one cannot be sent are refused together: those before it are not sent."""
    subscription = client.subscribe("md.a")
    publisher = client.publisher(window=1 << 16)
    small, large = frames(b"1", b"2"), frames(b"3", bytes(70_000))

    with pytest.raises(MessageTooLarge, match="70000 bytes does not fit this publisher's window"):
        publisher.send_frames(large)
    with pytest.raises(MalformedInput, match="frames of messages"):
        publisher.send_frames(small + encode_control(Ping(1)))
    with pytest.raises(MalformedInput, match="not whole"):
        publisher.send_frames(large[:-8])

    assert publisher.sent == 0
    assert publisher.send_frames(small * 2000) == 4000
    assert payloads(subscription, 4000) == [b"1", b"2"] * 2000


def test_the_largest_message_passes(client: hermes.Client):
    """A message of exactly the limit goes through, larger than any buffer, and small ones after it."""
    subscription = client.subscribe("md.a")
    publisher = client.publisher("md.a")
    large = os.urandom(client.limits["message_max"])

    publisher.send(large, timeout=20)
    publisher.send(b"small")

    assert subscription.receive(60).payload == large
    assert payloads(subscription, 1) == [b"small"]


def test_wrong_arguments_are_usage_errors(client: hermes.Client):
    """An argument that cannot work is refused with the reason."""
    publisher = client.publisher("md.a")
    with pytest.raises(UsageError, match="needs the lengths"):
        publisher.send_many(b"abc")
    with pytest.raises(UsageError, match="add up to 2, the buffer has 3"):
        publisher.send_many(b"abc", [1, 1])
    with pytest.raises(UsageError, match="0 to 4294967295"):
        publisher.send_many(b"abc", [-1, 4])
    with pytest.raises(UsageError, match="dimensions"):
        publisher.send_rows(np.zeros((2, 2, 2), dtype=np.uint8))
    with pytest.raises(UsageError, match="seconds"):
        client.publisher("md.a", linger="1ms")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="16 bytes"):
        client.publisher("md.a", publisher_id=b"short")
    with pytest.raises(UsageError, match="on_gap"):
        client.subscribe("md.a", on_gap="explode")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        publisher.send("text")  # type: ignore[arg-type]


def test_durable_acknowledgements_need_a_storage_that_can(client: hermes.Client):
    """With the memory storage, ack='durable' is refused, with what to do."""
    with pytest.raises(Refused, match="mmap"):
        client.publisher("md.a", ack="durable")


def test_close_sends_what_a_publisher_without_acknowledgements_has(broker: hermes.Broker):
    """Messages of level none are all there after close(), also those that linger."""
    with hermes.connect(broker.url) as client:
        publisher = client.publisher("md.a", ack="none", linger=10.0)
        for _ in range(1000):
            publisher.send(b"x")

    with hermes.connect(broker.url) as client:
        assert client.streams()[0]["messages"] == 1000


def test_a_fire_and_forget_publisher_frees_its_history(client: hermes.Client):
    """Acknowledgements are taken while publishing: far more than the window passes without a flush."""
    publisher = client.publisher("md.a", window=1 << 16, linger=0.001)

    for _ in range(20_000):
        publisher.send(b"x" * 100, timeout=60)

    publisher.flush()
    assert publisher.acked == 20_000


def test_acknowledgements_are_taken_while_publishing(client: hermes.Client):
    """With a window that never fills, sending alone frees what is acknowledged."""
    publisher = client.publisher("md.a")
    outbox = publisher._outbox
    for _ in range(100_000):  # a quarter of the window
        publisher.send(b"x" * 100)
        if outbox.status().acked:
            return
    pytest.fail("nothing was freed")


def test_closed_things_say_so(broker: hermes.Broker):
    """Everything raises Closed after close(), and close() may be called again."""
    client = hermes.connect(broker.url)
    publisher, subscription = client.publisher("md.a"), client.subscribe("md.a")
    lone = client.publisher("md.a")
    lone.close()
    with pytest.raises(Closed):
        lone.send(b"x")
    client.close()
    client.close()
    publisher.close()
    subscription.close()

    for use in (
        lambda: publisher.send(b"x"),
        lambda: publisher.send_many([b"x"]),
        publisher.flush,
        lambda: subscription.receive(1),
        lambda: client.publisher("md.a"),
        client.stats,
    ):
        with pytest.raises(Closed):
            use()


def test_a_forked_child_gets_a_clear_error(client: hermes.Client):
    """In a child every use raises Forked; the parent goes on undisturbed."""
    publisher, subscription = client.publisher("md.a"), client.subscribe("md.a")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            uses = (
                lambda: publisher.send(b"x"),
                lambda: subscription.receive(1),
                lambda: client.subscribe("md.a"),
                lambda: publisher.flush(),
            )
            for use in uses:
                with pytest.raises(Forked):
                    use()
            client.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    publisher.send(b"parent")
    assert payloads(subscription, 1) == [b"parent"]


def test_queries_are_answered(client: hermes.Client):
    """streams(), topics() and stats() give what the broker says; nonsense is refused."""
    publisher = client.publisher("md.a")
    publisher.send_many([b"x"] * 3)
    publisher.send(b"y", "news.b")
    publisher.flush()

    assert client.streams()[0]["messages"] == 4
    assert {t["topic"]: t["messages"] for t in client.topics("md.>")} == {"md.a": 3}
    assert len(client.topics()) == 2
    assert client.stats()["connections"]["open"] == 1
    with pytest.raises(Refused, match="unknown_query"):
        client.query("weather")


def test_a_publisher_id_goes_on_where_it_was(client: hermes.Client, other: hermes.Client):
    """A publisher opened under a known id counts on behind its last message."""
    name = bytes(range(16))
    with client.publisher("md.a", publisher_id=name) as publisher:
        publisher.send_many([b"x"] * 5)
    client.ping()

    with other.publisher("md.a", publisher_id=name) as publisher:
        assert publisher.send(b"y") == 6
        assert publisher.publisher_id == name


def test_threads_share_a_client(client: hermes.Client, other: hermes.Client):
    """Threads that publish on one publisher and consume one subscription: each message once, in order."""
    count, senders = 2000, 3
    deadline = time.monotonic() + 60
    subscription = other.subscribe("md.a")
    publisher = client.publisher("md.a", linger=0.001)
    found: list[bytes] = []
    problems: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def send(name: int) -> None:
        for i in range(count):
            if i % 100 == 50:
                publisher.send_many([b"%d %d" % (name, i)])
            else:
                publisher.send(b"%d %d" % (name, i))

    def receive() -> None:
        while len(found) < count * senders and time.monotonic() < deadline:
            with contextlib.suppress(Timeout):  # the other may have had the last
                found.append(subscription.receive(0.3).payload)

    receivers = [guarded(receive) for _ in range(2)]
    sending = [guarded(lambda name=name: send(name)) for name in range(senders)]  # type: ignore[misc]
    for thread in (*sending, *receivers):
        thread.join(60)

    assert problems == []
    assert len(set(found)) == len(found) == count * senders
    client.query("streams")


def test_several_threads_wait_on_one_client(client: hermes.Client, other: hermes.Client):
    """Two subscriptions of one client, each waited for by a thread: one reads for both."""
    first, second = client.subscribe("md.a"), client.subscribe("md.b")
    found: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda s=s: found.update({s.pattern: s.receive(60).payload}))  # type: ignore[misc]
        for s in (first, second)
    ]
    for thread in threads:
        thread.start()

    publisher = other.publisher()
    publisher.send(b"for b", "md.b")
    threads[1].join(60)
    assert found == {"md.b": b"for b"}
    client.publisher("md.a").send(b"for a")  # while the other thread still waits
    threads[0].join(60)

    assert found == {"md.a": b"for a", "md.b": b"for b"}


def test_a_sibling_that_is_not_consumed_delays_nothing(broker: hermes.Broker):
    """A subscription that is not consumed keeps neither the others of its client nor the publishers
    waiting; what waits for it is bounded, and none of it is lost."""
    with (
        hermes.connect(broker.url, queue_bytes=100_000) as client,
        hermes.connect(broker.url) as other,
    ):
        full, wanted = client.subscribe("md.full"), client.subscribe("md.wanted")
        own, publisher = client.publisher("md.own"), other.publisher()
        for number in range(30):
            publisher.send_many([b"%d" % number * 500] * 100, topic="md.full")
            publisher.send(b"%d" % number, "md.wanted")

            assert wanted.receive(60).payload == b"%d" % number
            own.send(b"x")
            own.flush()
            assert full._feed.queued_bytes < 100_000 + (1 << 20)

        found = payloads(full, 3000)
        assert found == [b"%d" % number * 500 for number in range(30) for _ in range(100)]


@pytest.mark.parametrize("count", [1, 40_000])
def test_an_answer_comes_through_a_full_queue(serve: Callable[..., hermes.Broker], count: int):
    """An answer of the broker is read behind any backlog, be it one message larger than the
    queue or many; the queue stays bounded, and nothing is missing or doubled."""
    broker = serve()
    size = 40_000_000 // count if count > 1 else 16 << 20
    with (
        hermes.connect(broker.url, queue_bytes=100_000) as client,
        hermes.connect(broker.url) as other,
    ):
        publisher = other.publisher("md.a")
        for _ in range(max(1, count // 1000)):
            publisher.send_many([b"x" * size] * min(count, 1000))
        publisher.flush()
        subscription = client.subscribe("md.a", start="earliest", durable="slow")

        seen = []
        for _ in range(min(count, 500)):
            seen.append(subscription.receive(60).sequence)
            subscription.commit(timeout=60)
        assert client.ping(timeout=60) > 0
        seen += [subscription.receive(60).sequence for _ in range(count - len(seen))]

        assert seen == list(range(1, count + 1))


def test_spinning_receives_too(broker: hermes.Broker):
    """A client that spins before it sleeps gets the same messages."""
    with hermes.connect(broker.url, spin=50e-6) as client:
        subscription, publisher = client.subscribe("md.a"), client.publisher("md.a")
        for i in range(50):
            publisher.send(b"%d" % i)
            assert subscription.receive(60).payload == b"%d" % i


def test_inproc_works_alike(serve: Callable[..., hermes.Broker]):
    """The same client speaks to an embedded broker without TCP."""
    broker = serve(listeners=["inproc:"])
    with hermes.connect(broker.url) as client:
        subscription = client.subscribe("md.a")
        client.publisher("md.a").send(b"x")

        assert payloads(subscription, 1) == [b"x"]


def test_the_url_may_come_from_the_environment(
    broker: hermes.Broker, monkeypatch: pytest.MonkeyPatch
):
    """Without an argument, connect() takes HERMES_URL."""
    monkeypatch.setenv("HERMES_URL", broker.url)
    with hermes.connect(name="test") as client:
        assert client.connected
        assert repr(client) == f"<Client of {broker.url}, connected>"


@pytest.mark.parametrize("call", ["send_many", "send_rows", "send_frames"])
def test_what_is_sent_cannot_be_resized_meanwhile(
    broker: hermes.Broker, monkeypatch: pytest.MonkeyPatch, call: str
):
    """Between the pieces of a large call the program's other threads run: a bytearray keeps its size
    until it is sent."""
    with (
        hermes.connect(broker.url) as client,
        client.subscribe("resized") as subscription,
        client.publisher("resized") as publisher,
    ):
        publisher.send(b"one frame")
        frames = bytearray(next(subscription.batches(timeout=5)).frames)
        put, refused = getattr(Outbox, call), []

        def put_and_resize(outbox: Outbox, *args: Any, **options: Any) -> Any:
            with pytest.raises(BufferError):
                frames.clear()
            refused.append(True)
            return put(outbox, *args, **options)

        monkeypatch.setattr(Outbox, call, put_and_resize)
        if call == "send_many":
            publisher.send_many(frames, [len(frames)])
        else:
            getattr(publisher, call)(frames)

        assert refused
        received = subscription.receive(timeout=5)
        assert bytes(received.payload) == {
            "send_many": bytes(frames), "send_rows": bytes(frames[:1]), "send_frames": b"one frame"
        }[call]  # fmt: skip
