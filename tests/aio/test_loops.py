"""A client and its event loop: calls from elsewhere, loops that end first, programs that just end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hermes
from hermes import aio
from hermes.errors import UsageError
from tests import processes
from tests.aio.conftest import Run, until

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0


def elsewhere(call: Callable[[], Any]) -> BaseException | None:
    """The error of awaiting ``call()`` in another loop, in another thread."""
    raised: list[BaseException | None] = []

    def work() -> None:
        async def main() -> None:
            found = call()
            if hasattr(found, "__await__"):
                await found

        try:
            asyncio.run(main())
        except Exception as error:
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(DEADLINE_S)
    return raised[0]


@contextlib.contextmanager
def warned(*texts: str) -> Iterator[None]:
    """Nothing is warned of in this block but these, in any order."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    assert sorted(str(one.message).partition(" tcp")[0] for one in told) == sorted(texts)


def test_another_loop_is_refused_at_once(broker: hermes.Broker, run: Run) -> None:
    """Every call from another thread's loop raises and says what to do; the client goes on."""

    async def main() -> None:
        async with (
            aio.connect(broker.url) as client,
            client.publisher("a") as publisher,
            client.subscribe("a") as subscription,
        ):
            calls: list[Callable[[], Any]] = [
                lambda: client.publisher("b"),
                lambda: client.subscribe("b"),
                lambda: client.ping(),
                lambda: client.streams(),
                lambda: client.close(),
                lambda: publisher.send(b"x"),
                lambda: publisher.send_many([b"x"]),
                lambda: publisher.flush(),
                lambda: publisher.close(),
                lambda: publisher.acked,
                lambda: subscription.receive(1),
                lambda: subscription.messages(),
                lambda: subscription.batches(),
                lambda: subscription.close(),
            ]
            for call in calls:
                error = await asyncio.to_thread(elsewhere, call)
                assert isinstance(error, UsageError)
                assert "event loop in which it was connected" in str(error)
            await publisher.send(b"x")
            assert (await subscription.receive(30)).payload == b"x"

    run(main())


def test_threads_reach_a_client_through_its_loop(broker: hermes.Broker, run: Run) -> None:
    """asyncio.run_coroutine_threadsafe() is the way from another thread: each message arrives once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with (
            aio.connect(broker.url) as client,
            client.publisher("a") as publisher,
            client.subscribe("a") as subscription,
        ):

            def work(number: int) -> None:
                for _ in range(50):
                    sending = publisher.send(b"%d" % number)
                    asyncio.run_coroutine_threadsafe(sending, loop).result(DEADLINE_S)

            async with asyncio.TaskGroup() as group:
                for number in range(4):
                    group.create_task(asyncio.to_thread(work, number))
            found = [(await subscription.receive(30)).payload for _ in range(200)]
            assert {payload: found.count(payload) for payload in found} == {
                b"%d" % number: 50 for number in range(4)
            }

    run(main())


def test_a_later_loop_is_refused_at_once(broker: hermes.Broker, run: Run) -> None:
    """A client that outlives its loop says so; it is ended when it is collected, with a warning."""
    kept: list[aio.Client] = []

    async def first() -> None:
        kept.append(await aio.connect(broker.url))

    async def second() -> None:
        with pytest.raises(UsageError, match="event loop"):
            await kept[0].ping()

    run(first())
    run(second())
    with warned("client of"):
        kept.clear()
        gc.collect()


def test_what_is_dropped_is_ended(broker: hermes.Broker, run: Run) -> None:
    """A publisher, a subscription and a client that nobody refers to end, with warnings, also when another
    thread collects them."""

    async def main() -> None:
        async with aio.connect(broker.url) as observer:
            client = await aio.connect(broker.url)
            session = client._connection.session
            things: list[Any] = [await client.publisher("a"), await client.subscribe("a")]
            await things[0].send(b"x")
            with warned("a publisher of", "a subscription of"):
                await asyncio.to_thread(things.clear)
                await until(lambda: not session.lines and not session.feeds)
            with warned("client of"):
                del client
                await asyncio.to_thread(gc.collect)
                while len((await observer.stats())["clients"]) > 1:
                    await asyncio.sleep(0.01)
            assert (await observer.streams())[0]["messages"] == 1

    run(main())


PROGRAM = """
import asyncio
import hermes.aio as hermes

async def main():
    global client, publisher
    client = await hermes.connect({url!r})
    publisher = await client.publisher("left", linger={linger})
    for i in range(10):
        await publisher.send(b"%d" % i)
    {end}

asyncio.run(main())
"""


@pytest.mark.parametrize("linger", [None, 60.0])
@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "await asyncio.sleep(0.01)"])
def test_a_program_that_ends_sends_what_it_has(
    broker: hermes.Broker, linger: float | None, end: str
) -> None:
    """A program whose client is still open ends by itself, and what it has sent is in the log."""
    program = PROGRAM.format(url=broker.url, linger=linger, end=end)
    done = processes.run("-c", program, capture_output=True, text=True, timeout=DEADLINE_S)

    assert done.returncode == 0, done.stderr
    with hermes.connect(broker.url) as client:
        assert client.streams()[0]["messages"] == 10


def test_ctrl_c_ends_a_program_in_order(broker: hermes.Broker) -> None:
    """KeyboardInterrupt cancels the main task, whose blocks flush and close; nothing else is printed."""
    program = f"""
import asyncio, os, signal
import hermes.aio as hermes

async def main():
    async with hermes.connect({broker.url!r}) as client, client.publisher("a") as publisher:
        async with client.subscribe("a") as subscription:
            await publisher.send(b"x")
            await subscription.receive()
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
            await subscription.receive()

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr
    assert "Traceback" not in done.stderr


def test_a_forked_child_is_told(broker: hermes.Broker) -> None:
    """A child of the process that connected gets Forked, and its parent goes on."""
    program = f"""
import asyncio, os
import hermes.aio as hermes
from hermes.errors import Forked

async def main():
    async with hermes.connect({broker.url!r}) as client:
        child = os.fork()
        if child == 0:
            try:
                await client.ping()
            except Forked:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        await client.ping()
        print("went on")

asyncio.run(main())
"""
    done = processes.run("-c", program, capture_output=True, text=True, timeout=DEADLINE_S)

    assert done.stdout == "went on\n", done.stderr
