"""Requests whose cost grows with what a broker holds are worked on in steps, and in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hermes.broker import Broker
from hermes.broker.subscriptions import COLLECT_TOPICS, SWEEP_AT_ONCE
from hermes.wire import messages as m
from hermes.wire.server import ANSWERED_MAX
from tests.broker.rawclient import RawClient

Serve = Callable[..., Broker]
Connect = Callable[..., RawClient]

TOPICS = 40_000
PATTERNS = 400


@pytest.fixture
def full(serve: Serve, connect: Connect) -> Broker:
    """A broker with topics t.0 .. t.39999, one message in each, in this order."""
    broker = serve()
    client = connect(broker)
    client.open()
    for first in range(0, TOPICS, 1000):
        batches = [client.batch(f"t.{n}", [b"old"]) for n in range(first, first + 1000)]
        client.send(b"".join(batches))
    client.acked(TOPICS)
    return broker


def begin(client: RawClient, *filters: str, start: str = "latest", **options: Any) -> None:
    """Send a Subscribe for each of ``filters``, numbered from 1, in one piece."""
    point = m.Start(at=start)  # type: ignore[arg-type]
    frames = [
        client.protocol.subscribe(number, filter, start=point, **options)
        for number, filter in enumerate(filters, 1)
    ]
    client.send(b"".join(frames))


def answered(client: RawClient) -> set[int]:
    """The subscriptions that have been told where they begin."""
    return {subscription for subscription, *_ in client.batches}


def test_many_subscribes_hold_nobody_up(full: Broker, connect: Connect) -> None:
    """While many patterns of one client are matched with many topics, another client is served
    again and again; the first client's Pong comes behind the answers."""
    neighbour, client = connect(full), connect(full)
    begin(client, *(f"*.{n}" for n in range(PATTERNS)))
    client.send(client.protocol.ping(1))
    between = 0

    while not any(isinstance(event, m.Pong) for event in client.events):
        neighbour.settle()
        neighbour.events.clear()
        client.take()
        between += 1

    assert between >= 5
    assert len(answered(client)) == PATTERNS


def test_a_subscription_begins_where_its_answer_says(full: Broker, connect: Connect) -> None:
    """A message appended while subscriptions are being opened is delivered once to each of those
    whose answer comes before it, and to no other."""
    client, publisher = connect(full), connect(full)
    publisher.open()
    begin(client, *(f"*.{n}" for n in range(PATTERNS)), "t.7.more.*")
    sent = 0
    while len(answered(client)) <= PATTERNS:
        publisher.publish(f"t.{sent % PATTERNS}", b"new")
        publisher.publish(f"new{sent}.{sent % PATTERNS}", b"new")
        sent += 1
        publisher.acked(2 * sent)
        client.take()
    for n in range(PATTERNS):
        publisher.publish(f"t.{n}", b"last")
    publisher.acked(2 * sent + PATTERNS)
    begins = {number: through for number, _, _, through in reversed(client.batches)}
    expected = {
        (1 + k % PATTERNS, TOPICS + 1 + 2 * k + i)
        for k in range(sent)
        for i in range(2)
        if TOPICS + 1 + 2 * k + i > begins[1 + k % PATTERNS]
    } | {(1 + n, TOPICS + 2 * sent + 1 + n) for n in range(PATTERNS)}

    found = [(one.subscription, one.sequence) for one in client.received(len(expected))]

    assert sorted(found) == sorted(expected)


def test_the_newest_messages_are_found_in_steps(full: Broker, connect: Connect) -> None:
    """A subscription that begins at the newest message of each topic gets them in the log's order,
    then what was appended since it was asked for, each once."""
    assert TOPICS > 2 * COLLECT_TOPICS
    client, publisher = connect(full), connect(full)
    publisher.open()
    publisher.acked(publisher.publish("t.5", b"newer"))
    begin(client, "t.*", "*.3", start="last")
    sent = 1
    while len(answered(client)) < 2:
        sent = publisher.publish("t.6", b"later")
        publisher.acked(sent)
        client.take()
    sent = publisher.publish("t.3", b"end")

    client.until(lambda: [one for one in client.messages if one.payload == b"end"][1:])

    one = [of.sequence for of in client.messages if of.subscription == 1]
    assert one == sorted(set(one))
    assert one[-1] == TOPICS + sent
    topics = {of.topic for of in client.messages if of.subscription == 1}
    assert len(topics) == TOPICS
    assert [of.payload for of in client.messages if of.topic == "t.5"] == [b"newer"]
    three = [of.payload for of in client.messages if of.subscription == 2]
    assert three == [b"old", b"end"]


def test_requests_behind_a_subscribe_wait_for_it(full: Broker, connect: Connect) -> None:
    """A Commit or Unsubscribe sent right behind Subscribe is answered behind its answer, and with
    an error where that was refused."""
    assert TOPICS > SWEEP_AT_ONCE
    client = connect(full)
    protocol = client.protocol

    client.send(
        b"".join(
            [
                protocol.subscribe(1, "*.1", start=m.Start(), durable="job"),
                protocol.commit(1, {"default": 5}),
                protocol.subscribe(2, "*.2", start=m.Start(at="durable"), durable="job"),
                protocol.unsubscribe(1),
                protocol.subscribe(3, "*.3", start=m.Start(at="durable"), durable="job"),
                protocol.commit(3, {"default": 6}),
            ]
        )
    )
    client.expect(m.Commit, lambda commit: commit.subscription == 3)

    told = [event for event in client.events if isinstance(event, m.Error | m.Unsubscribe)]
    assert [(type(event).__name__, event.subscription) for event in told] == [
        ("Error", 2),
        ("Unsubscribe", 1),
    ]
    begins = {subscription: after for subscription, _, after, _ in client.batches}
    assert begins == {3: 5}


def test_a_client_that_goes_leaves_nothing(full: Broker, connect: Connect) -> None:
    """The filters of a client that closes, or ends, are gone soon, whether they were matched or
    not, and durable names are free at once."""
    watcher = connect(full)
    for end in (RawClient.close, RawClient.goodbye):
        client = connect(full)
        client.subscribe("t.1", 1000, durable="job")
        begin(client, *(f"*.{n}" for n in range(PATTERNS)))
        end(client)

    def filters() -> int:
        (page,) = watcher.query("stats")
        return int(page["streams"]["default"]["filters"])

    watcher.until(lambda: filters() == 0)
    connect(full).subscribe("t.1", durable="job")


def test_a_flood_of_small_requests_is_worked_on_in_turns(full: Broker, connect: Connect) -> None:
    """Requests of one read, answered with errors or at once, come in turns too; all are answered,
    in order."""
    neighbour, client = connect(full), connect(full)
    count = 20 * ANSWERED_MAX
    frames = []
    for n in range(count):
        frames.append(client.protocol.ping(n + 1))
        frames.append(client.protocol.query(client.protocol.new_id(), "forget", {"durable": "x"}))
        if n % 16 == 15:
            client.send(b"".join(frames))
            frames.clear()
            neighbour.settle()
    client.until(lambda: sum(isinstance(e, m.Info) for e in client.events) == count)

    pongs = [event.token for event in client.events if isinstance(event, m.Pong)]
    assert pongs == list(range(1, count + 1))
