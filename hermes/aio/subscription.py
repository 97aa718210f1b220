"""Subscriptions in an event loop: message by message, or batch by batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from types import TracebackType
from typing import Self

from hermes import client as blocking
from hermes.aio.connection import LoopConnection
from hermes.aio.words import same_words
from hermes.base import checks
from hermes.client import requests
from hermes.client.batch import Batch
from hermes.client.inbox import Inbox
from hermes.client.pump import deadline_in
from hermes.client.receiving import AnySubscription, OnGap
from hermes.client.session import Feed, Session
from hermes.errors import Closed
from hermes.native.api import Incoming, Message


@same_words(blocking.Subscription)
class Subscription(AnySubscription):
    """The messages of the topics a pattern matches; made by :meth:`Client.subscribe`.

    Iterate it with ``async for``, or await :meth:`receive`, for messages; :meth:`batches` for whole
    batches, which cost far less each.  Any task of its loop may consume it; each message is returned
    once.  A task that is cancelled while it waits has taken nothing.
    """

    def __init__(self, connection: LoopConnection, feed: Feed, on_gap: OnGap) -> None:
        super().__init__(connection, feed, on_gap)
        self._connection: LoopConnection = connection

    async def receive(self, timeout: float | None = None) -> Message:
        self._connection.own()
        kind = timeout.__class__
        if timeout is not None and kind is not float and kind is not int:
            timeout = checks.duration(timeout, "timeout")
        ready = self._ready
        if not ready:
            await self._fill(deadline_in(checks.nanoseconds(timeout, "timeout")))
        return ready.popleft()

    def __aiter__(self) -> AsyncIterator[Message]:
        """The messages, for ever, until :meth:`close`, or the client's."""
        return self.messages()

    def messages(self, timeout: float | None = None) -> AsyncIterator[Message]:
        self._connection.own()
        limit_ns = checks.nanoseconds(timeout, "timeout")
        return Incoming(self._ready, self, partial(self._next, limit_ns))

    def batches(self, timeout: float | None = None) -> AsyncIterator[Batch]:
        self._connection.own()
        return Batches(self, checks.nanoseconds(timeout, "timeout"))

    async def commit(
        self, positions: Mapping[str, int] | None = None, *, timeout: float | None = None
    ) -> None:
        connection = self._connection
        connection.own()
        given = self._commit_of(positions)
        done = self.positions if given is None else given
        steps = requests.commit(connection, self._feed, done)
        await connection.follow(steps, connection.deadline(timeout))

    async def close(self) -> None:
        self._connection.own()
        self._end()

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- inside ----

    async def _next(self, limit_ns: int) -> Message:
        """The next message, for an iterator that has none at hand."""
        self._connection.own()
        if self._closed:
            raise StopAsyncIteration
        try:
            await self._fill(deadline_in(limit_ns))
        except Closed:
            raise StopAsyncIteration from None
        return self._ready.popleft()

    async def _fill(self, deadline: int | None) -> None:
        """Wait until a message is ready, which is not taken before this returns."""
        ready, gaps, connection = self._ready, self._feed.gaps, self._connection
        while not ready:
            if gaps:
                self._tell(gaps)
                continue
            with connection.locked(None):
                if self._advance():
                    continue
                until = self._more()
                waiter = connection.waiter(until, self._take_first)
            if waiter is not None:
                await connection.woken(waiter, until, deadline, self._take_first)

    async def _fill_batches(self, deadline: int | None) -> None:
        """Wait until a batch is ready, which is not taken before this returns."""
        batches, gaps, connection = self._feed.batches, self._feed.gaps, self._connection
        while not batches:
            if gaps:
                self._tell(gaps)
                continue
            with connection.locked(None):
                if self._advance_batch():
                    continue
                until = self._more()
                waiter = connection.waiter(until)
            if waiter is not None:
                await connection.woken(waiter, until, deadline)

    def _take_first(self, inbox: Inbox, session: Session) -> None:
        """The quick way of a batch into our hands, unless something is before it."""
        if self._is_empty():
            self._take(inbox, session)


class Batches:
    """The batches of a subscription, for ``async for``."""

    __slots__ = ("_limit_ns", "_subscription")

    def __init__(self, subscription: Subscription, limit_ns: int) -> None:
        self._subscription = subscription
        self._limit_ns = limit_ns

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """The next batch.  Raises: as :meth:`Subscription.receive`."""
        subscription = self._subscription
        subscription._connection.own()
        if subscription._closed:
            raise StopAsyncIteration
        try:
            await subscription._fill_batches(deadline_in(self._limit_ns))
        except Closed:
            raise StopAsyncIteration from None
        return subscription._feed.batches.popleft()[1]
