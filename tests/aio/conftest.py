"""Event loops to test in, and the brokers and wires of the synchronous client's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import pytest

from tests.client.conftest import broker as broker
from tests.client.conftest import serve as serve
from tests.client.conftest import wire as wire

T = TypeVar("T")

TRANSPORTS = ["tcp", "uring+tcp", "udp", "zmq+tcp", "inproc"]
DEADLINE_S = 600.0
"""Seconds that a test may take, the long ones included."""


class Run(Protocol):
    """Runs a coroutine to its end in a loop of its own."""

    def __call__(self, main: Coroutine[Any, Any, T]) -> T: ...


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """A loop of each kind; what it is told of that nobody awaits fails the test."""
    make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if request.param == "uvloop":
        make = pytest.importorskip("uvloop").new_event_loop

    def start(main: Coroutine[Any, Any, T]) -> T:
        told: list[dict[str, Any]] = []

        async def watched() -> T:
            asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
            async with asyncio.timeout(DEADLINE_S):
                return await main

        with asyncio.Runner(loop_factory=make) as runner:
            found = runner.run(watched())
        assert told == []
        return found

    return start


def listener(transport: str, name: str) -> str:
    """Address at which a broker of a test listens; ``name`` is its name in memory."""
    return f"inproc://{name}" if transport == "inproc" else f"{transport}://127.0.0.1:0"


async def until(ready: Callable[[], bool]) -> None:
    """Let the loop run until ``ready``; the test's deadline ends it otherwise."""
    while not ready():
        await asyncio.sleep(0.001)
