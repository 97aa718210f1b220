"""Rounds of the controls, in the shapes questions need: the C relay of ``hermes bench`` and the pyzmq
proxy of its rivals.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.rivals.pyzmq_ import APIS, Publisher, Subscriber, Zmq
from benchmarks.system.harness import (
    MESSAGE_BYTES,
    Failed,
    Metrics,
    Round,
    percentiles,
    rates,
)
from benchmarks.system.users import TakingPart
from hermes.bench.actors import ActorCast, Driven
from hermes.bench.contestant import Conditions, Job
from hermes.bench.controls import RELAY_REFERENCE, SPIN_NS, relay
from hermes.bench.raw import READ_BYTES


class ProxyPublisher(Publisher):
    """A publisher whose calls copy the payload, or do not."""

    def __init__(self, where: dict[str, Any], *, copy: bool) -> None:
        super().__init__(where, "")
        self._send = partial(self._socket.send, copy=copy)

    def burst(self, payload: bytes, count: int) -> None:
        """One by one."""
        send = self._send
        for _ in range(count):
            send(payload)


class ProxySubscriber(Subscriber):
    """A subscriber whose calls copy the payload, or do not."""

    def __init__(self, where: dict[str, Any], *, copy: bool) -> None:
        super().__init__(where, "")
        self._receive = partial(self._socket.recv, copy=copy)

    def take(self, count: int) -> None:
        """So many, one by one."""
        receive = self._receive
        for _ in range(count):
            receive()


@dataclass(frozen=True)
class Proxy(Zmq):
    """A proxy and its users, whose calls copy the payload or do not."""

    copy: bool = True

    def part(self, where: dict[str, Any], part: dict[str, Any]) -> TakingPart:
        """A user, as an actor asks for it."""
        return TakingPart(self, where, part)

    def publisher(self, where: dict[str, Any], topic: str) -> ProxyPublisher:
        """A user who sends."""
        return ProxyPublisher(where, copy=self.copy)

    def subscriber(self, where: dict[str, Any], topic: str) -> ProxySubscriber:
        """A user who receives."""
        return ProxySubscriber(where, copy=self.copy)


COPY, NO_COPY = (
    Proxy("pyzmq proxy", "", "proxy", False, APIS, hwm=0, topics=False, copy=copy)
    for copy in (True, False)
)
"""Settings are the documented ones for losing nothing at speed: no high-water mark."""


def relay_throughput(
    stage: Round,
    *,
    idle: str,
    messages: int,
    write_bytes: int = READ_BYTES,
    read_bytes: int = READ_BYTES,
    sinks: int = 1,
) -> Metrics:
    """Messages per second through the C relay, first write to last byte read; its peers block."""
    cast = relay(stage, SPIN_NS[idle], read_bytes=read_bytes)
    cast.where |= {"spin_ns": 0, "write_bytes": write_bytes}
    return rates(stage.measure(cast, Job("throughput", MESSAGE_BYTES, subscribers=sinks), messages))


def relay_roundtrip(stage: Round, *, idle: str, count: int, python: bool = False) -> Metrics:
    """Round trips of one message through the C relay, on a core of its own."""
    reference = f"{__name__}:PYTHON" if python else RELAY_REFERENCE
    cast = relay(stage, SPIN_NS[idle], reference=reference)
    return percentiles(stage.measure(cast, Job("round_trip", MESSAGE_BYTES), count).latency)


class PythonEnd:
    """A Python client of the C relay: what Python alone adds to a round trip, without any broker."""

    def __init__(self, where: dict[str, Any]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", where["port"]))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(b"s")
        self._socket.recv(1)  # the relay has it
        self._socket.setblocking(where["spin_ns"] == 0)
        self._buffer = bytearray(MESSAGE_BYTES)
        self._view = memoryview(self._buffer)
        self.send = self._socket.send
        self.close = self._socket.close

    def receive(self, timeout_s: float) -> bytearray:
        """The message, once all of it is there."""
        got = 0
        while got < MESSAGE_BYTES:
            try:
                got += self._socket.recv_into(self._view[got:] if got else self._buffer)
            except BlockingIOError:
                continue
        return self._buffer


class PythonEnds:
    """The users that an actor makes: one connection for both."""

    def pair(self, where: dict[str, Any], topic: str) -> tuple[PythonEnd, PythonEnd]:
        """The same twice."""
        end = PythonEnd(where)
        return end, end


PYTHON = PythonEnds()


def proxied(stage: Round, name: str) -> ActorCast:
    """A proxy of ZeroMQ and its users, by the name of a driver here.

    Raises:
        Failed: pyzmq is not installed.
    """
    contestant = Driven(globals()[name], f"{__name__}:{name}")
    obstacle = contestant.obstacle()
    if obstacle is not None:
        raise Failed(obstacle)
    return contestant.enter(stage, Conditions())


def zmq_throughput(stage: Round, *, copy: bool, messages: int, subscribers: int = 1) -> Metrics:
    """Messages per second through the proxy, first send to last receive."""
    cast = proxied(stage, "COPY" if copy else "NO_COPY")
    job = Job("throughput", MESSAGE_BYTES, subscribers=subscribers)
    return rates(stage.measure(cast, job, messages))


def zmq_roundtrip(stage: Round, *, count: int) -> Metrics:
    """Round trips of one message through the proxy, on a core of its own."""
    cast = proxied(stage, "COPY")
    return percentiles(stage.measure(cast, Job("round_trip", MESSAGE_BYTES), count).latency)
