"""The broker as its clients see it: publish, subscribe, positions, acknowledgements, refusals,
stop."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hermes
from hermes.broker import Broker
from hermes.broker import kernel as kernel_module
from hermes.broker.config import STREAMS_MAX
from hermes.broker.positions import STATE
from hermes.broker.queries import PAGE
from hermes.broker.signals import Signals
from hermes.errors import (
    AddressInUse,
    Closed,
    ConnectionLost,
    DirectoryLocked,
    InvalidConfig,
    PluginNotFound,
    Refused,
)
from hermes.plugins.discovery import default_plugins
from hermes.spi.transport import Peer
from hermes.spi.url import parse_url
from hermes.wire import messages as m
from hermes.wire.messages import NAME_MAX
from tests.broker.rawclient import RawClient

Serve = Callable[..., Broker]
Connect = Callable[..., Any]

LISTENERS = ["inproc:", "tcp://127.0.0.1:0", "tcp://[::1]:0"]


@pytest.mark.parametrize("listener", LISTENERS)
def test_published_messages_arrive_in_order(serve: Serve, connect: Connect, listener: str) -> None:
    """A published message arrives once, in order, with the stream's sequence, and is
    acknowledged."""
    broker = serve(listeners=[listener])
    subscriber, publisher = connect(broker), connect(broker)
    subscriber.subscribe(">")
    publisher.open()

    last = publisher.publish("md.a", *[b"%d" % i for i in range(1000)])

    publisher.acked(last)
    messages = subscriber.received(1000)
    assert [message.payload for message in messages] == [b"%d" % i for i in range(1000)]
    assert [message.sequence for message in messages] == list(range(1, 1001))
    assert {(message.topic, message.stream) for message in messages} == {("md.a", "default")}


def test_client_gets_its_own_messages_back(serve: Serve, connect: Connect) -> None:
    """One connection may publish and subscribe; acknowledgement and message come."""
    client = connect(serve())
    client.subscribe("a.*")
    client.open()

    client.acked(client.publish("a.b", b"x"))

    assert client.payloads(1) == [b"x"]


def test_pattern_selects(serve: Serve, connect: Connect) -> None:
    """A subscriber gets the topics of its pattern only, and coverage has no hole."""
    broker = serve()
    subscriber, publisher = connect(broker), connect(broker)
    subscriber.subscribe("md.*.bid")
    publisher.open()

    for i in range(300):
        publisher.publish(f"md.{i % 3}.{'bid' if i % 2 else 'ask'}", b"%d" % i)

    assert subscriber.payloads(150) == [b"%d" % i for i in range(1, 300, 2)]
    covered = [(after, through) for _, _, after, through in subscriber.batches]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(covered))


def test_prefix_selects_by_bytes(serve: Serve, connect: Connect) -> None:
    """A prefix filter takes topics by their first bytes."""
    client = connect(serve())
    client.subscribe("ab", kind="prefix")
    client.open()

    for topic in ("abc", "a.b", "ab.c", "b"):
        client.publish(topic, topic.encode())

    assert client.payloads(2) == [b"abc", b"ab.c"]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("earliest", [b"0", b"1", b"2", b"3", b"4"]),
        ("last", [b"3", b"4"]),
        (m.Start(at="sequence", sequence=4), [b"3", b"4"]),
        (m.Start(at="positions", positions={"default": 2}), [b"2", b"3", b"4"]),
        (m.Start(at="time", time_ns=0), [b"0", b"1", b"2", b"3", b"4"]),
    ],
)
def test_starts(serve: Serve, connect: Connect, start: Any, expected: list[bytes]) -> None:
    """Each form of start begins where it says, and goes on live."""
    client = connect(serve())
    client.open()
    for i in range(5):
        client.publish(f"t.{i % 2}", b"%d" % i)
    client.acked(5)

    client.subscribe("t.*", start=start)
    client.publish("t.0", b"live")

    assert client.payloads(len(expected) + 1) == [*expected, b"live"]


def test_latest_sees_only_what_comes(serve: Serve, connect: Connect) -> None:
    """A subscription at latest says where it stands, and gets nothing older."""
    client = connect(serve())
    client.open()
    client.acked(client.publish("a", b"old"))

    client.subscribe(">", start="latest")
    assert client.batches == [(1, "default", 1, 1)]
    client.publish("a", b"new")

    assert client.payloads(1) == [b"new"]


def test_many_subscriptions_of_one_connection(serve: Serve, connect: Connect) -> None:
    """Subscriptions of one connection are independent: each gets its own messages once."""
    client = connect(serve())
    client.open()
    for number in range(1, 21):
        client.subscribe(f"t.{number % 5}" if number > 1 else ">", number)

    for i in range(100):
        client.publish(f"t.{i % 5}", b"%d" % i)

    client.received(100 + 19 * 20)
    for number in range(2, 21):
        mine = [x.payload for x in client.messages if x.subscription == number]
        assert mine == [b"%d" % i for i in range(100) if i % 5 == number % 5]


def test_unsubscribed_is_silent(serve: Serve, connect: Connect) -> None:
    """After the answer to Unsubscribe nothing more comes; the id can be used again."""
    client = connect(serve())
    client.open()
    client.subscribe(">")
    client.send(client.protocol.unsubscribe(1))
    client.expect(m.Unsubscribe)
    client.acked(client.publish("a", b"unseen"))
    client.settle()

    client.subscribe(">", 1)
    client.publish("a", b"seen")

    assert client.payloads(1) == [b"seen"]


def test_resent_messages_are_appended_once(serve: Serve, connect: Connect) -> None:
    """Messages that a publisher sends again on a new connection are there once, and the broker says what it
    has."""
    broker = serve()
    identity = b"p" * 16
    first = connect(broker)
    first.open(id=identity)
    first.acked(first.publish("a", b"1", b"2", b"3"))
    first.close()

    second = connect(broker)
    assert second.open(id=identity) == 3
    second.publish("a", b"2", b"3", b"4", first=2)
    second.acked(4)
    second.subscribe(">", start="earliest")

    assert second.payloads(4) == [b"1", b"2", b"3", b"4"]
    second.settle()
    assert len(second.messages) == 4


def test_publisher_without_acks_gets_none(serve: Serve, connect: Connect) -> None:
    """A publisher that asked for no acknowledgement gets none."""
    client = connect(serve())
    client.open(ack="none")
    client.subscribe(">", start="earliest")
    client.publish("a", b"x")
    client.payloads(1)
    client.settle()

    assert [e for e in client.events if isinstance(e, m.Ack) and e.level != "opened"] == []


def test_durable_is_refused_by_a_storage_that_cannot(serve: Serve, connect: Connect) -> None:
    """Memory keeps nothing: an Open that asks for durable ends with a clear error."""
    client = connect(serve())
    assert not client.protocol.welcome.durable

    client.send(client.protocol.open_publisher(1, bytes(16), "durable"))

    error = client.expect(m.Error)
    assert (error.code, error.fatal) == ("durable_unavailable", True)


def test_durable_acknowledgement_follows_a_sync(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    """Durable acknowledgements come for several publishers, after a sync, in few of them."""
    broker = serve(storage=f"mmap:{tmp_path}")
    client = connect(broker)
    for publisher in range(1, 6):
        client.open(publisher, ack="durable")
    for i in range(50):
        for publisher in range(1, 6):
            client.publish("a", b"%d" % i, publisher=publisher)
    for publisher in range(1, 6):
        client.acked(50, publisher=publisher, level="durable")

    counters = broker.stats()["streams"]["default"]
    assert counters["synced_sequence"] == 250
    assert 1 <= counters["syncs"] <= 250


@pytest.mark.parametrize("sync", ["always", "interval:20"])
def test_storage_syncs_unasked(serve: Serve, connect: Connect, tmp_path: Path, sync: str) -> None:
    """With sync=always or an interval everything reaches the disk although nobody waits for it."""
    broker = serve(storage=f"mmap:{tmp_path}?sync={sync}")
    client = connect(broker)
    client.open()
    client.acked(client.publish("a", b"1", b"2", b"3"))

    client.until(lambda: client.query("stats")[0]["streams"]["default"]["synced_sequence"] == 3)


def test_questions_to_a_stopping_broker_are_answered_or_refused() -> None:
    """Asking from another thread while the broker stops never waits for ever."""
    for _ in range(20):
        broker = Broker(listeners=["inproc:"], storage="memory:").start()
        closer = threading.Thread(target=broker.close)
        closer.start()
        with contextlib.suppress(Closed):
            for _ in range(50):
                broker.stats()
        closer.join(60)
        assert not closer.is_alive()


def test_several_levels_on_one_connection(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """Publishers of one connection have a level each."""
    client = connect(serve(storage=f"mmap:{tmp_path}"))
    client.open(1, ack="appended")
    client.open(2, ack="durable")

    client.publish("a", b"x", publisher=1)
    client.publish("a", b"y", publisher=2)

    client.acked(1, publisher=1, level="appended")
    client.acked(1, publisher=2, level="durable")


def test_streams_by_configuration(serve: Serve, connect: Connect) -> None:
    """A family of topics has its own stream, with its own sequences; patterns may span streams."""
    broker = serve(streams=[{"name": "md", "patterns": ["md.>"]}])
    client = connect(broker)
    client.open()
    client.subscribe(">", 1)
    client.subscribe("md.>", 2)
    client.publish("md.a", b"1")
    client.publish("other", b"2")
    client.publish("md.b", b"3")

    client.received(5)
    both = {(x.stream, x.sequence, x.payload) for x in client.messages if x.subscription == 1}
    assert both == {("md", 1, b"1"), ("default", 1, b"2"), ("md", 2, b"3")}
    assert [x.payload for x in client.messages if x.subscription == 2] == [b"1", b"3"]
    assert {name for number, name, _, _ in client.batches if number == 2} == {"md"}


@pytest.mark.parametrize(
    ("filter", "start", "code"),
    [
        ("a..b", m.Start(), "invalid_filter"),
        (">", m.Start(at="sequence", sequence=1), "invalid_start"),
        ("md.>", m.Start(at="sequence", sequence=9), "position_ahead"),
        (">", m.Start(at="positions", positions={"default": 9}), "position_ahead"),
        (">", m.Start(at="positions", positions={"nowhere": 1}), "invalid_start"),
        (">", m.Start(at="durable"), "invalid_start"),
    ],
)
def test_refused_subscriptions(
    serve: Serve, connect: Connect, filter: str, start: m.Start, code: str
) -> None:
    """A start or filter that cannot be is refused by name, and the connection lives."""
    client = connect(serve(streams=[{"name": "md", "patterns": ["md.>"]}]))

    client.subscribe(filter, start=start)

    error = client.expect(m.Error)
    assert (error.code, error.fatal, error.subscription) == (code, False, 1)
    client.subscribe(">", 1)


def test_unknown_topic_is_refused_where_creation_is_off(serve: Serve, connect: Connect) -> None:
    """With creation off only declared topics are taken; the refusal names publisher and
    sequence."""
    client = connect(
        serve(streams=[{"name": "default", "create_topics": False, "declare": ["known"]}])
    )
    identity = b"i" * 16
    client.open(id=identity)
    client.acked(client.publish("known", b"1"))

    client.publish("unknown", b"2")
    client.publish("known", b"3")

    error = client.expect(m.Error)
    assert (error.code, error.fatal) == ("topic_refused", False)
    assert (error.publisher, error.sequence) == (1, 2)
    client.events.clear()
    assert client.open(id=identity) == 1
    client.acked(client.publish("known", b"2 again", first=2))


def test_too_many_topics_are_refused(serve: Serve, connect: Connect) -> None:
    """A stream takes as many topics as it may, no more."""
    client = connect(serve(limits={"topics": 10}))
    client.open()
    for i in range(11):
        client.publish(f"t.{i}", b"x")

    error = client.expect(m.Error)
    assert (error.code, error.publisher, error.sequence) == ("too_many_topics", 1, 11)


def test_the_newer_subscription_takes_a_durable_name_over(serve: Serve, connect: Connect) -> None:
    """A client that is back before its old connection was found dead goes on where it committed;
    the older is told, gets nothing more, and can commit no more."""
    broker = serve()
    first, second = connect(broker), connect(broker)
    first.subscribe(">", durable="job")
    second.open()
    second.acked(second.publish("a", b"1", b"2"))
    first.received(2)
    first.send(first.protocol.commit(1, {"default": 1}))
    first.expect(m.Commit)

    second.subscribe(">", durable="job", start="durable")
    told = first.expect(m.Error)
    first.send(first.protocol.commit(1, {"default": 2}))

    assert (told.code, told.subscription, told.fatal) == ("durable_in_use", 1, False)
    assert second.payloads(1) == [b"2"]
    assert first.expect(m.Error, lambda e: e.code == "unknown_subscription").subscription == 1
    assert len(first.messages) == 2


def test_one_client_has_a_durable_name_once(serve: Serve, connect: Connect) -> None:
    """A second subscription of the same client under the name is refused, the first lives; when it
    has ended, the name is free."""
    client = connect(serve())
    client.subscribe(">", 1, durable="job")

    client.subscribe(">", 2, durable="job")
    refused = client.expect(m.Error)
    client.send(client.protocol.unsubscribe(1))
    client.subscribe(">", 3, durable="job")

    assert (refused.code, refused.subscription) == ("durable_in_use", 2)
    assert len([event for event in client.events if isinstance(event, m.Error)]) == 1


def test_a_subscription_that_fails_takes_no_name(serve: Serve, connect: Connect) -> None:
    """A subscription that fails does not end the one that has the name."""
    broker = serve()
    first, second = connect(broker), connect(broker)
    first.subscribe("a", durable="job")

    second.subscribe("a", durable="job", start=m.Start(at="sequence", sequence=99))
    assert second.expect(m.Error).code == "position_ahead"
    second.open()
    second.publish("a", b"x")

    assert first.payloads(1) == [b"x"]


def test_durable_names_are_listed_and_forgotten(serve: Serve, connect: Connect) -> None:
    """A durable name that nobody uses can be forgotten, and is new then; one in use is refused, and
    one that is not kept is told apart."""
    broker = serve()
    client, other = connect(broker), connect(broker)
    client.open()
    client.acked(client.publish("a", b"x", b"y"))
    client.subscribe(">", durable="job", start="earliest")
    client.send(client.protocol.commit(1, {"default": 2}))
    client.expect(m.Commit)

    used = [name for page in other.query("durables") for name in page]
    refused = other.query("forget", durable="job")
    client.send(client.protocol.unsubscribe(1))
    client.expect(m.Unsubscribe)
    answers = [other.query("forget", durable="job"), other.query("forget", durable="job")]
    left = [name for page in other.query("durables") for name in page]
    start = m.Start(at="durable", otherwise="earliest")
    other.subscribe(">", durable="job", start=start)

    assert used == [{"name": "job", "identity": None, "positions": {"default": 2}, "in_use": True}]
    assert (refused.code, refused.fatal) == ("durable_in_use", False)
    assert answers == [[True], [False]]
    assert left == []
    assert other.payloads(2) == [b"x", b"y"]


def test_the_longest_durable_names_are_listed(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    """Names as long as they may be, with positions in as many streams as there may be, come in pages
    that each fit a frame; short ones in pages of a bounded number."""
    url = f"mmap:{tmp_path}"
    positions = {f"{number:02}".ljust(64, "s"): 2**63 - 1 for number in range(STREAMS_MAX)}
    names = {f"{number:03}".ljust(NAME_MAX, "\N{SNOWMAN}"): positions for number in range(PAGE)}
    short: dict[str, dict[str, int]] = {f"short {number:03}": {} for number in range(PAGE + 10)}
    storage = default_plugins().storage("mmap").open(parse_url(url))
    storage.save_state(STATE, msgspec.msgpack.encode(names | short))
    storage.close()
    client = connect(serve(storage=url))

    pages = client.query("durables")

    listed = [row for page in pages for row in page]
    assert {row["name"]: row["positions"] for row in listed} == names | short
    assert len(listed) == len(names | short)
    assert max(map(len, pages)) <= PAGE


def test_durable_names_are_bounded(serve: Serve, connect: Connect) -> None:
    """With as many durable names as there may be, in use or kept, a further one is refused; one
    that is kept is not, and one that was never committed makes room when it ends."""
    client = connect(serve(limits={"durables": 2}))

    client.subscribe(">", 1, durable="kept")
    client.send(client.protocol.commit(1, {"default": 0}))
    client.expect(m.Commit)
    client.send(client.protocol.unsubscribe(1))
    client.subscribe(">", 2, durable="unused")
    client.subscribe(">", 3, durable="refused")
    refused = client.expect(m.Error)
    client.subscribe(">", 4, durable="kept")
    client.send(client.protocol.unsubscribe(2))
    client.subscribe(">", 5, durable="next")
    client.send(client.protocol.commit(5, {"default": 0}))
    client.expect(m.Commit, lambda commit: commit.subscription == 5)

    assert (refused.code, refused.subscription) == ("too_many_durables", 3)
    assert "2" in refused.message
    assert len([event for event in client.events if isinstance(event, m.Error)]) == 1


@pytest.mark.parametrize("positions", [{"default": 5}, {"nowhere": 1}])
def test_impossible_commit_is_refused(
    serve: Serve, connect: Connect, positions: dict[str, int]
) -> None:
    """Positions ahead of the stream, or in no stream, are refused."""
    client = connect(serve())
    client.subscribe(">", durable="job")

    client.send(client.protocol.commit(1, positions))

    error = client.expect(m.Error)
    assert (error.code, error.fatal, error.subscription) == ("commit_refused", False, 1)


def test_progress_is_told_without_messages(serve: Serve, connect: Connect) -> None:
    """A subscriber that wants nothing of what flows is told what it has covered."""
    client = connect(serve())
    client.open()
    client.subscribe("quiet")
    client.acked(client.publish("loud", *[b"x"] * 100))

    client.until(lambda: client.batches[-1][3] == 100)

    assert client.messages == []


def test_large_and_tiny_messages(serve: Serve, connect: Connect) -> None:
    """Empty messages, and one as large as the limit that was stated, come back whole."""
    client = connect(serve(limits={"message": "8MiB"}))
    largest = bytes(range(256)) * (client.protocol.welcome.limits.message_max // 256)
    client.open()
    client.subscribe(">")

    client.publish("a", b"", largest, b"")

    assert client.payloads(3) == [b"", largest, b""]


def test_bytes_that_trickle_in(serve: Serve, connect: Connect) -> None:
    """A batch that arrives byte by byte is taken like any other."""
    client = connect(serve())
    client.open()
    client.subscribe(">")
    for byte in client.batch("a", [b"hello", b"world"]):
        client.send(bytes([byte]))

    assert client.payloads(2) == [b"hello", b"world"]


def test_queries(serve: Serve, connect: Connect) -> None:
    """A broker tells its streams, topics, counters and configuration; an unknown question is
    refused."""
    client = connect(serve(streams=[{"name": "md", "patterns": ["md.>"]}]))
    client.open()
    client.publish("md.a", b"1")
    client.publish("md.a", b"2")
    client.publish("x", b"3")
    client.acked(3)

    (streams,) = client.query("streams")
    topics = [topic for page in client.query("topics", pattern="md.>") for topic in page]
    stats = client.query("stats")[0]
    (config,) = client.query("config")

    assert [(s["name"], s["last_sequence"]) for s in streams] == [("default", 1), ("md", 2)]
    assert [(t["stream"], t["topic"], t["messages"]) for t in topics] == [("md", "md.a", 2)]
    assert stats["streams"]["md"]["messages"] == 2
    assert stats["connections"]["open"] == 1
    assert stats["clients"][0]["messages_in"] == 3
    assert config["streams"][0]["name"] == "md"
    assert client.query("nonsense").code == "unknown_query"


def test_a_query_for_topics_is_answered_in_small_steps(serve: Serve, connect: Connect) -> None:
    """However little a query finds, the broker looks at a page of topics at a time and serves others
    in between."""
    client = connect(serve())
    client.open()
    count = 4 * PAGE
    for number in range(count):
        client.publish(f"t.{number}", b"")
    client.acked(count)

    nothing = client.query("topics", pattern="nothing.>")
    everything = client.query("topics")

    assert len(nothing) >= 4
    assert not any(nothing)
    assert sorted(len(page) for page in everything) == [0, PAGE, PAGE, PAGE, PAGE]


def test_a_started_broker_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """An error that ends a broker's own thread is logged at once, can be asked for, and is raised by close()
    once."""
    broker = Broker(listeners=["inproc:"], storage="memory:").start()
    assert broker.failure is None
    assert broker._loop is not None
    assert broker._thread is not None
    problem = RuntimeError("a bug")

    def fail() -> None:
        raise problem

    broker._loop.call(fail)
    broker._thread.join(60)

    assert broker.failure is problem
    assert "serves no more" in caplog.text
    assert "RuntimeError: a bug" in caplog.text
    with pytest.raises(RuntimeError):
        broker.close()
    broker.close()


def test_goodbye_hands_over_what_is_owed(serve: Serve, connect: Connect) -> None:
    """A client that says Close right behind its messages still gets their acknowledgement."""
    client = connect(serve())
    client.open()
    client.publish("a", b"x")
    client.send(client.protocol.close())

    client.expect(m.Close)
    client.until_end()

    assert any(isinstance(e, m.Ack) and e.sequence == 1 for e in client.events)


def test_goodbye_waits_for_the_disk(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """A durable acknowledgement comes before the answer to Close."""
    client = connect(serve(storage=f"mmap:{tmp_path}"))
    client.open(ack="durable")
    client.publish("a", b"x")
    client.send(client.protocol.close())

    client.expect(m.Close)

    assert any(isinstance(e, m.Ack) and e.level == "durable" for e in client.events)


def test_closed_publisher_is_forgotten(serve: Serve, connect: Connect) -> None:
    """Messages that a publisher sent before its own Close are in the log; its number is free again."""
    client = connect(serve())
    client.open()
    client.publish("a", b"x")
    client.send(client.protocol.close_publisher(1))
    client.open(1)

    client.subscribe(">", start="earliest")

    assert client.payloads(1) == [b"x"]


def test_stop_hands_over_and_says_goodbye(serve: Serve, connect: Connect) -> None:
    """A stopping broker delivers what it has, says Close, and its address is free again."""
    broker = serve(listeners=["tcp://127.0.0.1:0"])
    url = broker.url
    client = connect(broker)
    client.open()
    client.subscribe(">", start="earliest")
    client.publish("a", *[b"x" * 1000] * 2000)
    client.acked(2000)

    closer = threading.Thread(target=broker.close)
    closer.start()
    client.received(2000)
    client.expect(m.Close)
    client.send(client.protocol.close())
    closer.join(60)

    assert not closer.is_alive()
    with Broker(listeners=[url], storage="memory:") as again:
        assert again.url == url


def owed(broker: Broker, connect: Connect) -> tuple[RawClient, int]:
    """A client that has read nothing of more than a medium holds; and how many messages that is."""
    client = connect(broker)
    client.open()
    for first in range(1, 32_001, 2000):
        client.publish("a", *[b"x" * 1000] * 2000, first=first)
    client.acked(32_000)
    client.subscribe(">", start="earliest")
    return client, 32_000


def test_stop_then_close_stops_in_order(serve: Serve, connect: Connect) -> None:
    """A thread that asks a broker to stop, and asks again, and then closes it, waits for it: clients get
    what they are owed."""
    broker = serve(listeners=["tcp://127.0.0.1:0"])
    client, count = owed(broker, connect)

    broker.stop()
    broker.stop()
    closer = threading.Thread(target=broker.close)
    closer.start()
    client.received(count)
    client.expect(m.Close)
    client.send(client.protocol.close())
    closer.join(60)

    assert not closer.is_alive()


def test_abort_cuts_a_stop_short(serve: Serve, connect: Connect) -> None:
    """An aborted broker does not wait for clients that are owed something, though it was asked to
    stop before."""
    broker = serve(listeners=["tcp://127.0.0.1:0"], limits={"stop": "1h"})
    client, count = owed(broker, connect)

    broker.stop()
    broker.abort()
    broker.close()
    client.until_end()

    assert len(client.messages) < count


def test_a_signal_cuts_a_stop_short(serve: Serve, connect: Connect) -> None:
    """The first signal ends a broker at once that was asked to stop before."""
    broker = serve(listeners=["tcp://127.0.0.1:0"], limits={"stop": "1h"})
    client, count = owed(broker, connect)
    closer = threading.Thread(target=broker.close)

    with Signals(broker, opened=True).handled():
        broker.stop()
        signal.raise_signal(signal.SIGINT)
    closer.start()
    closer.join(60)
    ended = not closer.is_alive()
    broker.abort()
    closer.join()
    client.until_end()

    assert ended
    assert len(client.messages) < count


def test_stop_does_not_wait_for_the_silent(serve: Serve, connect: Connect) -> None:
    """A client that neither reads nor closes holds a stopping broker up until the deadline, no
    longer."""
    broker = serve(limits={"stop": "200ms"})
    client = connect(broker)
    client.open()
    client.subscribe(">", start="earliest")
    client.publish("a", *[bytes(1000)] * 1000)

    broker.close()

    client.until_end()


def test_two_brokers_in_one_process(serve: Serve, connect: Connect) -> None:
    """Brokers share nothing."""
    one, other = serve(), serve()
    first, second = connect(one), connect(other)
    first.open()
    first.acked(first.publish("a", b"x"))
    second.subscribe(">", start="earliest")
    second.settle()

    assert second.messages == []


def test_several_listeners_reach_the_same_streams(serve: Serve, connect: Connect) -> None:
    """Messages that come in by one listener go out by the others."""
    broker = serve(listeners=["inproc:", "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"])
    clients = [connect(url) for url in broker.urls]
    for client in clients:
        client.subscribe(">")
        client.open()

    for i, client in enumerate(clients):
        client.publish("a", b"%d" % i)

    for client in clients:
        assert set(client.payloads(3)) == {b"0", b"1", b"2"}


@pytest.mark.parametrize("idle", ["block", "adaptive", "spin"])
def test_every_idle_strategy_delivers(serve: Serve, connect: Connect, idle: str) -> None:
    """Round trips succeed whatever the loop does when it is idle."""
    client = connect(serve(idle=idle))
    client.open()
    client.subscribe(">")
    for i in range(50):
        client.publish("a", b"%d" % i)
        client.received(i + 1)

    assert client.payloads(50) == [b"%d" % i for i in range(50)]


def test_connection_limit_is_for_all_listeners(serve: Serve, connect: Connect) -> None:
    """The broker serves as many connections as it may; a place that is given up is free."""
    broker = serve(listeners=["inproc:", "tcp://127.0.0.1:0"], limits={"connections": 2})
    first = connect(broker.urls[0])
    connect(broker.urls[1])
    third = connect(broker.urls[0], hello=False)
    third.send(third.protocol.hello(client="third"))
    refused = third.expect(m.Error)
    third.until_end()
    with pytest.raises(ConnectionLost, match="as many as it may"):
        hermes.connect(broker.urls[1])

    assert (refused.code, refused.fatal) == ("too_many_connections", True)
    first.goodbye()
    third.close()
    fourth = connect(broker.urls[1])

    assert fourth.protocol.welcome


def test_farewells_are_bounded(serve: Serve) -> None:
    """So many connections over the limit are told why; further ones just end."""
    broker = serve(limits={"connections": 1})
    kernel = broker._opened()
    peer = Peer("test", "nobody", local=True)

    def come() -> list[Any]:
        made = [kernel.connect(broker, peer) for _ in range(1 + kernel_module.FAREWELLS_MAX)]
        with pytest.raises(Refused, match="as many as it may"):
            kernel.connect(broker, peer)
        told = [bool(connection.output(1 << 16)) for connection in made]
        ends = [connection.closing for connection in made]
        for connection in made:
            connection.connection_lost(None)
        return [told, ends, len(kernel.connections)]

    told, ends, left = broker._ask(come)

    assert told == ends == [False] + [True] * kernel_module.FAREWELLS_MAX
    assert left == 0


def test_who_comes_while_the_broker_stops_is_told(serve: Serve) -> None:
    """A connection that was accepted too late gets the reason."""
    broker = serve()
    kernel = broker._opened()

    def come() -> Any:
        kernel.begin_stop()
        connection = kernel.connect(broker, Peer("test", "nobody", local=True))
        output = b"".join(bytes(view) for view in connection.output(1 << 16))
        connection.connection_lost(None)
        return output

    assert b"stopping" in broker._ask(come)


def test_impossible_brokers_say_why(tmp_path: Path) -> None:
    """A port in use, a locked directory, an unknown scheme and overlapping claims are told by
    name."""
    with Broker(listeners=["tcp://127.0.0.1:0"], storage=f"mmap:{tmp_path}") as broker:
        with pytest.raises(AddressInUse, match="taken by another process"):
            Broker(listeners=[broker.url], storage="memory:").open()
        with pytest.raises(DirectoryLocked, match="running broker"):
            Broker(listeners=["inproc:"], storage=f"mmap:{tmp_path}").open()
    with pytest.raises(PluginNotFound, match=r"did you mean 'tcp'"):
        Broker(listeners=["tpc://127.0.0.1:0"], storage="memory:").open()
    streams = [{"name": "a", "patterns": ["x.>"]}, {"name": "b", "patterns": ["x.y"]}]
    with pytest.raises(InvalidConfig, match=r"'x.y', which overlaps 'x.>' of stream 'a'"):
        Broker(listeners=["inproc:"], storage="memory:", streams=streams).open()
    with pytest.raises(InvalidConfig, match="segment"):
        Broker(listeners=["inproc:"], storage="memory:", segment="4KiB").open()


def test_failed_start_leaves_nothing_behind(tmp_path: Path) -> None:
    """A broker whose second listener cannot bind gives the directory and the first port back."""
    with Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as other:
        half = Broker(listeners=["tcp://127.0.0.1:0", other.url], storage=f"mmap:{tmp_path}")
        with pytest.raises(AddressInUse):
            half.open()

    with Broker(listeners=["inproc:"], storage=f"mmap:{tmp_path}") as broker:
        assert broker.urls


REFUSED: list[dict[str, Any]] = [
    {"streams": [{"name": "a", "patterns": ["x.>"]}, {"name": "b", "patterns": ["x.y"]}]},
    {"streams": [{"name": "a", "patterns": ["x"], "declare": ["not..legal"]}]},
    {"listeners": ["tcp://127.0.0.1:0?nodelai=no"]},
    {"listeners": ["tcp://192.0.2.1:0?insecure=yes"]},
    {"listeners": ["tpc://127.0.0.1:0"]},
    {"plugins": {"no-such-plugin": {}}},
    {"segment": "100001"},
    {"segment": "4KiB"},
]


@pytest.mark.parametrize("scheme", ["mmap", "sqlite"])
@pytest.mark.parametrize("settings", REFUSED, ids=lambda settings: "+".join(settings))
def test_a_refused_start_makes_no_stream(
    scheme: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """When a start is refused for any reason, no stream is in the storage that was not there before."""
    if scheme == "sqlite" and settings.get("segment") == "100001":
        pytest.skip("its rows are no segments: any size will do")
    place = f"{scheme}:{tmp_path}/data"
    with pytest.raises(hermes.HermesError):
        Broker(**{"listeners": ["inproc:"], "storage": place, **settings}).open()

    with contextlib.closing(default_plugins().storage(scheme).open(parse_url(place))) as storage:
        assert storage.streams() == []


def test_a_taken_address_makes_no_stream(tmp_path: Path) -> None:
    """A start that finds its address taken leaves no stream behind."""
    with Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as other:
        late = Broker(listeners=[other.url], storage=f"mmap:{tmp_path}")
        with pytest.raises(AddressInUse):
            late.open()

    assert list((tmp_path / "streams").iterdir()) == []


def test_closed_broker_says_so() -> None:
    """Asking a broker that is not open, or opening one that has been stopped, is an error of its
    own."""
    broker = Broker(listeners=["inproc:"], storage="memory:")
    with pytest.raises(Closed, match="not open"):
        broker.urls  # noqa: B018
    broker.start()
    broker.close()
    broker.close()

    with pytest.raises(Closed, match="stopped"):
        broker.open()


@pytest.mark.parametrize("transport", ["inproc:", "tcp://127.0.0.1:0"])
@pytest.mark.parametrize("storage", ["memory:", "sqlite:"])
@pytest.mark.parametrize("filter", ["a.*", ">"])
def test_nothing_is_delivered_behind_a_close(
    serve: Serve, connect: Connect, tmp_path: Path, transport: str, storage: str, filter: str
) -> None:
    """A connection that was told Close gets nothing more, whatever others publish meanwhile, until
    it says Close too."""
    place = storage if storage == "memory:" else f"{storage}{tmp_path}/log.db"
    broker = serve(listeners=[transport], storage=place)
    subscriber, publisher = connect(broker), connect(broker)
    subscriber.subscribe(filter)
    publisher.open()
    publisher.publish("a.b", b"before")
    publisher.acked(1)
    assert subscriber.payloads(1) == [b"before"]
    kernel = broker._opened()

    def close_one() -> bool:
        return min(kernel.connections.values(), key=lambda one: one.number).begin_close("")

    subscriber.until(lambda: subscriber.take() or broker._ask(close_one))
    for number in range(2, 50):
        publisher.publish("a.b", b"behind")
        publisher.acked(number)
    subscriber.expect(m.Close)
    for _ in range(5):
        publisher.settle()
        subscriber.take()  # raises if anything stands behind the Close
    subscriber.send(subscriber.protocol.close())
    subscriber.until_end()

    assert subscriber.payloads(1) == [b"before"]


def test_a_listener_that_fails_is_closed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose polling raises again and again is closed, counted and logged; its clients are
    hung up on, those of another listener notice nothing."""
    monkeypatch.setattr("hermes.broker.loop.FAILING_NS", 20_000_000)
    listeners = ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0"]
    with Broker(listeners=listeners, storage="memory:") as broker:
        lost, kept = broker.urls
        agent = broker._opened().agents[0]
        with hermes.connect(lost, reconnect=0) as unlucky, hermes.connect(kept) as client:
            unlucky.ping()
            monkeypatch.setattr(agent, "_ready", lambda owner: 1 / 0)
            deadline = time.monotonic() + 60
            while not (stats := broker.stats())["lost_listeners"]:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            client.ping()
            with pytest.raises(hermes.errors.HermesError):
                unlucky.ping()
            client.ping()

    assert stats["lost_listeners"] == [lost]
    assert stats["failures"] > 0
    assert broker.failure is None


def test_a_stream_that_fills_with_topics_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """A warning, one for each stream, comes before new topics are refused."""
    with (
        Broker(listeners=["inproc:"], storage="memory:", limits={"topics": 10}) as broker,
        hermes.connect(broker.url) as client,
        client.publisher() as publisher,
    ):
        for number in range(8):
            publisher.send(b"", topic=f"a.{number}")
        publisher.flush()
        deadline = time.monotonic() + 60
        while "8 of the 10 topics" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        publisher.send(b"", topic="a.8")
        publisher.flush()

    assert caplog.text.count("topics that it may have") == 1
