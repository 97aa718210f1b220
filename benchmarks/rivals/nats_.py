"""NATS through nats-py: core, which is at most once, and JetStream with file storage."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.rivals.common import await_listener, free_port, missing, program
from hermes.bench.contestant import Conditions, Measure
from hermes.bench.stage import Stage

PENDING_BYTES = 1 << 30
"""Bytes a subscription may have waiting in the client, and the server for it: nothing is dropped
for want of room."""
AWAITED = 4000
"""Unacknowledged messages of a JetStream publisher: the client library's own default."""
FETCH = 500
"""Messages a JetStream consumer asks for at a time."""


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all users of a process: while one waits, the other's messages come in."""
    return asyncio.new_event_loop()


class User:
    """A connection, driven from plain code: nats-py is asyncio only."""

    def __init__(self, where: dict[str, Any]) -> None:
        self.run = _loop().run_until_complete
        self.connection = self.run(self._connect(where["url"]))

    async def _connect(self, url: str) -> Any:
        import nats

        return await nats.connect(url)

    def flush(self) -> None:
        """The server has answered a ping behind everything."""
        self.run(self.connection.flush(60))

    def close(self) -> None:
        """Disconnect."""
        self.run(self.connection.close())


class CorePublisher(User):
    """``publish``: into the client's buffer, which its task writes."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where)
        self._topic = topic

    def send(self, payload: bytes) -> None:
        """On the wire when the loop has had a turn."""
        self.run(self._send(payload))

    async def _send(self, payload: bytes) -> None:
        await self.connection.publish(self._topic, payload)
        await self.connection._flush_pending()  # else it waits for the flusher's turn

    def burst(self, payload: bytes, count: int) -> None:
        """One call after the other; the client batches."""
        self.run(self._burst(payload, count))

    async def _burst(self, payload: bytes, count: int) -> None:
        publish, topic = self.connection.publish, self._topic
        for number in range(count):
            await publish(topic, payload)
            if not number % 1000:
                await asyncio.sleep(0)  # publish alone never yields


class CoreSubscriber(User):
    """A subscription with a callback, the quickest way in nats-py."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where)
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.run(self._subscribe(topic))

    async def _subscribe(self, topic: str) -> None:
        async def take(message: Any) -> None:
            self._messages.put_nowait(message.data)

        await self.connection.subscribe(
            topic, cb=take, pending_msgs_limit=0, pending_bytes_limit=PENDING_BYTES
        )
        await self.connection.flush()

    def receive(self, timeout_s: float) -> bytes | None:
        """The next payload."""
        return self.run(self._next(timeout_s))

    async def _next(self, timeout_s: float) -> bytes | None:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._messages.get()
        except TimeoutError:
            return None

    def drain(self, timeout_s: float) -> int:
        """Take what the callback has put down."""
        if self.receive(timeout_s) is None:
            return 0
        count = 1
        while not self._messages.empty():
            self._messages.get_nowait()
            count += 1
        return count


class JetStreamPublisher(User):
    """``publish_async``: many acknowledgements outstanding."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where)
        self._stream = self.connection.jetstream(publish_async_max_pending=AWAITED)
        self._topic = topic

    def send(self, payload: bytes) -> None:
        """Acknowledged: in the stream's file."""
        self.run(self._stream.publish(self._topic, payload))

    def burst(self, payload: bytes, count: int) -> None:
        """As many under way as may be."""
        self.run(self._burst(payload, count))

    async def _burst(self, payload: bytes, count: int) -> None:
        publish, topic = self._stream.publish_async, self._topic
        for _ in range(count):
            await publish(topic, payload, wait_stall=60)
        await self._stream.publish_async_completed()


class JetStreamSubscriber(User):
    """A pull consumer, fetching many at a time."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where)
        self._ready: list[bytes] = []
        self._consumer = self.run(self._subscribe(topic))

    async def _subscribe(self, topic: str) -> Any:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        wanted = ConsumerConfig(deliver_policy=DeliverPolicy.NEW, ack_policy=AckPolicy.NONE)
        return await self.connection.jetstream().pull_subscribe(topic, config=wanted)

    def receive(self, timeout_s: float) -> bytes | None:
        """The next payload."""
        if not self._ready:
            self._ready = self.run(self._fetch(1, timeout_s))
        return self._ready.pop() if self._ready else None

    async def _fetch(self, count: int, timeout_s: float) -> list[bytes]:
        from nats.errors import TimeoutError as NothingCame

        try:
            return [m.data for m in await self._consumer.fetch(count, timeout=timeout_s)]
        except NothingCame:
            return []

    def drain(self, timeout_s: float) -> int:
        """A fetch."""
        return len(self.run(self._fetch(FETCH, timeout_s)))


@dataclass(frozen=True, slots=True)
class Nats:
    """A server and its way to keep messages."""

    name: str
    note: str
    stream: bool
    apis: Mapping[Measure, str]

    def obstacle(self) -> str | None:
        """nats-py and the server."""
        return missing(["nats"], ["nats-server"])

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """Start the server; make the stream."""
        port = free_port()
        settings = stage.place / "nats.conf"
        settings.write_text(
            f"listen: 127.0.0.1:{port}\nmax_pending: {PENDING_BYTES}\n"
            + (f'jetstream {{ store_dir: "{stage.place}" }}\n' if self.stream else "")
        )
        server = stage.start("nats-server", program("nats-server") or "", "-c", settings, core=0)
        await_listener(port, server)
        where = {"url": f"nats://127.0.0.1:{port}"}
        if self.stream:
            user = User(where)
            user.run(user.connection.jetstream().add_stream(name="bench", subjects=["bench.>"]))
            user.close()
        return where

    def publisher(self, where: dict[str, Any], topic: str) -> CorePublisher | JetStreamPublisher:
        """A user who sends."""
        return (JetStreamPublisher if self.stream else CorePublisher)(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> CoreSubscriber | JetStreamSubscriber:
        """A user who receives."""
        return (JetStreamSubscriber if self.stream else CoreSubscriber)(where, topic)


def _all(calls: str, paced: str) -> dict[Measure, str]:
    return {"throughput": calls, "fanout": calls, "latency": paced, "round_trip": paced}


CORE = Nats(
    "nats core",
    "nothing kept; buffers of 1 GiB",
    False,
    _all("publish; callback", "publish; callback"),
)
JETSTREAM = Nats(
    "nats JetStream",
    "file storage",
    True,
    _all("publish_async; fetch(500)", "publish, acknowledged; fetch(1)"),
)
DRIVERS = ("CORE", "JETSTREAM")
