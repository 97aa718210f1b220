"""Connections that break while a loop runs: everything goes on by itself, exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes import aio
from hermes.errors import ConnectionLost
from tests.aio.conftest import Run, until
from tests.client.test_idle import TRANSPORTS, Served

pytestmark = pytest.mark.slow


@pytest.fixture(params=TRANSPORTS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A broker in a process of its own."""
    made = Served(tmp_path, request.param)
    yield made
    made.kill()


def test_an_idle_client_comes_back_by_itself(served: Served, run: Run) -> None:
    """The broker is killed and started again while the program calls nothing: the client notices, connects
    again, and one message that was sent in between arrives without a further call."""

    async def main() -> None:
        async with aio.connect(served.url, timeout=60) as client:
            subscription, publisher = await client.subscribe("a"), await client.publisher("a")
            await client.ping()
            await asyncio.to_thread(served.kill)
            await until(lambda: not client.connected)
            await publisher.send(b"in between")
            await asyncio.to_thread(served.start)
            await until(lambda: client.connected)
            await until(lambda: publisher.acked == 1)
            assert (await subscription.receive(30)).payload == b"in between"
            await publisher.close()
            await subscription.close()

    run(main())


def test_every_message_arrives_once(
    broker: hermes.Broker, wire: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections are cut again and again while one task publishes and another receives: each message
    arrives once and in order, and the program is told of nothing but a log line."""
    numbers = random.Random(1)

    async def main() -> None:
        async with (
            aio.connect(wire.url, timeout=60) as client,
            client.subscribe("a") as subscription,
            client.publisher("a") as publisher,
        ):

            async def publish() -> None:
                for i in range(3000):
                    await publisher.send(b"%d" % i)
                    if i % 300 == 150:
                        wire.cut()
                    if numbers.random() < 0.05:
                        await asyncio.sleep(0.001)

            async with asyncio.TaskGroup() as group:
                group.create_task(publish())
                for i in range(3000):
                    assert (await subscription.receive(60)).payload == b"%d" % i
        assert wire.connections >= 3

    run(main())
    assert "connected again" in caplog.text


def test_a_broker_that_stays_away_is_given_up(broker: hermes.Broker, wire: Any, run: Run) -> None:
    """After `reconnect` seconds calls raise ConnectionLost, those that wait as well, and the client is
    closed."""

    async def main() -> None:
        async with aio.connect(wire.url, reconnect=0.2) as client:
            subscription = await client.subscribe("a")
            waiting = asyncio.ensure_future(subscription.receive())
            await asyncio.sleep(0)
            wire.refusing = True
            wire.cut()
            with pytest.raises(ConnectionLost, match="did not bring it back"):
                await waiting
            with pytest.raises(ConnectionLost):
                await client.ping()
            assert client.closed

    run(main())


def test_without_reconnecting_the_first_loss_is_final(
    broker: hermes.Broker, wire: Any, run: Run
) -> None:
    """With ``reconnect=False`` a waiting call raises as soon as the connection breaks."""

    async def main() -> None:
        async with (
            aio.connect(wire.url, reconnect=False) as client,
            client.subscribe("a") as subscription,
        ):
            waiting = asyncio.ensure_future(subscription.receive())
            await asyncio.sleep(0)
            wire.cut()
            with pytest.raises(ConnectionLost):
                await waiting

    run(main())


def test_a_client_can_be_closed_while_it_reconnects(
    broker: hermes.Broker, wire: Any, run: Run
) -> None:
    """Closing does not wait for a broker that is gone if there is nothing to send; what is unacknowledged
    is told."""

    async def main() -> None:
        client = await aio.connect(wire.url)
        wire.refusing = True
        wire.cut()
        await until(lambda: not client.connected)
        await client.close(timeout=0.2)
        assert client.closed

        wire.refusing = False
        client = await aio.connect(wire.url)
        publisher = await client.publisher("a")
        wire.hold("up")
        await publisher.send(b"x")
        with pytest.raises(hermes.Timeout, match="1 messages are unacknowledged"):
            await client.close(timeout=0.1)
        with contextlib.suppress(hermes.HermesError):
            await publisher.close()

    run(main())


def test_every_call_has_its_time_limit(broker: hermes.Broker, wire: Any, run: Run) -> None:
    """With a broker that answers nothing each call raises Timeout when its time has passed; once the broker
    answers again all of them work, and what was sent is there once."""

    async def main() -> None:
        async with (
            aio.connect(wire.url, timeout=60) as client,
            client.publisher("a") as publisher,
            client.subscribe("a", durable="d", start="earliest") as subscription,
        ):
            calls: list[Callable[[float], Awaitable[object]]] = [
                lambda limit: client.ping(timeout=limit),
                lambda limit: client.streams(timeout=limit),
                lambda limit: client.publisher("b", publisher_id=bytes(16), timeout=limit),
                lambda limit: client.subscribe("b", timeout=limit),
                lambda limit: subscription.commit({"default": 1}, timeout=limit),
                lambda limit: publisher.flush(limit),
            ]
            wire.hold("down")
            assert await publisher.send(b"once", timeout=0.05) == 1
            for call in calls:
                with pytest.raises(hermes.Timeout):
                    await call(0.05)
            wire.let_go()
            for call in calls:
                made = await call(60)
                if isinstance(made, aio.Publisher | aio.Subscription):
                    await made.close()
            assert (await subscription.receive(60)).payload == b"once"
            assert (await client.streams())[0]["messages"] == 1

    run(main())


def test_who_does_not_answer_is_told(run: Run) -> None:
    """Nobody listening, somebody silent, and somebody else are told apart, as by the synchronous client."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass
        writer.close()

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def main() -> None:
        with pytest.raises(hermes.ConnectFailed):
            await aio.connect("inproc://nobody")
        with pytest.raises(hermes.HermesError, match="foo"):
            await aio.connect("foo://127.0.0.1:1")
        for serve, error, match in (
            (silent, hermes.Timeout, "did not answer in time"),
            (other, hermes.HermesError, "not_hermes"),
        ):
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(error, match=match):
                await aio.connect(f"tcp://127.0.0.1:{port}", timeout=0.1)
            server.close()
            await asyncio.sleep(0.01)  # its last connection ends
            await server.wait_closed()

    run(main())
