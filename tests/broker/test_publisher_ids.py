"""Publisher ids used by two at once, publishers that come and go, and what their acknowledgements
speak for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes.broker import Broker
from hermes.broker.kernel import Kernel
from hermes.broker.syncs import Syncs
from hermes.wire import messages as m
from tests.broker.rawclient import RawClient

Serve = Callable[..., Broker]
Connect = Callable[..., RawClient]


def taken(client: RawClient) -> list[m.Error]:
    """The errors that told ``client`` that somebody else has its publisher's id."""
    return [e for e in client.events if isinstance(e, m.Error) and e.code == "publisher_taken"]


def acks(client: RawClient, publisher: int = 1) -> list[int]:
    """The sequences acknowledged to ``client``."""
    return [
        e.sequence
        for e in client.events
        if isinstance(e, m.Ack) and e.publisher == publisher and e.level != "opened"
    ]


def test_newer_open_takes_the_id_over(serve: Serve, connect: Connect) -> None:
    """When two connections open one id, the older is told, and what it sends after that is neither
    appended, nor acknowledged, nor mistaken for the newer's."""
    broker = serve()
    older, newer = connect(broker), connect(broker)
    reader = connect(broker)
    reader.subscribe("a", start="earliest")
    id = os.urandom(16)
    older.open(1, id=id)
    older.publish("a", b"older 1")
    older.acked(1)

    assert newer.open(7, id=id) == 1
    older.publish("a", b"older 2", b"older 3")
    older.settle()
    newer.publish("a", b"newer 2", publisher=7)
    newer.acked(2, publisher=7)

    assert [(e.publisher, e.fatal) for e in taken(older)] == [(1, False)]
    assert id.hex() in taken(older)[0].message
    assert acks(older) == [1]
    assert taken(newer) == []
    assert reader.payloads(2) == [b"older 1", b"newer 2"]


def test_opening_again_takes_the_id_back(serve: Serve, connect: Connect) -> None:
    """A connection that lost an id may open it again, and then the other has lost
    it."""
    broker = serve()
    first, second = connect(broker), connect(broker)
    id = os.urandom(16)
    first.open(1, id=id)
    second.open(1, id=id)
    first.settle()
    first.events.clear()

    first.open(1, id=id)
    first.publish("a", b"x")
    first.acked(1)
    second.settle()

    assert taken(first) == []
    assert len(taken(second)) == 1


def test_batch_under_way_is_not_mixed_with_the_newer(serve: Serve, connect: Connect) -> None:
    """A batch that has half arrived when its publisher's id is taken ends there: the rest is
    skipped, and the connection goes on."""
    broker = serve()
    older, newer = connect(broker), connect(broker)
    id = os.urandom(16)
    older.open(1, id=id)
    older.open(2)
    batch = older.batch("a", [b"x" * 1000, b"y" * 1000])
    older.send(batch[:1500])
    newer.open(1, id=id)
    older.send(batch[1500:])
    older.publish("b", b"z", publisher=2)

    older.acked(1, publisher=2)
    assert len(taken(older)) == 1
    assert 2 not in acks(older)


def test_id_is_taken_within_one_connection_too(serve: Serve, connect: Connect) -> None:
    """One connection that opens an id under two numbers publishes under the later one."""
    client = connect(serve())
    id = os.urandom(16)
    client.open(1, id=id)
    client.open(2, id=id)
    client.publish("a", b"1", publisher=1)
    client.publish("a", b"2", publisher=2)
    client.acked(1, publisher=2)

    assert [e.publisher for e in taken(client)] == [1]
    assert acks(client, 1) == []


def test_id_is_free_after_its_publisher_or_connection(serve: Serve, connect: Connect) -> None:
    """A connection that has closed a publisher, or is gone, is not told anything, and takes nothing away."""
    broker = serve()
    first, second, third = connect(broker), connect(broker), connect(broker)
    id = os.urandom(16)
    first.open(1, id=id)
    first.send(first.protocol.close_publisher(1))
    first.settle()
    second.open(1, id=id)
    second.goodbye()
    third.open(1, id=id)
    first.settle()
    third.publish("a", b"x")
    third.acked(1)

    assert taken(first) == taken(third) == []


def test_nobody_is_never_taken(serve: Serve, connect: Connect) -> None:
    """The id of all zeros belongs to everybody."""
    broker = serve()
    clients = [connect(broker), connect(broker)]
    for client in clients:
        client.open(1, id=bytes(16))
    for client in clients:
        client.publish("a", b"x")
        client.acked(1)

    assert [taken(client) for client in clients] == [[], []]


def test_durable_acknowledgement_speaks_for_every_stream(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    """The answer covers what an earlier connection of the publisher brought, whatever stream that is in: all
    of it is on disk."""
    broker = serve(
        storage=f"mmap:{tmp_path / 'data'}", streams=[{"name": "md", "patterns": ["md.>"]}]
    )
    id = os.urandom(16)
    first = connect(broker)
    first.open(1, id=id)
    first.publish("md.a", b"1")
    first.acked(1)
    assert broker.stats()["streams"]["md"]["synced_sequence"] == 0

    second = connect(broker)
    second.open(1, id=id, ack="durable")
    second.publish("other", b"2")
    second.acked(2, level="durable")

    assert broker.stats()["streams"]["md"]["synced_sequence"] == 1


def test_stop_waits_for_the_disk(
    serve: Serve, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A durable acknowledgement that a sync under way allows is given before the broker's Close."""
    broker = serve(storage=f"mmap:{tmp_path / 'data'}")
    client = connect(broker)
    client.open(1, ack="durable")
    stopping: list[Kernel] = []
    begin_stop, begin_sync = Kernel.begin_stop, Syncs._begin

    def late_sync(self: Syncs, place: object) -> None:
        broker.stop()
        held.append((self, place))

    def stop(self: Kernel) -> None:
        begin_stop(self)
        stopping.append(self)
        for syncs, place in held:
            self.context.loop.call(lambda syncs=syncs, place=place: begin_sync(syncs, place))

    held: list[tuple[Syncs, object]] = []
    monkeypatch.setattr(Syncs, "_begin", late_sync)
    monkeypatch.setattr(Kernel, "begin_stop", stop)

    client.publish("a", b"x")
    client.expect(m.Close)

    assert stopping
    assert acks(client) == [1]
