"""A subscriber that does not read costs nothing and hurts nobody."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hermes.wire import messages as m
from tests.broker.rawclient import RawClient

Spawn = Callable[..., Any]
Connect = Callable[..., RawClient]

MIB = 2**20
PAYLOAD = bytes(1000)
BATCH = 500


def flood(publisher: RawClient, batches: int, topic: str = "md.a") -> int:
    """Publish and wait for the acknowledgement; returns the last sequence."""
    last = 0
    for i in range(batches):
        last = publisher.publish(topic, *[i.to_bytes(4, "big") + PAYLOAD] * BATCH)
        if i % 20 == 19 or i == batches - 1:
            publisher.acked(last)
            publisher.events.clear()
    return last


def coverage(client: RawClient) -> list[tuple[int, int]]:
    """Stretches that batches and gaps cover, in order of arrival."""
    spans = [(after, through) for _, _, after, through in client.batches]
    spans += [(e.first - 1, e.last) for e in client.events if isinstance(e, m.Gap)]
    return sorted(spans)


def test_fast_one_gets_everything_while_the_slow_one_reads_nothing(
    spawn: Spawn, connect: Connect
) -> None:
    """With a stalled subscriber beside it, a fast one keeps up with the publisher, and memory
    stays."""
    broker = spawn(storage="memory:", retention="64MiB", segment="8MiB")
    slow, fast, publisher = (connect(broker) for _ in range(3))
    slow.subscribe(">")
    slow_had = len(slow.batches)
    fast.subscribe(">")
    publisher.open()
    flood(publisher, 100)
    fast.received(100 * BATCH)
    before = broker.resident

    for round in range(1, 4):
        last = flood(publisher, 100)
        fast.received((round + 1) * 100 * BATCH)
        assert fast.messages[-1].sequence == last
        fast.messages[:-1] = [fast.messages[-1]] * (len(fast.messages) - 1)

    assert len(slow.batches) == slow_had
    assert broker.resident - before < 48 * MIB


def test_slow_one_gets_every_message_or_an_exact_gap(spawn: Spawn, connect: Connect) -> None:
    """Messages that the stalled subscriber missed are named: batches and gaps cover every sequence once."""
    broker = spawn(storage="memory:", retention="16MiB", segment="4MiB")
    slow, publisher = connect(broker), connect(broker)
    slow.subscribe(">")
    publisher.open()
    last = flood(publisher, 200)

    slow.until(lambda: slow.batches[-1][3] == last)

    spans = coverage(slow)
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    gaps = [e for e in slow.events if isinstance(e, m.Gap)]
    assert gaps
    assert all(gap.reason == "retention" for gap in gaps)
    missing = sum(gap.last - gap.first + 1 for gap in gaps)
    assert len(slow.messages) == last - missing
    sequences = [message.sequence for message in slow.messages]
    assert sequences == sorted(set(sequences))


def test_slow_selecting_subscriber_gets_its_topics_or_a_gap(spawn: Spawn, connect: Connect) -> None:
    """A stalled subscriber of one topic among others is told its gaps as exactly."""
    broker = spawn(storage="memory:", retention="16MiB", segment="4MiB")
    slow, publisher = connect(broker), connect(broker)
    slow.subscribe("md.b")
    publisher.open()
    last = 0
    for _ in range(20):
        flood(publisher, 5, "md.a")
        last = flood(publisher, 5, "md.b")

    slow.until(lambda: slow.batches[-1][3] == last)

    spans = coverage(slow)
    assert spans[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert {message.topic for message in slow.messages} == {"md.b"}


def test_stalled_output_does_not_pin_segments(spawn: Spawn, connect: Connect) -> None:
    """Segments that retention has passed are given back although a stalled connection was sent from
    them."""
    broker = spawn(storage="memory:", retention="16MiB", segment="4MiB")
    slow, publisher = connect(broker), connect(broker)
    slow.subscribe(">")
    publisher.open()
    flood(publisher, 60)

    def released() -> bool:
        stream = publisher.query("stats")[0]["streams"]["default"]
        publisher.events.clear()
        return stream["trimmed"] > 0 and stream["pinned"] == 0

    publisher.until(released)
