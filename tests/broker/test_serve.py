"""The common round in native code does what the long way does, and steps aside for everything
else."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermes.broker import Broker
from hermes.wire import messages as m

Serve = Callable[..., Broker]
Connect = Callable[..., Any]


def rounds(broker: Broker) -> int:
    """How many rounds native code has made."""
    return int(broker.stats()["loop"]["served_rounds"])


def echo(client: Any, count: int, topic: str = "a", size: int = 100) -> None:
    """Publish one message at a time and wait for it and its acknowledgement."""
    for i in range(count):
        had = len(client.messages)
        last = client.publish(topic, b"%d" % i + bytes(size))
        client.received(had + 1)
        client.acked(last)
        assert client.messages[-1].payload.startswith(b"%d\0" % i)


@pytest.mark.parametrize("idle", ["block", "adaptive", "spin"])
def test_round_trips_take_it(serve: Serve, connect: Connect, idle: str) -> None:
    """A client that publishes to itself is served by native rounds, whatever the loop does when
    idle."""
    broker = serve(idle=idle)
    client = connect(broker)
    client.open()
    client.subscribe(">")

    echo(client, 100)

    assert rounds(broker) >= 100


def test_publishers_come_and_go(serve: Serve, connect: Connect) -> None:
    """A connection may open as many publishers as it likes, if it closes them: what they wanted is
    forgotten with them."""
    broker = serve()
    client = connect(broker)
    client.subscribe(">")
    for number in range(1, 1100):
        client.open(number)
        client.acked(client.publish("a", b"", publisher=number), publisher=number)
        client.send(client.protocol.close_publisher(number))

    client.open(1, ack="none")
    client.publish("a", b"last", publisher=1)

    assert client.received(1100)[-1].payload == b"last"


def test_others_get_what_a_round_appended(serve: Serve, connect: Connect) -> None:
    """A stream that another connection follows too reaches that one as well, in every order of
    subscribing."""
    broker = serve()
    client, other = connect(broker), connect(broker)
    client.open()
    client.subscribe(">")
    echo(client, 10)
    other.subscribe(">")
    echo(client, 10)
    assert len(other.received(10)) == 10
    other.send(other.protocol.unsubscribe(1))
    other.expect(m.Unsubscribe)
    before = rounds(broker)

    echo(client, 10)

    assert rounds(broker) >= before + 10
    assert len(other.messages) == 10


def test_selecting_and_everything_on_one_connection(serve: Serve, connect: Connect) -> None:
    """Several subscriptions of the connection each get their own, covered without a hole."""
    broker = serve()
    client = connect(broker)
    client.open()
    client.subscribe(">", 1)
    client.subscribe("t.1", 2)
    client.subscribe("t.*", 3)
    for i in range(60):
        client.publish(f"t.{i % 3}" if i % 4 else "other", b"%d" % i)
        client.settle()

    topics = [(f"t.{i % 3}" if i % 4 else "other") for i in range(60)]
    client.received(60 + topics.count("t.1") + 60 - topics.count("other"))
    for number, wanted in ((1, topics), (2, ["t.1"]), (3, ["t.0", "t.1", "t.2"])):
        mine = [x.payload for x in client.messages if x.subscription == number]
        assert mine == [b"%d" % i for i in range(60) if topics[i] in wanted]
        spans = [(a, t) for s, _, a, t in client.batches if s == number]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert rounds(broker) > 0


def test_durable_publisher_waits_for_the_disk(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    """An acknowledgement that is not native code's to give comes after the sync all the same."""
    broker = serve(storage=f"mmap:{tmp_path}")
    client = connect(broker)
    client.open(1, ack="durable")
    client.open(2, ack="none")
    client.open(3)
    client.subscribe(">")
    for i in range(20):
        for publisher in (1, 2, 3):
            client.publish("a", b"%d" % i, publisher=publisher)

    client.acked(20, publisher=1, level="durable")
    client.acked(20, publisher=3, level="appended")
    client.received(60)
    levels = {(e.publisher, e.level) for e in client.events if isinstance(e, m.Ack)}
    assert levels == {(1, "opened"), (2, "opened"), (3, "opened"), (1, "durable"), (3, "appended")}


def test_input_cut_anywhere(serve: Serve, connect: Connect) -> None:
    """Batches and control frames cut at random give the same messages: what is unfinished is handed
    on."""
    chance = random.Random(5)
    broker = serve()
    client = connect(broker)
    client.open()
    client.subscribe(">")
    data = b""
    for i in range(200):
        data += client.batch("a", [b"%d" % i] * chance.randrange(1, 4))
        if i % 7 == 0:
            data += client.protocol.ping(i)
    total = client._sequences[1]
    while data:
        size = chance.randrange(1, 400)
        client.send(data[:size])
        data = data[size:]
        if chance.random() < 0.3:
            client.take()

    assert [x.sequence for x in client.received(total)] == list(range(1, total + 1))
    client.acked(total)
    client.until(lambda: sum(isinstance(e, m.Pong) for e in client.events) > 200 // 7)


def test_peer_that_does_not_read_is_served_later(serve: Serve, connect: Connect) -> None:
    """Output of a round that the socket does not take is neither lost nor repeated."""
    broker = serve()
    client = connect(broker)
    client.open()
    client.subscribe(">")
    last = 0
    for i in range(3000):
        data = client.batch("a", [b"%d" % i + bytes(500)])
        last += 1
        while data:
            taken = client.channel.send([data])
            data = data[taken:]
            if not taken:
                client.channel.wait(readable=False, writable=True, timeout_ns=1_000_000)
                client.take()

    assert [x.sequence for x in client.received(last)] == list(range(1, last + 1))


def test_refusal_is_told(serve: Serve, connect: Connect) -> None:
    """A topic that is refused in a native round is refused to the publisher by name."""
    client = connect(serve(streams=[{"name": "default", "create_topics": False, "declare": ["a"]}]))
    client.open()
    client.subscribe(">")
    echo(client, 5)

    client.publish("b", b"x")

    error = client.expect(m.Error)
    assert (error.code, error.publisher, error.sequence) == ("topic_refused", 1, 6)


def test_malformed_input_is_refused(serve: Serve, connect: Connect) -> None:
    """Bytes that are no frame end the connection with an error, after native rounds as before."""
    client = connect(serve())
    client.open()
    client.subscribe(">")
    echo(client, 5)

    client.send(b"nonsense" * 10)

    assert client.expect(m.Error).code == "bad_magic"
    client.until_end()


def test_many_subscriptions_are_served_too(serve: Serve, connect: Connect) -> None:
    """A hundred subscriptions of one connection each get everything, and native rounds serve them
    like one."""
    broker = serve()
    client = connect(broker)
    client.open()
    for number in range(1, 101):
        client.subscribe("a", number)
        client.acked(client.publish("a", b"%d" % number))
    client.received(sum(range(1, 101)))
    for number in range(1, 101):
        mine = [x.payload for x in client.messages if x.subscription == number]
        assert mine == [b"%d" % i for i in range(number, 101)]
    before = rounds(broker)

    for i in range(10):
        had = len(client.messages)
        client.acked(client.publish("a", b"%d" % i))
        client.received(had + 100)

    assert rounds(broker) >= before + 10


@pytest.mark.parametrize("ack", ["appended", "durable"])
def test_a_log_elsewhere_is_served(
    serve: Serve, connect: Connect, tmp_path: Path, ack: str
) -> None:
    """Messages of a log that is not native memory are acknowledged and delivered when that has them;
    the rounds that bring them are native all the same."""
    broker = serve(storage=f"sqlite:{tmp_path / 'log.db'}")
    client = connect(broker)
    client.open(1, ack=ack)
    client.subscribe(">")
    client.settle()
    before = rounds(broker)

    for i in range(20):
        had = len(client.messages)
        last = client.publish("a", b"%d" % i)
        client.acked(last, level=ack)
        client.received(had + 1)

    assert rounds(broker) >= before + 20
