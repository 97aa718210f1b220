"""Zenoh: a router between its users; what is congested is dropped by default, or blocks."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.rivals.common import await_listener, free_port, missing
from hermes.bench.contestant import Conditions, Measure
from hermes.bench.stage import READY_S, Failed, Stage

ROUTER = """
import sys, threading, zenoh
config = zenoh.Config()
config.insert_json5("mode", '"router"')
config.insert_json5("listen/endpoints", sys.argv[1])
config.insert_json5("scouting/multicast/enabled", "false")
with zenoh.open(config):
    threading.Event().wait()
"""
"""The router, as a library: PyPI has no zenohd, which is the same code."""


class User:
    """A session in client mode."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import zenoh

        config = zenoh.Config()
        config.insert_json5("mode", '"client"')
        config.insert_json5("connect/endpoints", json.dumps([where["endpoint"]]))
        config.insert_json5("scouting/multicast/enabled", "false")
        self._session = zenoh.open(config)
        self._key = topic.replace(".", "/")

    def close(self) -> None:
        """Disconnect."""
        self._session.close()


class Publisher(User):
    """A declared publisher."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import zenoh

        super().__init__(where, topic)
        kind = zenoh.CongestionControl
        self._publisher = self._session.declare_publisher(
            self._key, congestion_control=kind.BLOCK if where["lossless"] else kind.DROP
        )
        self.send = self._publisher.put
        deadline = time.monotonic() + READY_S
        while not self._publisher.matching_status.matching:
            if time.monotonic() > deadline:
                raise Failed("no subscriber was found")
            time.sleep(0.005)  # its listener calls back for changes only

    def send(self, payload: bytes) -> None:
        """Replaced by the publisher's own, which is called directly."""
        self._publisher.put(payload)

    def burst(self, payload: bytes, count: int) -> None:
        """There is no call for many; zenoh batches by itself."""
        put = self._publisher.put
        for _ in range(count):
            put(payload)

    def flush(self) -> None:
        """Zenoh does not tell."""


class Subscriber(User):
    """A declared subscriber with a callback."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._samples: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._subscriber = self._session.declare_subscriber(self._key, self._samples.put)

    def receive(self, timeout_s: float) -> bytes | None:
        """The next payload."""
        try:
            payload: bytes = self._samples.get(timeout=timeout_s).payload.to_bytes()
        except queue.Empty:
            return None
        return payload

    def drain(self, timeout_s: float) -> int:
        """Take what the callback has put down."""
        try:
            self._samples.get(timeout=timeout_s)
        except queue.Empty:
            return 0
        count = 1
        while not self._samples.empty():
            self._samples.get()
            count += 1
        return count


@dataclass(frozen=True, slots=True)
class Zenoh:
    """A router, and what happens when it is congested."""

    name: str
    note: str
    lossless: bool
    apis: Mapping[Measure, str]

    def obstacle(self) -> str | None:
        """eclipse-zenoh."""
        return missing(["zenoh"])

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """Start the router."""
        port = free_port()
        endpoint = f"tcp/127.0.0.1:{port}"
        router = stage.start("router", sys.executable, "-c", ROUTER, json.dumps([endpoint]), core=0)
        await_listener(port, router)
        return {"endpoint": endpoint, "lossless": self.lossless}

    def publisher(self, where: dict[str, Any], topic: str) -> Publisher:
        """A user who sends."""
        return Publisher(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> Subscriber:
        """A user who receives."""
        return Subscriber(where, topic)


APIS: dict[Measure, str] = dict.fromkeys(
    ("throughput", "fanout", "latency", "round_trip"),
    "put; callback",  # type: ignore[arg-type]
)
DROP = Zenoh("zenoh", "router; drops when congested", False, APIS)
BLOCK = Zenoh("zenoh, block", "router; congestion blocks", True, APIS)
DRIVERS = ("DROP", "BLOCK")
