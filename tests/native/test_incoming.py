"""Incoming: what is there is returned without a coroutine, what is not is waited for."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from hermes.native.api import Incoming, Message


class Owner:
    """A subscription, as an Incoming sees it, and its queue."""

    def __init__(self, *messages: Message) -> None:
        self.ready = deque(messages)
        self._closed = False
        self.waits = 0

    async def wait(self) -> Message:
        """Return a message after one turn of the loop: called where nothing is ready."""
        self.waits += 1
        if self._closed or self.waits > 2:
            raise StopAsyncIteration
        await asyncio.sleep(0)
        return Message("waited", b"%d" % self.waits)

    def incoming(self) -> Incoming:
        """An iterator."""
        return Incoming(self.ready, self, self.wait)


def test_what_is_there_comes_first() -> None:
    """Messages of the queue come in order; where it is empty others are waited for, until the end."""
    owner = Owner(Message("a", b"1"), Message("a", b"2"))

    async def main() -> list[bytes]:
        return [message.payload async for message in owner.incoming()]

    assert asyncio.run(main()) == [b"1", b"2", b"1", b"2"]
    assert owner.waits == 3


def test_what_is_there_suspends_nobody() -> None:
    """A message of the queue is returned without a turn of the loop, and without a coroutine."""
    owner = Owner(Message("a", b"1"))
    step = anext(owner.incoming()).__await__()

    with pytest.raises(StopIteration) as returned:
        next(step)

    assert returned.value.value == Message("a", b"1")
    assert owner.waits == 0
    assert not owner.ready


def test_nothing_is_taken_before_it_is_awaited() -> None:
    """An awaitable that is dropped leaves its message; another task may take it meanwhile, and then the
    next one is waited for."""
    owner = Owner(Message("a", b"1"))

    async def main() -> None:
        incoming = owner.incoming()
        for _ in range(3):
            anext(incoming)
        assert len(owner.ready) == 1
        late = anext(incoming)
        owner.ready.popleft()
        assert (await late).topic == "waited"

    asyncio.run(main())


def test_a_closed_owner_ends_it() -> None:
    """After its owner is closed nothing comes, though something is there."""
    owner = Owner(Message("a", b"1"))
    owner._closed = True

    async def main() -> list[Message]:
        return [message async for message in owner.incoming()]

    assert asyncio.run(main()) == []
    assert len(owner.ready) == 1


def test_errors_pass() -> None:
    """An error of the wait, of the owner or of the queue is raised where the message is awaited."""

    async def fail() -> Message:
        raise LookupError

    async def take(incoming: Incoming) -> Any:
        return await anext(incoming)

    with pytest.raises(LookupError):
        asyncio.run(take(Incoming(deque(), Owner(), fail)))
    with pytest.raises(AttributeError):
        asyncio.run(take(Incoming(deque([Message("a")]), SimpleNamespace(), fail)))
    with pytest.raises(AttributeError):
        Incoming(object(), Owner(), fail)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Incoming(deque())  # type: ignore[call-arg]


def test_it_keeps_nothing() -> None:
    """Iterators and messages that went through them are freed."""
    owner = Owner()
    message = Message("a", b"1")
    before = sys.getrefcount(message), sys.getrefcount(owner)

    async def main() -> None:
        for _ in range(100):
            owner.ready.append(message)
            assert await anext(owner.incoming()) is message

    asyncio.run(main())
    assert (sys.getrefcount(message), sys.getrefcount(owner)) == before
