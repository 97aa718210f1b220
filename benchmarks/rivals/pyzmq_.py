"""ZeroMQ through pyzmq: an XSUB/XPUB proxy, and without a broker over tcp and ipc.

A message is one frame, "topic payload".  By default a socket drops what is over its high-water
mark of 1,000 messages; set up to lose nothing, a full socket blocks (``XPUB_NODROP``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.rivals.common import DRAIN_MAX, free_port, missing
from hermes.bench.contestant import Conditions, Measure
from hermes.bench.stage import Process, Stage

APIS: dict[Measure, str] = {
    "throughput": "send; recv(copy=False)",
    "fanout": "send; recv(copy=False)",
    "latency": "send; recv",
    "round_trip": "send; recv",
}
HWM = 1000
"""ZeroMQ's own."""
SETTLE_MS = 200
"""A publisher begins when no subscription has come for so long: subscribing is not answered."""
PROXY = """
import sys, zmq
lossless, hwm = sys.argv[1] == "True", int(sys.argv[2])
context = zmq.Context()
front, back = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
front.set_hwm(hwm)
back.set_hwm(hwm)
if lossless:
    back.setsockopt(zmq.XPUB_NODROP, 1)
front.bind("tcp://127.0.0.1:*")
back.bind("tcp://127.0.0.1:*")
print(front.last_endpoint.decode().rstrip("\\0"), back.last_endpoint.decode().rstrip("\\0"), flush=True)
zmq.proxy(front, back)
"""


class Publisher:
    """An XPUB socket, which is a PUB that sees subscriptions come."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.set_hwm(where["hwm"])
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        if where["lossless"]:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        (self._socket.bind if where["direct"] else self._socket.connect)(where["publish"])
        self._prefix = topic.encode() + b" " if where["topics"] else b""
        while self._socket.poll(SETTLE_MS):
            self._socket.recv()

    def send(self, payload: bytes) -> None:
        """One frame."""
        self._socket.send(self._prefix + payload)

    def burst(self, payload: bytes, count: int) -> None:
        """There is no call for many."""
        send, frame = self._socket.send, self._prefix + payload
        for _ in range(count):
            send(frame)

    def flush(self) -> None:
        """ZeroMQ does not tell."""

    def close(self) -> None:
        """Wait until what is queued has left."""
        self._socket.close(linger=2000)
        self._context.term()


class Subscriber:
    """A SUB socket."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set_hwm(where["hwm"])
        self._take = partial(self._socket.recv, zmq.NOBLOCK, copy=False)
        self._socket.connect(where["subscribe"])
        self._prefix = topic.encode() + b" " if where["topics"] else b""
        self._socket.subscribe(self._prefix)
        self._again, self._now = zmq.Again, zmq.NOBLOCK

    def receive(self, timeout_s: float) -> memoryview | None:
        """One frame, without its topic."""
        try:
            frame = self._socket.recv(self._now)
        except self._again:
            if not self._socket.poll(int(timeout_s * 1000)):
                return None
            frame = self._socket.recv()
        return memoryview(frame)[len(self._prefix) :]

    def drain(self, timeout_s: float) -> int:
        """All frames that are there, one by one."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return 0
        take, count = self._take, 0
        try:
            while count < DRAIN_MAX:
                take()
                count += 1
        except self._again:
            pass
        return count

    def close(self) -> None:
        """Drop what was not read."""
        self._socket.close(linger=0)
        self._context.term()


def start_proxy(stage: Stage, *, lossless: bool, hwm: int) -> tuple[Process, str, str]:
    """Start the proxy; returns it with the addresses of publishers and of subscribers."""
    proxy = stage.start("proxy", sys.executable, "-c", PROXY, str(lossless), str(hwm), core=0)
    publish, subscribe = proxy.line().split()
    return proxy, publish, subscribe


@dataclass(frozen=True, slots=True)
class Zmq:
    """One way to connect the sockets."""

    name: str
    note: str
    medium: str
    """``proxy``, ``tcp`` or ``ipc``."""
    lossless: bool
    apis: Mapping[Measure, str]
    hwm: int = HWM
    """High-water mark of every socket, messages; 0: none."""
    topics: bool = True
    """Whether messages have one, and subscribers choose by it."""

    def obstacle(self) -> str | None:
        """pyzmq."""
        return missing(["zmq"])

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """Start the proxy, or choose an address."""
        common = {
            "lossless": self.lossless,
            "direct": self.medium != "proxy",
            "hwm": self.hwm,
            "topics": self.topics,
        }
        if self.medium == "proxy":
            _, publish, subscribe = start_proxy(stage, lossless=self.lossless, hwm=self.hwm)
            return {"publish": publish, "subscribe": subscribe, **common}
        address = (
            f"tcp://127.0.0.1:{free_port()}" if self.medium == "tcp" else f"ipc://{stage.place}/z"
        )
        return {"publish": address, "subscribe": address, **common}

    def publisher(self, where: dict[str, Any], topic: str) -> Publisher:
        """A user who sends."""
        return Publisher(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> Subscriber:
        """A user who receives."""
        return Subscriber(where, topic)


DROPS = "high-water mark of 1,000: drops"
PROXY_DEFAULT = Zmq("pyzmq proxy", DROPS, "proxy", False, APIS)
PROXY_LOSSLESS = Zmq("pyzmq proxy, no drop", "XPUB_NODROP: blocks", "proxy", True, APIS)
TCP = Zmq("pyzmq tcp, no drop", "no broker; XPUB_NODROP", "tcp", True, APIS)
IPC = Zmq("pyzmq ipc, no drop", "no broker; XPUB_NODROP", "ipc", True, APIS)
DRIVERS = ("PROXY_DEFAULT", "PROXY_LOSSLESS", "TCP", "IPC")
