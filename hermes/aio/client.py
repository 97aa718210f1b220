"""The client in an event loop, as users call it."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from hermes import client as blocking
from hermes.aio.connection import LoopConnection
from hermes.aio.opening import Opener, SubscriptionOpener
from hermes.aio.publisher import Publisher
from hermes.aio.subscription import Subscription
from hermes.aio.words import same_words
from hermes.base import checks
from hermes.client import requests
from hermes.client.client import (
    QUEUE_MAX,
    TIMEOUT_S,
    AnyClient,
    durables_by_name,
    forget_arguments,
    settings_of,
    topics_arguments,
)
from hermes.client.connection import Settings
from hermes.client.receiving import OnGap
from hermes.client.session import Feed, Line
from hermes.client.starts import StartPoint
from hermes.errors import HermesError, Timeout, UsageError, WrongType
from hermes.native.outbox import CAPACITY
from hermes.spi.url import Url
from hermes.wire.messages import AckLevel, Start


def connect(
    url: str | Url | None = None,
    *,
    timeout: float | None = TIMEOUT_S,
    name: str | None = None,
    reconnect: bool | float | None = True,
    spin: float | None = 0.0,
    queue_bytes: int = QUEUE_MAX,
    identity: str | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Opener[Client]:
    """Connect to a broker, in the event loop that runs: ``async with connect() as client``, or
    ``client = await connect()``.

    Arguments are those of :func:`hermes.connect`, and checked when this is called; ``spin`` is 0, for an
    event loop that spins would stop its other tasks.

    Raises: as :func:`hermes.connect`.
    """
    settings = settings_of(
        url,
        timeout=timeout,
        name=name,
        reconnect=reconnect,
        spin=spin,
        queue_bytes=queue_bytes,
        identity=identity,
        credentials=credentials,
    )
    if settings.spin_ns:
        raise UsageError(
            "spin is for threads: an event loop that spins would stop its other tasks; leave it out"
        )
    return Opener(lambda: _connected(settings))


async def _connected(settings: Settings) -> Client:
    return Client(await LoopConnection.begin(settings))


@same_words(blocking.Client)
class Client(AnyClient):
    """A connection to a broker, shared by its publishers and subscriptions; see :func:`connect`.

    It belongs to the event loop in which it was connected, as everything made from it does: any task
    there may use it, and a call from another loop or thread raises :exc:`UsageError`.
    """

    def __init__(self, connection: LoopConnection) -> None:
        if not isinstance(connection, LoopConnection):
            checks.wrong_type("connection", "what hermes.aio.connect() makes", connection)
        super().__init__(connection)
        self._connection: LoopConnection = connection

    def publisher(
        self,
        topic: str | None = None,
        *,
        ack: AckLevel = "appended",
        linger: float | None = None,
        window: int = CAPACITY,
        publisher_id: bytes | None = None,
        timeout: float | None = None,
    ) -> Opener[Publisher]:
        connection = self._connection
        connection.own()
        line, linger_ns, window = self._line(topic, ack, linger, window, publisher_id)
        checks.nanoseconds(timeout, "timeout")
        return Opener(lambda: self._publish(line, linger_ns, window, timeout))

    async def _publish(
        self, line: Line, linger_ns: int, window: int, timeout: float | None
    ) -> Publisher:
        connection = self._connection
        connection.own()
        steps = requests.open_line(connection, line, linger_ns, window)
        try:
            await connection.follow(steps, connection.deadline(timeout))
        except BaseException:
            connection.let_go(line)
            raise
        return Publisher(connection, line, line.topic, line.level)

    def subscribe(
        self,
        pattern: str,
        *,
        start: StartPoint = "latest",
        durable: str | None = None,
        on_gap: OnGap = "raise",
        timeout: float | None = None,
    ) -> SubscriptionOpener:
        self._connection.own()
        if inspect.iscoroutinefunction(on_gap):
            raise WrongType("on_gap takes a function that returns, not a coroutine function")
        feed, point = self._feed(pattern, start, durable, on_gap)
        checks.nanoseconds(timeout, "timeout")
        return SubscriptionOpener(lambda: self._subscribe(feed, point, on_gap, timeout))

    async def _subscribe(
        self, feed: Feed, point: Start, on_gap: OnGap, timeout: float | None
    ) -> Subscription:
        connection = self._connection
        connection.own()
        connection.check()
        subscription = Subscription(connection, feed, on_gap)
        try:
            steps = requests.open_feed(connection, feed, point)
            await connection.follow(steps, connection.deadline(timeout))
        except BaseException:
            subscription._end()
            raise
        return subscription

    async def query(self, what: str, *, timeout: float | None = None, **arguments: str) -> Any:
        connection = self._connection
        connection.own()
        steps = self._query(what, arguments)
        return await connection.follow(steps, connection.deadline(timeout))

    async def streams(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.query("streams", timeout=timeout)
        return found

    async def topics(
        self,
        pattern: str | None = None,
        *,
        stream: str | None = None,
        timeout: float | None = None,
    ) -> list[dict[str, Any]]:
        arguments = topics_arguments(pattern, stream)
        found: list[dict[str, Any]] = await self.query("topics", timeout=timeout, **arguments)
        return found

    async def durables(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.query("durables", timeout=timeout)
        return durables_by_name(found)

    async def forget_durable(
        self, name: str, *, identity: str | None = None, timeout: float | None = None
    ) -> bool:
        arguments = forget_arguments(name, identity)
        found: bool = await self.query("forget", timeout=timeout, **arguments)
        return found

    async def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        found: dict[str, Any] = await self.query("stats", timeout=timeout)
        return found

    async def ping(self, *, timeout: float | None = None) -> float:
        connection = self._connection
        connection.own()
        connection.check()
        deadline = connection.deadline(timeout)
        begun = time.perf_counter()
        await connection.follow(requests.round_trip(connection, lambda: False, "a ping"), deadline)
        return time.perf_counter() - begun

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now, as far as the loop has been told."""
        return self._connection.alive

    async def close(self, timeout: float | None = None) -> None:
        """End in order: what was published is sent and acknowledged first.  Idempotent.

        A call that is cancelled goes on, until ``timeout``, and raises then; a second
        cancellation ends the connection at once.

        Raises:
            Timeout: that took longer than ``timeout`` seconds (the client's own by default); the
                client is closed all the same, and the message says what is not acknowledged.
        """
        if not self._connection.closed:
            self._connection.own()
        await self._connection.end(timeout)

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
            return
        with contextlib.suppress(HermesError):  # the error under way says more
            await self.close(timeout=0 if issubclass(kind, Timeout) else None)
