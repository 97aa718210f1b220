"""Output that native code sends to many connections at once is what the long way would have sent,
by a call for each of them or by one for all."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from hermes.broker import Broker
from hermes.native.conn import Conns
from hermes.wire import messages as m
from tests.transports.uring import needs_uring

Serve = Callable[..., Broker]
Connect = Callable[..., Any]


@pytest.fixture(params=["inproc:", pytest.param("uring+tcp://127.0.0.1:0", marks=needs_uring)])
def serve(serve: Serve, request: pytest.FixtureRequest) -> Serve:
    """Start a broker, over sockets that are written to one by one, or through a ring."""
    return partial(serve, listeners=[request.param])


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the numbers of connections that native code could not serve to the end."""
    numbers: list[int] = []
    flush = Conns.flush

    def noted(self: Conns) -> list[int]:
        found = flush(self)
        numbers.extend(found)
        return found

    monkeypatch.setattr(Conns, "flush", noted)
    return numbers


def crowd(serve: Serve, connect: Connect) -> list[Any]:
    """A publisher, and three who subscribe to everything."""
    broker = serve()
    publisher, *subscribers = (connect(broker) for _ in range(4))
    publisher.open()
    for client in subscribers:
        client.subscribe(">")
        client.settle()
    return [publisher, *subscribers]


def test_each_subscriber_gets_its_own(serve: Serve, connect: Connect, left: list[int]) -> None:
    """Subscribers of everything, of one topic and of two patterns get what they want, in order and
    covered without a hole."""
    broker = serve()
    publisher = connect(broker)
    publisher.open()
    filters = [(">",), ("t.1",), ("t.*", "t.2"), ("other",)] * 20
    subscribers = []
    for wanted in filters:
        client = connect(broker)
        for number, pattern in enumerate(wanted, 1):
            client.subscribe(pattern, number)
        client.settle()
        subscribers.append(client)
    topics = [f"t.{i % 3}" if i % 4 else "other" for i in range(60)]
    of = {
        ">": topics,
        "t.*": [t for t in topics if t != "other"],
        **{name: [t for t in topics if t == name] for name in ("t.1", "t.2", "other")},
    }

    for i, topic in enumerate(topics):
        publisher.acked(publisher.publish(topic, b"%d" % i))

    for client, wanted in zip(subscribers, filters, strict=True):
        client.received(sum(len(of[pattern]) for pattern in wanted))
        for number, pattern in enumerate(wanted, 1):
            mine = [x.topic for x in client.messages if x.subscription == number]
            assert mine == of[pattern]
            spans = [(a, t) for s, _, a, t in client.batches if s == number]
            assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert len(left) < 1000  # of more than 4,000 deliveries


@pytest.mark.parametrize("size", [10_000, 60_000, 3_000_000])
def test_large_messages_arrive_whole(
    serve: Serve, connect: Connect, left: list[int], size: int
) -> None:
    """A message that is too large to be copied is sent from the log, behind what stands before
    it; so is one that no socket takes at once."""
    publisher, *subscribers = crowd(serve, connect)

    last = 0
    for i in range(40):
        publisher.publish("small", b"%d" % i)
        last = publisher.publish("large", b"%d" % i + bytes(size))
    publisher.acked(last)

    for client in subscribers:
        payloads = [x.payload for x in client.received(80)]
        assert payloads[::2] == [b"%d" % i for i in range(40)]
        assert payloads[1::2] == [b"%d" % i + bytes(size) for i in range(40)]


def test_subscribers_that_do_not_read_lose_nothing(
    serve: Serve, connect: Connect, left: list[int]
) -> None:
    """Output that the sockets do not take is neither lost nor repeated, and comes when there is room."""
    publisher, *subscribers = crowd(serve, connect)

    for i in range(4000):
        publisher.acked(publisher.publish("a", b"%d" % i + bytes(1000)))

    for client in subscribers:
        assert [x.sequence for x in client.received(4000)] == list(range(1, 4001))
    assert left


def test_ending_while_served(serve: Serve, connect: Connect) -> None:
    """A subscription that ends between messages gets no more, and others get theirs."""
    publisher, staying, leaving, gone = crowd(serve, connect)
    publisher.acked(publisher.publish("a", b"first"))
    leaving.received(1)
    gone.received(1)
    gone.close()
    leaving.send(leaving.protocol.unsubscribe(1))
    leaving.expect(m.Unsubscribe)

    publisher.acked(publisher.publish("a", b"second"))

    assert [x.payload for x in staying.received(2)] == [b"first", b"second"]
    leaving.settle()
    assert len(leaving.messages) == 1


def test_a_pull_before_hello_stops_nothing(serve: Serve, connect: Connect) -> None:
    """A transport may ask for output before the peer has said who it is: deliveries come all the
    same."""
    broker = serve()
    kernel = broker._kernel
    assert kernel is not None
    made = kernel.connect

    def eager(owner: Any, peer: Any) -> Any:
        connection = made(owner, peer)
        assert list(connection.output(65536)) == []
        return connection

    kernel.connect = eager  # type: ignore[method-assign]
    client = connect(broker)
    client.open()
    client.subscribe(">")
    client.publish("a", b"x")

    assert [x.payload for x in client.received(1)] == [b"x"]
