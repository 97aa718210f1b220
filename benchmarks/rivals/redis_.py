"""Redis through redis-py with hiredis: Pub/Sub and Streams."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.rivals.common import DRAIN_MAX, await_listener, free_port, missing, program
from hermes.bench.contestant import Conditions, Measure
from hermes.bench.stage import Stage

PIPELINE = 1000
"""Commands sent together."""
READ = 1000
"""Entries read from a stream at a time."""


class User:
    """A connection."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import redis

        self._redis = redis.Redis(port=where["port"])
        self._topic = topic

    def flush(self) -> None:
        """Every command has been answered."""

    def close(self) -> None:
        """Disconnect."""
        self._redis.close()


class Publisher(User):
    """PUBLISH, or XADD."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._stream = where["stream"]

    def send(self, payload: bytes) -> None:
        """One command."""
        self._add(self._redis, payload)

    def _add(self, to: Any, payload: bytes) -> None:
        if self._stream:
            to.xadd(self._topic, {b"p": payload})
        else:
            to.publish(self._topic, payload)

    def burst(self, payload: bytes, count: int) -> None:
        """Pipelines, without transactions."""
        for begun in range(0, count, PIPELINE):
            with self._redis.pipeline(transaction=False) as pipeline:
                for _ in range(min(PIPELINE, count - begun)):
                    self._add(pipeline, payload)
                pipeline.execute()


class ChannelSubscriber(User):
    """SUBSCRIBE."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._channel = self._redis.pubsub(ignore_subscribe_messages=True)
        self._channel.subscribe(topic)
        self._channel.get_message(timeout=5)  # the answer

    def receive(self, timeout_s: float) -> bytes | None:
        """The next payload."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            message = self._channel.get_message(timeout=left)
            if message is not None:
                payload: bytes = message["data"]
                return payload
        return None

    def drain(self, timeout_s: float) -> int:
        """Take what is there, one by one."""
        if self.receive(timeout_s) is None:
            return 0
        count = 1
        while count < DRAIN_MAX and self._channel.get_message(timeout=0) is not None:
            count += 1
        return count


class StreamSubscriber(User):
    """XREAD from where the last one ended."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        last = self._redis.xrevrange(topic, count=1)
        self._from = last[0][0] if last else b"0"

    def _read(self, count: int, timeout_s: float) -> list[Any]:
        found: Any = self._redis.xread(
            {self._topic: self._from}, count=count, block=max(1, int(timeout_s * 1000))
        )
        if not found:
            return []
        streams = found.items() if isinstance(found, dict) else found
        entries: list[Any] = next(iter(streams))[1]
        if entries and isinstance(entries[0], list):
            entries = entries[0]
        self._from = entries[-1][0]
        return entries

    def receive(self, timeout_s: float) -> bytes | None:
        """The next payload."""
        entries = self._read(1, timeout_s)
        return entries[0][1][b"p"] if entries else None

    def drain(self, timeout_s: float) -> int:
        """Many at a time."""
        return len(self._read(READ, timeout_s))


@dataclass(frozen=True, slots=True)
class Redis:
    """A server and how it is used."""

    name: str
    note: str
    settings: tuple[str, ...]
    stream: bool
    apis: Mapping[Measure, str]

    def obstacle(self) -> str | None:
        """redis-py and the server."""
        return missing(["redis", "hiredis"], ["redis-server"])

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """Start the server."""
        port = free_port()
        server = stage.start(
            "redis-server",
            program("redis-server") or "",
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(stage.place), "--save", ""),
            *self.settings,
            core=0,
        )
        await_listener(port, server)
        return {"port": port, "stream": self.stream}

    def publisher(self, where: dict[str, Any], topic: str) -> Publisher:
        """A user who sends."""
        return Publisher(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> ChannelSubscriber | StreamSubscriber:
        """A user who receives."""
        return (StreamSubscriber if self.stream else ChannelSubscriber)(where, topic)


def _all(sent: str, received: str) -> dict[Measure, str]:
    many = f"{sent}, pipelines of {PIPELINE}; {received}"
    return {
        "throughput": many,
        "fanout": many,
        "latency": f"{sent}; {received}",
        "round_trip": f"{sent}; {received}",
    }


UNBOUNDED = ("--client-output-buffer-limit", "pubsub 0 0 0")
PUBSUB = Redis(
    "redis pub/sub", "cuts off who is 32 MiB behind", (), False, _all("publish", "get_message")
)
PUBSUB_LOSSLESS = Redis(
    "redis pub/sub, unbounded",
    "no limit to what waits",
    UNBOUNDED,
    False,
    _all("publish", "get_message"),
)
STREAMS = Redis(
    "redis streams",
    "append-only file, synced each second",
    ("--appendonly", "yes"),
    True,
    _all("xadd", "xread"),
)
DRIVERS = ("PUBSUB", "PUBSUB_LOSSLESS", "STREAMS")
