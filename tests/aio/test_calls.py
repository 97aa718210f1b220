"""Every call of the asynchronous client, over each transport that a client can dial."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import warnings
from collections.abc import AsyncIterable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

import hermes
from hermes import aio
from hermes.errors import Closed, UsageError, WrongType
from tests.aio.conftest import TRANSPORTS, Run, listener, until

pytestmark = pytest.mark.slow

TICK = np.dtype([("price", "f8"), ("size", "i8")])
Serve = Callable[..., hermes.Broker]


@pytest.fixture(params=TRANSPORTS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a broker, of each transport."""
    where = listener(request.param, "calls")
    with hermes.Broker(listeners=[where, "tcp://127.0.0.1:0"], storage="memory:") as broker:
        yield broker.url


async def drain(things: AsyncIterable[object]) -> None:
    """Iterate to the end."""
    async for _ in things:
        pass


async def send_and_flush(publisher: aio.Publisher) -> None:
    """Send one message, and wait for its acknowledgement."""
    await publisher.send(b"x")
    await publisher.flush()


async def flood(publisher: aio.Publisher) -> None:
    """Send for as long as there is room."""
    while True:
        await publisher.send(bytes(1000), timeout=0.05)


def test_messages_come_in_order(url: str, run: Run) -> None:
    """Messages sent by each kind of call are received by each kind of call, once and in order."""

    async def main() -> None:
        async with aio.connect(url) as client, client.subscribe("md.>") as subscription:
            async with client.publisher("md.a") as publisher:
                assert await publisher.send(b"0") == 1
                assert await publisher.send(b"1", "md.b", timestamp_ns=7) == 2
                assert await publisher.send_many([b"2", b"3"]) == 4
                await publisher.flush()
                assert publisher.acked == publisher.sent == 4
            first = await subscription.receive(timeout=30)
            second = await anext(subscription.messages(timeout=30))
            rest = []
            async for batch in subscription.batches(timeout=30):
                rest += batch.payloads()
                if len(rest) == 2:
                    break

        assert (first.payload, first.topic) == (b"0", "md.a")
        assert (second.payload, second.topic, second.timestamp_ns) == (b"1", "md.b", 7)
        assert [bytes(view) for view in rest] == [b"2", b"3"]

    run(main())


def test_rows_come_back_as_rows(url: str, run: Run) -> None:
    """Records of an array arrive as records of an array; passed on as frames they are the same."""
    ticks = np.zeros(5000, TICK)
    ticks["size"] = np.arange(5000)

    async def rows_of(subscription: aio.Subscription) -> Any:
        parts = []
        async for batch in subscription.batches(timeout=30):
            parts.append(batch.rows(TICK).copy())
            if sum(map(len, parts)) == len(ticks):
                return np.concatenate(parts), batch
        raise AssertionError

    async def main() -> None:
        async with aio.connect(url) as client, client.publisher() as publisher:
            ours = await client.subscribe("ticks.a")
            copies = await client.subscribe("copy.>")
            assert await publisher.send_rows(ticks, "ticks.a") == 5000
            found, last = await rows_of(ours)
            assert (found == ticks).all()
            await publisher.send_frames(last.frames)
            async with client.publisher("copy.b") as other:
                await other.send_rows(ticks)
            assert (await rows_of(copies))[0]["size"].sum() == ticks["size"].sum()
            await ours.close()
            await copies.aclose()

    run(main())


async def pass_much(url: str) -> None:
    """Fifty megabytes go to the broker and come back, far more than any socket holds."""
    async with (
        aio.connect(url, timeout=60) as client,
        client.subscribe("big") as subscription,
        client.publisher("big", window=4 << 20) as publisher,
    ):

        async def publish() -> None:
            for i in range(50):
                await publisher.send(b"%d" % i + bytes(1 << 20))

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            for i in range(50):
                message = await subscription.receive(60)
                assert int(message.payload.rstrip(b"\0")) == i
                assert len(message.payload) > 1 << 20


def test_much_passes_both_ways(url: str, run: Run) -> None:
    """Large messages pass while the socket is full in both directions."""
    run(pass_much(url))


@pytest.mark.parametrize("transport", ["udp", "zmq+tcp"])
def test_a_channel_without_a_descriptor_is_looked_at(
    transport: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a transport that gives an event loop nothing to watch everything works all the same."""
    monkeypatch.setattr("hermes.aio.watch.watch_fd_of", lambda _channel: None)
    where = listener(transport, "")
    with hermes.Broker(listeners=[where, "tcp://127.0.0.1:0"], storage="memory:") as broker:
        run(pass_much(broker.url))


def test_the_broker_answers(url: str, run: Run) -> None:
    """Each question has the answer that the synchronous client gets."""

    async def main() -> None:
        async with aio.connect(url, name="asker") as client:
            async with client.publisher("a.b") as publisher:
                await publisher.send(b"x")
            assert 0 < await client.ping() < 60
            assert [row["name"] for row in await client.streams()] == ["default"]
            assert [row["topic"] for row in await client.topics("a.*", stream="default")] == ["a.b"]
            assert "connections" in str(await client.stats())
            assert await client.query("config")
            async with client.subscribe("a.>", durable="d", start="earliest") as durable:
                await durable.receive(30)
                await durable.commit()
                await durable.commit({"default": 1}, timeout=30)
            assert [row["name"] for row in await client.durables()] == ["d"]
            assert await client.forget_durable("d")
            assert client.connected
            assert client.limits["message_max"] > 0
            assert str(client.url) == url
            client.timeout = 7
            assert client.timeout == 7.0
            assert "connected" in repr(client)
        assert client.closed
        assert not client.connected

    run(main())


def test_a_durable_name_goes_on_where_it_was(url: str, run: Run) -> None:
    """The second subscription of a name begins behind the first one's commit."""

    async def main() -> None:
        async with aio.connect(url) as client, client.publisher("jobs.a") as publisher:
            await publisher.send_many([b"%d" % i for i in range(10)])
            await publisher.flush()
            async with client.subscribe("jobs.>", durable="w", start="earliest") as worker:
                for _ in range(4):
                    await worker.receive(30)
                await worker.commit()
                assert worker.positions["default"] == 4
            async with client.subscribe("jobs.>", durable="w", start="earliest") as worker:
                assert (await worker.receive(30)).payload == b"4"

    run(main())


def test_a_publisher_with_a_linger_sends_by_itself(broker: hermes.Broker, run: Run) -> None:
    """A message that lingers leaves without another call."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.subscribe("a") as subscription:
            publisher = await client.publisher("a", linger=0.01)
            await publisher.send(b"soon")
            assert (await subscription.receive(30)).payload == b"soon"
            await publisher.aclose()

    run(main())


def test_starts_are_those_of_the_synchronous_client(broker: hermes.Broker, run: Run) -> None:
    """A subscription begins at a word, a sequence, a time or positions."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.publisher("a") as publisher:
            await publisher.send_many([b"1", b"2", b"3"])
            await publisher.flush()
            starts: list[Any] = ["earliest", 1, datetime(2000, 1, 1, tzinfo=UTC), {"default": 0}]
            for start in starts:
                async with client.subscribe("a", start=start) as subscription:
                    assert (await subscription.receive(30)).payload == b"1"
            async with client.subscribe("a", start="last") as subscription:
                assert (await subscription.receive(30)).payload == b"3"

    run(main())


def test_a_subscription_is_opened_by_iterating_it(broker: hermes.Broker, run: Run) -> None:
    """``async for message in client.subscribe(...)`` reads as it does without async."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.publisher("a") as publisher:
            await publisher.send_many([b"1", b"2"])
            found = []
            opening = client.subscribe("a", start="earliest")
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                async for message in opening:
                    found.append(message.payload)
                    if len(found) == 2:
                        break
                await until(lambda: not client._connection.session.feeds)
            assert ["a subscription of" in str(one.message) for one in told] == [True]
            with pytest.raises(UsageError, match="opened already"):
                await opening
        assert found == [b"1", b"2"]

    run(main())


def test_gaps_are_told(serve: Serve, run: Run) -> None:
    """Messages that retention has removed are a gap: raised once, skipped, or given to a function."""
    broker = serve(retention="4MiB", segment="1MiB")
    told: list[hermes.Gap] = []

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.publisher("a") as publisher:
            await publisher.send_many([bytes(1000)] * 20_000)
            await publisher.flush()
            first = (await client.streams())[0]["first_sequence"]
            async with client.subscribe("a", start={"default": 0}) as subscription:
                with pytest.raises(hermes.GapDetected, match="retention") as found:
                    await subscription.receive(30)
                assert found.value.last == first - 1
                assert (await subscription.receive(30)).sequence == first
            async with client.subscribe("a", start={"default": 0}, on_gap="skip") as subscription:
                assert (await subscription.receive(30)).sequence == first
            async with client.subscribe(
                "a", start={"default": 0}, on_gap=told.append
            ) as subscription:
                await anext(subscription.batches(timeout=30))
        assert [(gap.first, gap.last) for gap in told] == [(1, first - 1)]

    run(main())


def test_wrong_arguments_are_refused_where_they_are_passed(broker: hermes.Broker, run: Run) -> None:
    """An argument that cannot work raises before anything is awaited, and names itself."""

    async def none(_gap: hermes.Gap) -> None: ...

    async def main() -> None:
        with pytest.raises(UsageError, match="timeout"):
            aio.connect(timeout=float("nan"))
        with pytest.raises(UsageError, match="spin"):
            aio.connect(spin=0.1)
        async with aio.connect(broker.url) as client:
            for wrong in (
                lambda: client.publisher("a..b"),
                lambda: client.publisher("a", ack="disk"),  # type: ignore[arg-type]
                lambda: client.publisher("a", timeout="1"),  # type: ignore[arg-type]
                lambda: client.subscribe(b"a"),  # type: ignore[arg-type]
                lambda: client.subscribe("a", start=-1),
                lambda: client.subscribe("a", timeout=float("nan")),
            ):
                with pytest.raises(UsageError):
                    wrong()
            with pytest.raises(WrongType, match="coroutine"):
                client.subscribe("a", on_gap=none)
            async with client.publisher("a") as publisher, client.subscribe("a") as subscription:
                with pytest.raises(WrongType, match="topic takes a str"):
                    await publisher.send("a", b"x")  # type: ignore[arg-type]
                with pytest.raises(WrongType, match="encode"):
                    await publisher.send("text")  # type: ignore[arg-type]
                with pytest.raises(UsageError, match="timeout"):
                    await subscription.receive("1")  # type: ignore[arg-type]
                with pytest.raises(UsageError, match="timeout"):
                    subscription.messages(float("nan"))
                with pytest.raises(UsageError, match="durable"):
                    await subscription.commit()
                assert await publisher.send(np.arange(3)) == 1  # a buffer that is no bytes

    run(main())


def test_what_is_closed_says_so(broker: hermes.Broker, run: Run) -> None:
    """Loops over a closed subscription end; calls on what is closed raise Closed."""

    async def main() -> None:
        client = await aio.connect(broker.url)
        publisher, subscription = await client.publisher("a"), await client.subscribe("a")
        await subscription.close()
        assert [message async for message in subscription] == []
        assert [batch async for batch in subscription.batches()] == []
        with pytest.raises(Closed):
            await subscription.receive(1)
        await publisher.close()
        await publisher.close()
        with pytest.raises(Closed):
            await publisher.send(b"x")
        await client.close()
        await client.aclose()
        with pytest.raises(Closed):
            await client.ping()
        with pytest.raises(Closed):
            client.publisher("a")

    run(main())


def test_closing_ends_what_waits(broker: hermes.Broker, run: Run) -> None:
    """A loop over a subscription ends, and a call raises Closed, when the client is closed."""

    async def main() -> None:
        client = await aio.connect(broker.url)
        one, two = await client.subscribe("a"), await client.subscribe("b")

        async def loop() -> list[hermes.Message]:
            return [message async for message in one]

        looping, waiting = asyncio.create_task(loop()), asyncio.create_task(two.receive())
        await until(lambda: len(client._connection._waiters) == 2)
        await client.close()

        assert await looping == []
        with pytest.raises(Closed):
            await waiting

    run(main())


def test_timeouts_are_both_worlds(broker: hermes.Broker, run: Run) -> None:
    """``timeout=`` and ``asyncio.timeout`` both end a wait, and the subscription goes on."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.subscribe("a") as subscription:
            for timeout in (0, -1, 0.02):
                with pytest.raises(hermes.Timeout, match="'a'"):
                    await subscription.receive(timeout)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(drain(subscription), 0.02)
            with pytest.raises(hermes.Timeout):
                await drain(subscription.batches(timeout=0.02))
            async with client.publisher("a") as publisher:
                await publisher.send(b"x")
            assert (await subscription.receive(30)).payload == b"x"

    run(main())


def test_a_timeout_of_nothing_takes_what_is_there(broker: hermes.Broker, run: Run) -> None:
    """``receive(timeout=0)`` in a loop, which awaits nothing else, gets what arrives."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.subscribe("a") as subscription:
            publisher = await client.publisher("a")
            await publisher.send(b"x")
            while True:
                with contextlib.suppress(hermes.Timeout):
                    message = await subscription.receive(timeout=0)
                    break
            assert message.payload == b"x"
            await publisher.close()

    run(main())


def test_a_task_group_takes_its_tasks_along(broker: hermes.Broker, run: Run) -> None:
    """When one task of a group fails the others end, and close what they had."""

    async def main() -> None:
        async with aio.connect(broker.url) as client:

            async def consume() -> None:
                async with client.subscribe("a") as subscription, client.publisher("b"):
                    async for _ in subscription:
                        pass

            async def fail() -> None:
                await until(lambda: len(client._connection._waiters) == 3)
                raise LookupError

            async def together() -> None:
                async with asyncio.TaskGroup() as group:
                    for _ in range(3):
                        group.create_task(consume())
                    group.create_task(fail())

            with pytest.raises(ExceptionGroup) as raised:
                await together()
            assert raised.group_contains(LookupError)
            session = client._connection.session
            await until(lambda: not session.feeds and not session.lines)
            assert await client.ping() < 60

    run(main())


def test_aclosing_closes(broker: hermes.Broker, run: Run) -> None:
    """contextlib.aclosing() works on all three."""

    async def main() -> None:
        async with contextlib.aclosing(await aio.connect(broker.url)) as client:
            async with contextlib.aclosing(await client.publisher("a")) as publisher:
                await publisher.send(b"x")
            assert publisher.closed
            async with contextlib.aclosing(await client.subscribe("a")):
                pass
        assert client.closed

    run(main())


def test_many_tasks_share_a_subscription(broker: hermes.Broker, run: Run) -> None:
    """Each message goes to one of the tasks that wait."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.subscribe("a") as subscription:
            found: list[int] = []

            async def consume() -> None:
                while len(found) < 1000:
                    with contextlib.suppress(hermes.Timeout):
                        found.append(int((await subscription.receive(0.05)).payload))

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(consume())
                publisher = await client.publisher("a")
                for i in range(1000):
                    await publisher.send(b"%d" % i)
                    if i % 50 == 0:
                        await asyncio.sleep(0)
            assert found == list(range(1000))
            await publisher.close()

    run(main())


def test_a_full_window_waits_for_the_broker(broker: hermes.Broker, wire: Any, run: Run) -> None:
    """With a broker that does not read, `send` waits, says that the message was not taken, and goes on
    when there is room; other tasks run meanwhile."""

    async def main() -> None:
        async with aio.connect(wire.url, timeout=30) as client:
            publisher = await client.publisher("a", window=1 << 16)
            wire.hold("up")
            with pytest.raises(hermes.Timeout) as raised:
                await flood(publisher)
            assert not raised.value.taken
            assert raised.value.queued == publisher.sent
            with pytest.raises(hermes.Timeout) as raised:
                await publisher.send_many([bytes(1000)] * 100, timeout=0.05)
            assert raised.value.taken == 0
            with pytest.raises(hermes.Timeout, match="flush"):
                await publisher.flush(0.05)
            waiting = asyncio.create_task(publisher.send_many([b"%d" % i for i in range(50_000)]))
            other = asyncio.create_task(publisher.send_many([b"other"]))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert not other.done()
            wire.let_go()
            first, second = await waiting, await other
            assert first + 1 == second == publisher.sent
            await publisher.close()

    run(main())


def test_a_busy_sender_lets_others_run(broker: hermes.Broker, run: Run) -> None:
    """A loop of `await send()` that never has to wait does not keep the loop for itself."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.publisher("a") as publisher:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            for _ in range(5000):
                await publisher.send(b"x")
            ticking.cancel()
            assert ticks >= 10

    run(main())


def test_no_task_or_thread_is_made(broker: hermes.Broker, run: Run) -> None:
    """A connection that publishes and receives has no task and no thread of its own."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, client.subscribe("a") as subscription:
            before = threading.active_count()
            async with client.publisher("a") as publisher:
                for _ in range(100):
                    await publisher.send(b"x")
                    await subscription.receive(30)
            assert len(asyncio.all_tasks()) == 1
            assert threading.active_count() <= before  # one that dialled may have ended

    run(main())


def test_a_refused_publisher_sends_again(broker: hermes.Broker, run: Run) -> None:
    """A publisher whose id another program took raises it; `resend` takes the id back and goes on."""

    async def main() -> None:
        async with aio.connect(broker.url) as client, aio.connect(broker.url) as other:
            older = await client.publisher("a")
            await client.ping()
            newer = await other.publisher("a", publisher_id=older.publisher_id)
            with pytest.raises(hermes.Refused, match="opened by another"):
                await send_and_flush(older)
            await older.resend()
            await send_and_flush(older)
            assert (await client.streams())[0]["messages"] == older.acked == older.sent
            await other.ping()
            with pytest.raises(hermes.Refused):
                await newer.send(b"2")
            await older.close()
            with pytest.raises(hermes.Refused):
                await newer.close()

    run(main())


def test_nothing_is_logged_when_all_is_well(
    broker: hermes.Broker, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that opens and closes says nothing."""

    async def main() -> None:
        async with aio.connect(broker.url) as client:
            await client.ping()

    with caplog.at_level(logging.DEBUG, "hermes"):
        run(main())
    assert [record for record in caplog.records if record.name.startswith("hermes.client")] == []
