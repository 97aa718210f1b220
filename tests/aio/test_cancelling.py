"""Tasks that are cancelled, at every await of every call: each message once, in order, and never in doubt.

A call runs in a task of its own, which is cancelled after a few turns of the loop, at random: before it has
begun, at any of its awaits, in the moment in which it returns, or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import hermes
from hermes import aio
from hermes.native.outbox import CAPACITY_MIN
from tests.aio.conftest import TRANSPORTS, Run, listener, until
from tests.effort import effort

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TURNS_MAX = 6
"""Turns of the loop before a task is cancelled: no call here awaits more often while nothing comes."""
SENT_AT_ONCE = 7
CANCELLED = object()


class Canceller:
    """Cancels at random, from a seed that a failure shows."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cancelled = self.calls = 0

    def goes_on(self, count: int) -> bool:
        """Whether fewer than ``count`` calls were made, or too few of them cancelled: how many end before is
        the machine's."""
        return self.calls < count or self.cancelled <= count / 4

    async def __call__(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of ``call``, or CANCELLED."""
        task = asyncio.ensure_future(call)
        self.calls += 1
        for _ in range(self.random.randrange(TURNS_MAX)):
            await asyncio.sleep(0)
        if self.random.random() < 0.8:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            self.cancelled += 1
            return CANCELLED


@pytest.fixture(params=TRANSPORTS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a broker, of each transport."""
    where = listener(request.param, "cancelling")
    with hermes.Broker(listeners=[where, "tcp://127.0.0.1:0"], storage="memory:") as broker:
        yield broker.url


@asynccontextmanager
async def feeding(client: aio.Client) -> AsyncIterator[None]:
    """Numbers are published, a few at a time, until the end of the block."""
    publisher = await client.publisher("numbers")

    async def feed() -> None:
        number = 0
        while True:
            batch = [b"%d" % (number + i) for i in range(SENT_AT_ONCE)]
            await publisher.send_many(batch)
            number += SENT_AT_ONCE
            await publisher.flush()

    feeding = asyncio.ensure_future(feed())
    try:
        yield
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
        await publisher.close()


def test_a_cancelled_consumer_loses_nothing(url: str, run: Run) -> None:
    """`receive`, `async for` and `batches` return each message once and in order, whatever was cancelled
    before."""
    count = effort(800, 30_000)
    cancel = Canceller(seed=count)

    async def take(subscription: aio.Subscription) -> list[int]:
        way = cancel.random.randrange(4)
        if way == 0:
            return [int((await subscription.receive()).payload)]
        if way == 1:
            return [int((await subscription.receive(timeout=60)).payload)]
        if way == 2:
            return [int((await anext(subscription.messages())).payload)]
        return [int(bytes(view)) for view in (await anext(subscription.batches())).payloads()]

    async def main() -> None:
        async with aio.connect(url) as client, aio.connect(url) as other:
            async with client.subscribe("numbers") as subscription, feeding(other):
                expected = 0
                while cancel.goes_on(count):
                    found = await cancel(take(subscription))
                    if found is not CANCELLED:
                        assert found == list(range(expected, expected + len(found)))
                        expected += len(found)
                        assert subscription.positions["default"] == expected
            assert client._connection._waiters == {}
        assert expected > 0

    run(main())
    assert cancel.cancelled > count / 4


def test_a_cancelled_sender_is_in_no_doubt(url: str, run: Run) -> None:
    """A `send` that was cancelled was not taken, a `send_many` was up to `sent`: with every number sent
    until it is taken, the log has each once, in order."""
    count = effort(800, 30_000)
    cancel = Canceller(seed=count)

    async def main() -> int:
        async with aio.connect(url) as client:
            publisher = await client.publisher("numbers", window=CAPACITY_MIN)
            taken = 0
            while cancel.goes_on(count):
                before = publisher.sent
                assert before == taken
                if cancel.random.random() < 0.5:
                    size = CAPACITY_MIN // 3
                    found = await cancel(publisher.send(b"%d" % taken + b" " * size))
                    assert publisher.sent == before + (found is not CANCELLED)
                    taken = publisher.sent
                else:
                    many = [b"%d" % (taken + i) + b" " * 9000 for i in range(SENT_AT_ONCE)]
                    found = await cancel(publisher.send_many(many))
                    taken = publisher.sent
                    assert found in (CANCELLED, taken)
                if cancel.random.random() < 0.1:
                    await cancel(publisher.flush())
            await publisher.close()
            subscription = await client.subscribe("numbers", start="earliest", on_gap="skip")
            numbers = []
            while not numbers or numbers[-1] != taken - 1:
                numbers.append(int((await subscription.receive(30)).payload))
            await subscription.close()
            assert numbers == list(range(numbers[0], taken))
            assert (await client.streams())[0]["last_sequence"] == taken
            return taken

    assert run(main()) > count / 10
    assert cancel.cancelled > count / 10


def test_cancelled_requests_leave_nothing_behind(url: str, run: Run) -> None:
    """Every other call, cancelled, leaves no publisher, subscription, question or waiter behind, neither
    here nor in the broker; the client goes on."""
    count = effort(400, 10_000)
    cancel = Canceller(seed=count)

    async def publish(client: aio.Client) -> None:
        who = bytes(16) if cancel.random.random() < 0.3 else None
        async with client.publisher("numbers", publisher_id=who) as publisher:
            await publisher.send(b"0")

    async def subscribe(client: aio.Client) -> None:
        async with client.subscribe("numbers", start="earliest") as subscription:
            await subscription.receive()

    async def commit(client: aio.Client) -> None:
        name = f"d{cancel.calls % 50}"
        async with client.subscribe("numbers", durable=name, start="earliest") as subscription:
            await subscription.receive()
            await subscription.commit()

    async def forget(client: aio.Client) -> None:
        with contextlib.suppress(hermes.Refused):  # one that is in use
            await client.forget_durable(f"d{cancel.calls % 50}")

    calls: list[Callable[[aio.Client], Coroutine[Any, Any, object]]] = [
        publish,
        subscribe,
        commit,
        lambda client: client.ping(),
        lambda client: client.streams(),
        lambda client: client.durables(),
        forget,
    ]

    async def main() -> None:
        async with aio.connect(url, name="ours") as client:
            async with client.publisher("numbers") as publisher:
                await publisher.send(b"first")
            while cancel.goes_on(count):
                await cancel(cancel.random.choice(calls)(client))
            session = client._connection.session
            await until(lambda: not session.lines and not session.feeds)
            assert (session.answers, session.pings) == ({}, set())
            assert client._connection._waiters == {}
            ours = next(row for row in (await client.stats())["clients"] if "ours" in str(row))
            assert (ours["publishers"], ours["subscriptions"]) == (0, 0)

    run(main())
    assert cancel.cancelled > count / 4


def test_cancelled_connections_are_closed(broker: hermes.Broker, run: Run) -> None:
    """A `connect` that was cancelled at any moment leaves no connection behind."""
    count = effort(200, 3_000)
    cancel = Canceller(seed=count)

    async def connect(url: str) -> None:
        async with aio.connect(url):
            await asyncio.sleep(0)

    async def main() -> None:
        async with aio.connect(broker.url) as observer:
            while cancel.goes_on(count):
                await cancel(connect(broker.url))
            while len((await observer.stats())["clients"]) > 1:
                await asyncio.sleep(0.01)

    run(main())
    assert cancel.cancelled > count / 4


def test_a_cancelled_close_goes_on(broker: hermes.Broker, run: Run) -> None:
    """Closing a client is not cut short by one cancellation, which is raised when all is acknowledged."""

    async def main() -> None:
        for turns in range(1, 8):
            client = await aio.connect(broker.url)
            publisher = await client.publisher("a")
            await publisher.send_many([b"x"] * 1000)
            closing = asyncio.ensure_future(client.close())
            for _ in range(turns):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
            assert client.closed
            assert publisher.sent == publisher.acked
            await publisher.close()
        async with aio.connect(broker.url) as client:
            assert (await client.streams())[0]["last_sequence"] == 7000

    run(main())


def test_a_second_cancellation_ends_the_connection(
    broker: hermes.Broker, wire: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that cancels again does not wait for a broker that does not answer; what is missing is logged."""

    async def main() -> None:
        client = await aio.connect(wire.url)
        publisher = await client.publisher("a")
        wire.hold("up")
        await publisher.send(b"x")
        closing = asyncio.ensure_future(client.close(timeout=1000))
        for _ in range(2):
            await asyncio.sleep(0.02)
            assert not closing.done()
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert client.closed
        publisher._closed = True  # it is told of already

    run(main())
    assert "1 messages of the publisher of 'a'" in caplog.text
