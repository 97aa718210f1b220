"""Things that threads share: one subscription, one publisher, one client, with the interleavings that hurt."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hermes
from hermes.client.publisher import LOOK_EVERY
from hermes.errors import ConnectionLost, Timeout
from hermes.native.outbox import Outbox
from tests.client.conftest import Wire


def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@contextlib.contextmanager
def held_by_another_thread(client: hermes.Client) -> Iterator[None]:
    """The client's lock is."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with client._connection.locked(None):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_what_one_thread_has_read_wakes_another(client: hermes.Client, other: hermes.Client):
    """One of two threads that wait on one subscription reads; a batch it reads is for both."""
    subscription = client.subscribe("md.a")
    found: list[bytes] = []

    def consume() -> None:
        found.append(subscription.receive(60).payload)

    reader, sleeper = threading.Thread(target=consume), threading.Thread(target=consume)
    reader.start()
    until(lambda: not client._connection._reading.free)
    sleeper.start()
    until(lambda: len(client._connection._sleepers) == 1)

    with other.publisher("md.a") as publisher:
        publisher.send_many([b"1", b"2"])
    reader.join(60)
    sleeper.join(60)

    assert sorted(found) == [b"1", b"2"]
    assert subscription.positions == {"default": 2}
    sleeper.join(60)


def test_a_batch_takes_what_other_threads_have_left(client: hermes.Client, other: hermes.Client):
    """Messages that were taken one by one and the batch of the rest have nothing in common, and
    nothing between them."""
    with other.publisher("md.a") as publisher:
        publisher.send_many([b"%d" % i for i in range(10)])
    subscription = client.subscribe("md.a", start="earliest")
    single = [subscription.receive(60).payload for _ in range(4)]

    batch = next(subscription.batches(10))

    together = [bytes(payload) for payload in batch.payloads()]
    assert single + together == [b"%d" % i for i in range(10)]
    assert subscription.positions == {"default": 10}


def test_nothing_is_settled_beside_the_lock(client: hermes.Client, monkeypatch: pytest.MonkeyPatch):
    """An outbox is told of acknowledgements by one thread at a time: the one that has the lock."""
    publisher = client.publisher("md.a", ack="none")
    beside: list[int] = []
    ack = Outbox.ack

    def watched(outbox: Outbox, sequence: int) -> bool:
        if not client._connection.busy_here or busy.is_set():
            beside.append(sequence)
        return ack(outbox, sequence)

    monkeypatch.setattr(Outbox, "ack", watched)
    busy = threading.Event()
    with client._connection.locked(None):  # as a thread that settles has it
        busy.set()
        assert publisher.acked == 0
        for _ in range(LOOK_EVERY + 1):
            publisher.send(b"x")
        busy.clear()

    assert publisher.acked == LOOK_EVERY + 1
    publisher.flush()
    assert beside == []


def test_an_abandoned_publisher_is_settled_under_the_lock(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
):
    """The message about a connection that is given up is found out with the lock held too."""
    client = hermes.connect(wire.url, reconnect=False)
    publisher, left = client.publisher("md.a", ack="none"), client.publisher("md.b", ack="none")
    wire.cut()
    with pytest.raises(ConnectionLost):
        client.ping()
    held: list[bool] = []
    ack = Outbox.ack

    def watched(outbox: Outbox, sequence: int) -> bool:
        held.append(client._connection.busy_here)
        return ack(outbox, sequence)

    monkeypatch.setattr(Outbox, "ack", watched)

    publisher.close()
    client.close()

    assert left.sent == 0
    assert held
    assert all(held)


def test_a_timeout_over_the_lock_says_whether_the_message_was_taken(wire: Wire):
    """send() that gives up because other threads have the client says what became of its message."""
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a", window=1 << 16)
        client.ping()
        wire.refusing = True
        wire.cut()
        with pytest.raises(Timeout):
            client.ping(timeout=0.2)  # by now the loss is known
        with held_by_another_thread(client):
            with pytest.raises(Timeout, match=r"message 1 was taken .* other threads held"):
                publisher.send(bytes(60_000), timeout=0.01)
            with pytest.raises(Timeout, match="the message was not taken: other threads held"):
                publisher.send(bytes(60_000), timeout=0.01)
            with pytest.raises(Timeout, match="0 of 2 messages were taken: other threads held"):
                publisher.send_many([bytes(60_000)] * 2, timeout=0.01)
        wire.refusing = False
        publisher.flush()

        assert publisher.acked == 1


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("call", [1, 2])
def test_room_that_came_before_anybody_waited_for_it_is_found(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, call: int, many: bool
):
    """A full window that another thread empties right before the publisher begins to wait, or when it
    has waited once already, is no obstacle."""
    with hermes.connect(wire.url) as client:
        publisher = client.publisher("md.a", window=1 << 16)
        client.ping()
        wait, calls = publisher._room, []

        def emptied_just_before(*arguments: Any, **named: Any) -> Any:
            calls.append(publisher.sent)
            if len(calls) == call:
                wire.let_go()
                until(lambda: publisher.acked == publisher.sent)
            return wait(*arguments, **named)

        monkeypatch.setattr(publisher, "_room", emptied_just_before)
        wire.hold("down")

        if many:
            publisher.send_many([bytes(20_000)] * 4, timeout=2)
        else:
            for _ in range(4):
                publisher.send(bytes(20_000), timeout=2)

        assert calls == [3] * call
        assert client.streams()[0]["messages"] == 4


def test_threads_share_a_publisher_without_acknowledgements(client: hermes.Client):
    """Threads that look at ``acked`` while another sends: the history is freed once, and wholly."""
    count = 3000
    publisher = client.publisher("md.a", ack="none", window=1 << 16)
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            assert publisher.acked <= count

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(count):
        publisher.send(bytes(2000))
    done.set()
    for thread in threads:
        thread.join(60)
    publisher.flush()

    assert publisher.acked == publisher.sent == count
    assert publisher._outbox.queued_bytes == 0


def test_a_subscription_is_consumed_by_several_threads(client: hermes.Client, other: hermes.Client):
    """Threads that take messages and batches of one subscription get each message once."""
    count = 3000
    subscription = client.subscribe("md.a")
    publisher = other.publisher("md.a")
    found: list[bytes] = []
    problems: list[BaseException] = []

    def singly() -> None:
        while len(found) < count:
            found.append(subscription.receive(0.5).payload)

    def by_batch() -> None:
        for batch in subscription.batches(0.5):
            found.extend(bytes(payload) for payload in batch.payloads())

    def run(consume: Callable[[], None]) -> None:
        try:
            consume()
        except Timeout:
            pass
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=(way,)) for way in (singly, singly, by_batch)]
    for thread in threads:
        thread.start()
    for i in range(0, count, 10):
        publisher.send_many([b"%d" % k for k in range(i, i + 10)])
    for thread in threads:
        thread.join(60)

    assert problems == []
    assert sorted(found, key=int) == [b"%d" % i for i in range(count)]
