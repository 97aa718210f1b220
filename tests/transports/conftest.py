"""A kernel that echoes, and a driver for an agent: what the transports are tested against."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from hermes.errors import Refused
from hermes.transport import Agent, Peer

DEADLINE_S = 20.0


class EchoConnection:
    """Sends back what it receives; closes its end when the peer has closed its own."""

    def __init__(self, kernel: EchoKernel, peer: Peer) -> None:
        self.attachment: object = None
        self.peer = peer
        self.closing = False
        self.paused = False
        self.lost: list[Exception | None] = []
        self.received = 0
        self.ended = False
        self.pending = bytearray()
        self.in_flight = 0
        self._kernel = kernel
        self._buffer = bytearray(65536)

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)

    def buffer_updated(self, nbytes: int) -> None:
        self.received += nbytes
        if self._kernel.echo:
            self.send(bytes(self._buffer[:nbytes]))
            self.paused = len(self.pending) > self._kernel.pending_max

    def express(self, fd: int, epoll_fd: int) -> int:
        return 0

    def eof_received(self) -> None:
        self.ended = True
        self.closing = True

    def send(self, data: bytes) -> None:
        self.pending += data
        self._kernel.woken.append(self)

    def output(self, limit: int) -> list[memoryview]:
        return [memoryview(bytes(self.pending[:limit]))] if self.pending else []

    def advance(self, nbytes: int) -> None:
        del self.pending[:nbytes]
        self.in_flight += nbytes
        self.paused = len(self.pending) > self._kernel.pending_max

    def release(self, nbytes: int) -> None:
        self.in_flight -= nbytes

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)


class EchoKernel:
    """Hands out echo connections; keeps all it ever made."""

    def __init__(self) -> None:
        self.connections: list[EchoConnection] = []
        self.woken: list[EchoConnection] = []
        self.echo = True
        self.authenticates = False
        self.connections_max = 1_000_000
        self.pending_max = 1 << 30

    def connect(self, owner: object, peer: Peer) -> EchoConnection:
        if len(self.connections) >= self.connections_max:
            raise Refused("full")
        self.connections.append(EchoConnection(self, peer))
        return self.connections[-1]

    def ready(self, owner: object) -> Iterable[EchoConnection]:
        woken, self.woken = self.woken, []
        return [connection for connection in woken if not connection.lost]


@pytest.fixture
def kernel() -> EchoKernel:
    """A fresh echo kernel."""
    return EchoKernel()


@pytest.fixture
def drive() -> Iterator[Callable[[Agent, Callable[[], object]], None]]:
    """Poll an agent until a condition holds; fails after a deadline."""

    def until(agent: Agent, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come to hold"
            agent.poll(1_000_000)

    return until
