"""nng through pynng: pub0/sub0, which is best effort, and push0/pull0, which blocks; no broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.rivals.common import DRAIN_MAX, free_port, missing
from hermes.bench.contestant import Conditions, Measure
from hermes.bench.stage import Stage

CALLS = "send; recv"
BUFFER = 8192
"""Messages: the most that nng lets a socket keep."""


class Publisher:
    """A pub0 or push0 socket."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import pynng

        kind = pynng.Pub0 if where["pubsub"] else pynng.Push0
        self._socket = kind(send_buffer_size=BUFFER, dial=None)
        self._socket.dial(where["address"], block=True)
        self._prefix = topic.encode() if where["pubsub"] else b""

    def send(self, payload: bytes) -> None:
        """One message."""
        self._socket.send(self._prefix + payload)

    def burst(self, payload: bytes, count: int) -> None:
        """There is no call for many."""
        send, message = self._socket.send, self._prefix + payload
        for _ in range(count):
            send(message)

    def flush(self) -> None:
        """nng does not tell."""

    def close(self) -> None:
        """End it."""
        self._socket.close()


class Subscriber:
    """A sub0 or pull0 socket; it listens, so that it is there before anything is sent."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import pynng

        pubsub = where["pubsub"]
        kind = pynng.Sub0 if pubsub else pynng.Pull0
        self._socket = kind(recv_buffer_size=BUFFER, listen=where["address"])
        if pubsub:
            self._socket.subscribe(topic.encode())
        self._skip = len(topic.encode()) if pubsub else 0
        self._nothing = (pynng.Timeout, pynng.TryAgain)

    def receive(self, timeout_s: float) -> memoryview | None:
        """One message, without its topic."""
        self._socket.recv_timeout = int(timeout_s * 1000)
        try:
            return memoryview(self._socket.recv())[self._skip :]
        except self._nothing:
            return None

    def drain(self, timeout_s: float) -> int:
        """Take what is there, one by one."""
        receive, count = self._socket.recv, 0
        self._socket.recv_timeout = int(timeout_s * 1000)
        try:
            receive()
            while (count := count + 1) < DRAIN_MAX:
                receive(block=False)
        except self._nothing:
            pass
        return count

    def close(self) -> None:
        """End it."""
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Nng:
    """One protocol of nng."""

    name: str
    note: str
    pubsub: bool
    apis: Mapping[Measure, str]

    def obstacle(self) -> str | None:
        """pynng."""
        return missing(["pynng"])

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """There is no broker: only an address."""
        return {"address": f"tcp://127.0.0.1:{free_port()}", "pubsub": self.pubsub}

    def publisher(self, where: dict[str, Any], topic: str) -> Publisher:
        """A user who sends."""
        return Publisher(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> Subscriber:
        """A user who receives; one at a time, since it listens."""
        return Subscriber(where, topic)


MEASURED: dict[Measure, str] = {"throughput": CALLS, "latency": CALLS, "round_trip": CALLS}
PUBSUB = Nng("pynng pub/sub", "no broker; drops when a buffer is full", True, MEASURED)
PIPELINE = Nng("pynng push/pull", "no broker; blocks, one receiver each", False, MEASURED)
DRIVERS = ("PUBSUB", "PIPELINE")
