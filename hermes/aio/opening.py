"""Results of ``connect``, ``publisher`` and ``subscribe``: awaited, or entered with ``async with``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from hermes.aio.subscription import Subscription
from hermes.errors import UsageError
from hermes.native.api import Message


class Entered(Protocol):
    """A client, publisher or subscription."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


Opened = TypeVar("Opened", bound=Entered)


class Opener(Generic[Opened]):
    """Something that is opened when this is awaited, or entered: once."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Opened]]) -> None:
        self._work: Callable[[], Coroutine[Any, Any, Opened]] | None = work
        self._opened: Opened | None = None

    def _begin(self) -> Coroutine[Any, Any, Opened]:
        work, self._work = self._work, None
        if work is None:
            raise UsageError(
                "this was opened already: call connect(), publisher() or subscribe() again"
            )
        return work()

    def __await__(self) -> Generator[Any, Any, Opened]:
        return self._begin().__await__()

    async def __aenter__(self) -> Opened:
        opened = self._opened = await self._begin()
        return opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._opened is not None
        await self._opened.__aexit__(kind, error, trace)


class SubscriptionOpener(Opener[Subscription]):
    """A subscription that is opened when this is awaited, entered or iterated."""

    def __aiter__(self) -> AsyncIterator[Message]:
        return _Opened(self)


class _Opened:
    """The messages of a subscription that is opened by the first look at them."""

    def __init__(self, opening: SubscriptionOpener) -> None:
        self._opening = opening
        self._messages: AsyncIterator[Message] | None = None

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Message]:
        messages = self._messages
        return self._first() if messages is None else messages.__anext__()

    async def _first(self) -> Message:
        self._messages = (await self._opening).messages()
        return await self._messages.__anext__()
