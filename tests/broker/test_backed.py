"""Streams whose log is not native memory: what clients see, and what they never see."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hermes.plugins.discovery
from hermes.broker import Broker, backed, syncs
from hermes.errors import StorageDamaged, StorageFailed, StorageFull
from hermes.wire import messages as m
from tests.broker.shelf import ShelfStorage

Serve = Callable[..., Broker]
Connect = Callable[..., Any]

DEADLINE_S = 60.0
IMPATIENT = {"stop": "100ms"}
"""For a broker whose clients do not read what they are owed at its end."""


@pytest.fixture
def storage() -> Iterator[ShelfStorage]:
    """The storage that ``shelf:`` opens."""
    kept = ShelfStorage()
    with hermes.plugins.discovery.register_storage("shelf", lambda: kept):
        yield kept


@pytest.fixture
def shelf(storage: ShelfStorage) -> Any:
    """The log of the stream ``default``."""
    return storage.shelf


@pytest.fixture
def serve_shelf(serve: Serve, storage: ShelfStorage) -> Serve:
    """Start a broker on the shelf."""
    return lambda **settings: serve(storage="shelf:", **settings)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a broker whose window is 128 KiB: little is enough to leave it."""
    monkeypatch.setattr(backed, "WINDOW_BYTES", 128 << 10)
    return {"limits": {"message": "4KiB", **IMPATIENT}, "segment": "1MiB"}


def until(condition: Callable[[], Any]) -> None:
    """Wait for the broker's thread."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def numbered(count: int, size: int = 100) -> list[bytes]:
    """Payloads that say which they are."""
    return [b"%08d" % number + bytes(size - 8) for number in range(count)]


def test_nothing_is_seen_before_the_log_has_it(
    serve_shelf: Serve, connect: Connect, shelf: Any
) -> None:
    """Neither acknowledgement nor message comes, for whatever filter, before the append has
    completed; then both do."""
    shelf.later = True
    broker = serve_shelf()
    publisher, reader = connect(broker), connect(broker)
    reader.subscribe(">", 1)
    reader.subscribe("a.*", 2)
    publisher.open()
    last = publisher.publish("a.b", b"one", b"two")
    until(lambda: shelf.waiting)
    late = connect(broker)
    late.subscribe(">", 1, start="earliest")
    late.subscribe("a.b", 2, start="last")
    for client in (publisher, reader, late):
        client.settle()
    assert not [e for e in publisher.events if isinstance(e, m.Ack) and e.level == "appended"]
    assert reader.messages == late.messages == []
    assert broker.streams()[0]["last_sequence"] == 0

    shelf.complete()

    publisher.acked(last)
    assert sorted((x.subscription, x.sequence) for x in reader.received(4)) == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]
    assert {x.sequence for x in late.received(4)} == {1, 2}
    assert broker.streams()[0]["last_sequence"] == 2


def test_what_completes_is_seen_as_it_completes(
    serve_shelf: Serve, connect: Connect, shelf: Any
) -> None:
    """Part of what was handed over is acknowledged and delivered, the rest later."""
    shelf.later = True
    broker = serve_shelf()
    reader = connect(broker)
    reader.subscribe("a.>")
    clients = [connect(broker) for _ in range(3)]
    for number, client in enumerate(clients):
        client.open()
        client.publish("a.x", b"%d" % number)
        until(lambda number=number: len(shelf.waiting) == number + 1)

    for number, client in enumerate(clients):
        shelf.complete(1)
        client.acked(1)
        assert reader.payloads(number + 1)[-1] == b"%d" % number
        reader.settle()
        assert len(reader.messages) == number + 1


def test_a_full_log_refuses_and_goes_on(serve_shelf: Serve, connect: Connect, shelf: Any) -> None:
    """Publishers are told what is full, readers are served; when there is room, what was taken is
    acknowledged, and new messages are taken."""
    broker = serve_shelf()
    publisher, reader = connect(broker), connect(broker)
    publisher.open(id=b"p" * 16)
    publisher.acked(publisher.publish("a", b"kept"))
    shelf.full = True
    publisher.publish("a", b"taken, not confirmed")
    publisher.settle()

    publisher.publish("a", b"refused")
    error = publisher.expect(m.Error)
    assert (error.code, error.fatal, error.sequence) == ("storage_full", False, 3)
    reader.subscribe(">", start="earliest")
    assert reader.payloads(1) == [b"kept"]
    assert broker.streams()[0]["failed"] != 0

    shelf.full = False
    publisher.acked(2)
    assert reader.payloads(2)[1] == b"taken, not confirmed"
    again = connect(broker)
    assert again.open(id=b"p" * 16) == 2
    again.acked(again.publish("a", b"again"))
    assert reader.payloads(3)[2] == b"again"
    assert broker.streams()[0]["failed"] == 0


@pytest.mark.parametrize("error", [StorageFailed("no cable"), ValueError("a defect")])
def test_a_failed_log_refuses_and_serves(
    serve_shelf: Serve, connect: Connect, shelf: Any, error: Exception
) -> None:
    """A client that waits for an acknowledgement is told why it will not come; nothing more is taken; what
    there is is served."""
    broker = serve_shelf(limits=IMPATIENT)
    publisher, reader, other = connect(broker), connect(broker), connect(broker)
    publisher.open()
    publisher.acked(publisher.publish("a", b"kept"))
    shelf.append_error = error
    publisher.publish("a", b"lost")

    told = publisher.expect(m.Error)
    assert (told.code, told.fatal) == ("storage_failed", True)
    assert str(error) in told.message
    assert "'default'" in told.message
    other.open()
    other.publish("a", b"refused")
    assert other.expect(m.Error).code == "storage_failed"
    reader.subscribe(">", start="earliest")
    reader.settle()
    assert reader.payloads(1) == [b"kept"]
    assert len(reader.messages) == 1
    with pytest.raises(StorageFailed, match="1 messages of stream 'default'"):
        broker.close()


def test_a_log_that_claims_more_than_it_was_given_has_failed(
    serve_shelf: Serve, connect: Connect, shelf: Any
) -> None:
    """Nothing is delivered that nobody sent."""
    broker = serve_shelf()
    publisher = connect(broker)
    publisher.open()
    shelf.lie = 5
    publisher.publish("a", b"x")

    assert "claims to end" in publisher.expect(m.Error).message


@pytest.mark.parametrize("when", ["counts", "rows"])
def test_a_log_that_goes_back_has_failed(
    serve_shelf: Serve, connect: Connect, shelf: Any, when: str
) -> None:
    """A log that has less than it had, or begins to use sequences again, takes no more messages;
    publishers are told why."""
    broker = serve_shelf(limits=IMPATIENT)
    publisher, other = connect(broker), connect(broker)
    publisher.open()
    for number in range(3):
        publisher.acked(publisher.publish("a", b"%d" % number))
    if when == "counts":
        shelf.lie = -2
    else:
        del shelf.rows[1:]
    publisher.publish("a", b"x")

    told = publisher.expect(m.Error)
    assert "start the broker again" in told.message
    other.open()
    other.publish("a", b"y")
    assert other.expect(m.Error).code == told.code == "storage_failed"
    with contextlib.suppress(StorageFailed):  # it may hold messages that nobody acknowledged
        broker.close()


def test_durable_waits_for_the_sync(serve_shelf: Serve, connect: Connect, shelf: Any) -> None:
    """An append that has completed is no durable acknowledgement; the sync behind it is."""
    shelf.later = True
    broker = serve_shelf()
    publisher = connect(broker)
    publisher.open(ack="durable")
    last = publisher.publish("a", b"x")
    until(lambda: shelf.waiting)
    shelf.complete()
    until(lambda: not shelf.ended)
    publisher.settle()
    assert not [e for e in publisher.events if isinstance(e, m.Ack) and e.level == "durable"]

    until(lambda: shelf.sync_asked == last)
    shelf.complete(sync=True)
    publisher.acked(last, level="durable")


def fill(publisher: Any, payloads: list[bytes], topics: list[str], at_once: int = 50) -> None:
    """Publish, the topics in turn, batch by batch."""
    last = 0
    for number, first in enumerate(range(0, len(payloads), at_once)):
        topic = topics[number % len(topics)]
        last = publisher.publish(topic, *payloads[first : first + at_once])
    publisher.acked(last)


@pytest.mark.parametrize("piece", [1 << 30, 3000])
def test_older_than_the_window(
    serve_shelf: Serve, connect: Connect, shelf: Any, small: dict[str, Any], piece: int
) -> None:
    """A reader that begins long ago gets every message from the log, then those in memory, then
    what is published: each once, in order, whatever its filter and its start."""
    shelf.piece = piece
    broker = serve_shelf(**small)
    publisher, reader = connect(broker), connect(broker)
    publisher.open()
    payloads = numbered(10_000)
    fill(publisher, payloads, ["md.a", "md.b", "other"])
    topic = [["md.a", "md.b", "other"][n // 50 % 3] for n in range(len(payloads))]

    reader.subscribe(">", 1, start="earliest")
    reader.subscribe("md.*", 2, start="earliest")
    reader.subscribe("md.b", 3, start=m.Start(at="sequence", sequence=777))
    middle = shelf.locate(5001)
    time_ns = next(r.time_ns for r in shelf.rows if r.end > middle.position)
    row = next(r for r in shelf.rows if r.time_ns >= time_ns)
    reader.subscribe("other", 4, start=m.Start(at="time", time_ns=time_ns))
    publisher.acked(publisher.publish("md.b", b"live"))

    payloads.append(b"live")
    topic.append("md.b")
    numbers = range(1, len(payloads) + 1)
    wanted = {
        1: list(numbers),
        2: [n for n in numbers if topic[n - 1] != "other"],
        3: [n for n in numbers if topic[n - 1] == "md.b" and n >= 777],
        4: [n for n in numbers if topic[n - 1] == "other" and n >= row.first_sequence],
    }
    reader.received(sum(map(len, wanted.values())))
    for subscription, sequences in wanted.items():
        got = [x for x in reader.messages if x.subscription == subscription]
        assert [x.sequence for x in got] == sequences
        assert [x.payload for x in got] == [payloads[n - 1] for n in sequences]
    ends: dict[int, int] = {}
    for subscription, _, after, through in reader.batches:
        assert ends.get(subscription, after) == after, "coverage has a hole"
        ends[subscription] = through
    assert shelf.reads > 5


def test_the_newest_of_each_topic_may_be_old(
    serve_shelf: Serve, connect: Connect, shelf: Any, small: dict[str, Any]
) -> None:
    """``start="last"`` finds the newest message of a topic also where it left the window long
    ago, before and after a restart."""
    broker = serve_shelf(**small)
    publisher = connect(broker)
    publisher.open()
    for number in range(40):
        publisher.publish(f"quiet.{number:02}", b"old", b"%d" % number)
    fill(publisher, numbered(5000), ["loud"])

    for again in range(2):
        if again:
            publisher.close()
            broker.close()
            broker = serve_shelf(**small)
        reader = connect(broker)
        reader.subscribe(">", start="last")
        found = {x.topic: x.payload for x in reader.received(41)}
        assert len(found) == 41
        assert all(found[f"quiet.{number:02}"] == b"%d" % number for number in range(40))
        assert found["loud"] == numbered(5000)[-1]


def test_a_restart_knows_everything(
    serve_shelf: Serve, connect: Connect, shelf: Any, small: dict[str, Any]
) -> None:
    """Messages, topics, numbering and publishers are there again: what is sent again is
    acknowledged and not kept twice."""
    first = serve_shelf(**small)
    publisher = connect(first)
    publisher.open(id=b"p" * 16)
    fill(publisher, numbered(3000), ["a", "b"])
    publisher.close()
    first.close()
    assert shelf.closed

    again = serve_shelf(**small)
    publisher = connect(again)
    assert publisher.open(id=b"p" * 16) == 3000
    publisher.acked(publisher.publish("a", *numbered(3000)[2950:], b"new", first=2951))
    (stream,) = again.streams()
    assert (stream["messages"], stream["last_sequence"], stream["topics"]) == (3001, 3001, 2)
    reader = connect(again)
    reader.subscribe(">", start="earliest")
    assert reader.payloads(3001) == [*numbered(3000), b"new"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("restart", [True, False])
def test_damage_is_a_gap(
    serve_shelf: Serve,
    connect: Connect,
    shelf: Any,
    small: dict[str, Any],
    known: bool,
    restart: bool,
) -> None:
    """Messages that the log has lost, or gives with a wrong byte, are reported with their sequences; the rest
    is served."""
    broker = serve_shelf(**small)
    publisher = connect(broker)
    publisher.open()
    payloads = numbered(4000)
    fill(publisher, payloads, ["a", "b"])
    row = shelf.rows[3]
    (shelf.holes if known else shelf.damaged).add(row.first_sequence)
    if restart:
        publisher.close()
        broker.close()
        broker = serve_shelf(**small)
    reader = connect(broker)
    reader.subscribe(">", 1, start="earliest")
    reader.subscribe("a", 2, start="earliest")

    first = row.first_sequence if known else row.next_sequence - 1  # the wrong byte is in the last
    lost = set(range(first, row.next_sequence))
    kept = [n for n in range(1, 4001) if n not in lost]
    topic = ["ab"[n // 50 % 2] for n in range(4000)]
    mine = [n for n in kept if topic[n - 1] == "a"]
    reader.received(len(kept) + len(mine))
    for subscription, sequences in ((1, kept), (2, mine)):
        got = [x.sequence for x in reader.messages if x.subscription == subscription]
        assert got == sequences
        gap = reader.expect(m.Gap, lambda gap, number=subscription: gap.subscription == number)
        assert (gap.first, gap.last) == (first, row.next_sequence - 1)
        assert gap.reason == "damaged"


def test_what_retention_took_is_a_gap(
    serve_shelf: Serve, connect: Connect, shelf: Any, small: dict[str, Any]
) -> None:
    """A start before the oldest message is told what has gone, and goes on from there."""
    broker = serve_shelf(**small)
    publisher = connect(broker)
    publisher.open()
    fill(publisher, numbered(4000), ["a"])
    oldest = shelf.rows[4].first_sequence
    shelf.drop(4)
    reader = connect(broker)
    reader.subscribe(">", 1, start=m.Start(at="sequence", sequence=2))

    gap = reader.expect(m.Gap)
    assert (gap.first, gap.last, gap.reason) == (2, oldest - 1, "retention")
    assert [x.sequence for x in reader.received(4001 - oldest)] == list(range(oldest, 4001))
    until(lambda: broker.streams()[0]["first_sequence"] == oldest)


@pytest.mark.parametrize("error", [StorageFailed("no cable"), ZeroDivisionError("a defect")])
def test_a_log_that_cannot_be_read(
    serve_shelf: Serve, connect: Connect, shelf: Any, small: dict[str, Any], error: Exception
) -> None:
    """A client that asks for old messages is told; one that needs only new ones is served, and publishers too."""
    broker = serve_shelf(**small)
    publisher, live, old = connect(broker), connect(broker), connect(broker)
    publisher.open()
    fill(publisher, numbered(4000), ["a"])
    live.subscribe(">")
    shelf.read_error = error
    start = m.Start(at="earliest")
    old.send(old.protocol.subscribe(1, ">", start=start, durable=None, kind="pattern"))

    told = old.expect(m.Error)
    assert told.code == "storage_failed"
    assert str(error) in told.message
    old.until_end()
    publisher.acked(publisher.publish("a", b"new"))
    assert live.payloads(1) == [b"new"]


def test_a_slow_log_holds_publishers_up(
    serve_shelf: Serve,
    connect: Connect,
    shelf: Any,
    small: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With much unconfirmed, publishers are read from no more instead of being refused; when the
    log has caught up they are, and nothing is missing."""
    monkeypatch.setattr(syncs, "CHOKE_BYTES", 64 << 10)
    shelf.later = True
    broker = serve_shelf(**small)
    publisher = connect(broker)
    publisher.open()
    payloads = numbered(20_000)
    batches = [publisher.batch("a", payloads[n : n + 20]) for n in range(0, len(payloads), 20)]
    data = memoryview(b"".join(batches))

    taken, stuck = 0, 0
    while data:
        count = publisher.channel.send([data])
        data = data[count:]
        publisher.take()
        stuck = 0 if count else stuck + 1
        if not count:
            publisher.channel.wait(readable=True, writable=True, timeout_ns=20_000_000)
        if stuck > 2:
            taken = max(taken, sum(len(row.frames) for row in shelf.waiting))
            shelf.complete()
    until(lambda: shelf.complete() or sum(r.messages for r in shelf.rows) == len(payloads))

    publisher.acked(len(payloads))
    assert 0 < taken < 3 << 20
    assert not [e for e in publisher.events if isinstance(e, m.Error)]
    reader = connect(broker)
    shelf.later = False
    reader.subscribe(">", start="earliest")
    assert reader.payloads(len(payloads)) == payloads


def test_what_could_not_be_kept_is_said_at_the_end(
    serve_shelf: Serve, connect: Connect, shelf: Any
) -> None:
    """A broker that stops with messages that its log never took says how many; none of them was
    acknowledged."""
    broker = serve_shelf(limits={"stop": "100ms"})
    publisher = connect(broker)
    publisher.open()
    shelf.full = True
    publisher.publish("a", b"x", b"y")
    publisher.settle()
    publisher.close()

    with pytest.raises(StorageFull, match="2 messages of stream 'default'"):
        broker.close()
    shelf.full = False


@pytest.mark.parametrize("wrong", ["first", "order"])
def test_a_log_that_contradicts_itself_is_refused(
    serve_shelf: Serve, connect: Connect, shelf: Any, wrong: str
) -> None:
    """Sequences that are missing without a hole are damage that no reader could be told of: the
    broker does not start."""
    publisher = connect(broker := serve_shelf())
    publisher.open()
    for number in range(5):
        publisher.acked(publisher.publish("a", b"%d" % number))
    publisher.close()
    broker.close()
    row = shelf.rows[0 if wrong == "first" else 2]
    shelf.rows[0 if wrong == "first" else 2] = row._replace(first_sequence=row.first_sequence - 1)

    with pytest.raises(StorageDamaged):
        serve_shelf()


def test_any_interleaving(
    serve_shelf: Serve, connect: Connect, shelf: Any, small: dict[str, Any]
) -> None:
    """Whenever appends complete, and whichever reader comes when: every reader gets each message of its
    filter once, in order, and nothing before it is confirmed."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    chance = random.Random(seed)
    shelf.later = True
    broker = serve_shelf(**small)
    publisher = connect(broker)
    publisher.open()
    topics: list[str] = []
    readers: list[tuple[Any, str, int]] = []
    for step in range(400):
        what = chance.random()
        if what < 0.55:
            topic = chance.choice(["a.b", "a.c", "x", f"t.{step % 7}"])
            count = chance.choice([1, 2, 30])
            publisher.publish(topic, *[b"%d" % (len(topics) + i) * 40 for i in range(count)])
            topics += [topic] * count
        elif what < 0.9:
            shelf.complete(chance.randrange(1, 6))
        elif len(readers) < 12:
            client = connect(broker)
            pattern = chance.choice([">", "a.*", "x", "t.>"])
            client.subscribe(pattern, start="earliest")
            readers.append((client, pattern, 0))
        else:
            client, _, _ = chance.choice(readers)
            client.settle()
            confirmed = shelf.status().next_sequence
            assert all(x.sequence < confirmed for x in client.messages)
    until(lambda: shelf.complete() or shelf.status().next_sequence == len(topics) + 1)
    publisher.acked(len(topics))

    for client, pattern, _ in readers:
        head = pattern.rstrip("*>")
        wanted = [n + 1 for n, topic in enumerate(topics) if topic.startswith(head)]
        client.received(len(wanted))
        assert [x.sequence for x in client.messages] == wanted
        assert [x.payload for x in client.messages] == [b"%d" % (n - 1) * 40 for n in wanted]
