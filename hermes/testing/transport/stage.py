"""One listener over an echo kernel, and its clients, all moved by one thread.

A test says what it waits for; meanwhile :meth:`Stage.until` polls the agent and moves the clients
in turn.  Only :meth:`Stage.dial` uses a second thread, because a dial may wait for the agent.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Generic, TypeVar

from hermes.errors import ConnectionLost, HermesError, WouldBlock
from hermes.spi.transport import Agent, Channel, Transport
from hermes.spi.url import Url, parse_url
from hermes.testing.kernel import POISON, EchoConnection, EchoKernel

T = TypeVar("T")

NS_PER_S = 1_000_000_000
QUIET_TURNS = 20
"""Turns without movement after which everything counts as having come to rest."""
DESCRIBED_MAX = 4
"""Connections and clients described in a failure's message."""
NAP_NS = 1_000_000
"""How long the agent may wait when nothing moved: a client may have input that it does not see."""
RECEIVE_SIZE = 1 << 18
"""Bytes a client reads at once."""
READS_PER_TURN = 4
"""Reads of one client in one turn."""
SEND_MAX = 1 << 18
"""Bytes a client offers its channel at once."""


def with_options(url: Url, **options: str) -> Url:
    """``url`` with further options."""
    return dataclasses.replace(url, query={**url.query, **options})


class Client:
    """A client's channel, what it is to send, and what it has received."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.reading = True
        """Whether it takes what arrives."""
        self.keeping = True
        """Whether what arrives is kept, not only counted."""
        self.data = bytearray()
        self.received = 0
        self.crc = 0
        """CRC-32 of what arrived."""
        self.sent = 0
        self.ended = False
        """Whether the broker's end has closed in order."""
        self.lost: ConnectionLost | None = None
        self._outgoing: deque[memoryview] = deque()
        self._buffer = memoryview(bytearray(RECEIVE_SIZE))

    @property
    def over(self) -> bool:
        """Whether nothing will arrive any more."""
        return self.ended or self.lost is not None

    @property
    def unsent(self) -> int:
        """Bytes that the channel has not taken."""
        return sum(map(len, self._outgoing))

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` in the turns that follow."""
        view = memoryview(data)
        self._outgoing.extend(view[at : at + SEND_MAX] for at in range(0, len(view), SEND_MAX))

    def turn(self) -> bool:
        """Send and receive what can be; whether there was anything."""
        if self.lost is not None:
            return False
        try:
            moved = self._send()
            return (self._receive() or moved) if self.reading and not self.ended else moved
        except ConnectionLost as error:
            self.lost = error
            return True
        except (OSError, HermesError) as error:
            raise AssertionError(
                f"Channel.send or Channel.receive_into raised {error!r}: a channel raises WouldBlock "
                "and ConnectionLost, and translates what the system raises"
            ) from error

    def _send(self) -> bool:
        moved = False
        while self._outgoing:
            taken = self.channel.send([self._outgoing[0]])
            self.sent += taken
            moved = moved or taken > 0
            if taken < len(self._outgoing[0]):
                self._outgoing[0] = self._outgoing[0][taken:]
                break
            self._outgoing.popleft()
        return moved

    def _receive(self) -> bool:
        for turn in range(READS_PER_TURN):
            try:
                count = self.channel.receive_into(self._buffer)
            except WouldBlock:
                return turn > 0
            if not count:
                self.ended = True
                return True
            self.received += count
            self.crc = zlib.crc32(self._buffer[:count], self.crc)
            if self.keeping:
                self.data += self._buffer[:count]
        return True

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


class Call(threading.Thread, Generic[T]):
    """A call in a thread of its own, begun at once.

    A daemon: one that never returns does not keep the tests from ending.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._answer: Future[T] = Future()
        self.start()

    def run(self) -> None:
        """Call, and keep what comes of it."""
        try:
            self._answer.set_result(self._function())
        except BaseException as error:  # it is raised in the thread that asks
            self._answer.set_exception(error)

    def result(self) -> T:
        """Wait for the call; return what it returned, or raise what it raised."""
        self.join()
        return self._answer.result()


class Stage:
    """See the module.  ``deadline_s`` bounds every wait; ``client_options`` go with every dial."""

    def __init__(
        self,
        transport: Transport,
        url: Url,
        kernel: EchoKernel,
        deadline_s: float,
        client_options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.transport = transport
        self.kernel = kernel
        self.deadline_s = deadline_s
        self.agent: Agent = transport.listen(url, kernel)
        self.clients: list[Client] = []
        self._client_options = client_options

    @property
    def url(self) -> Url:
        """URL to dial."""
        return with_options(parse_url(self.agent.url), **self._client_options)

    def connect(self, **options: str) -> tuple[Client, EchoConnection]:
        """A client and its other end, which the agent has accepted."""
        before = len(self.kernel.connections)
        client = self.dial(**options)
        self.until(lambda: len(self.kernel.connections) > before, "the agent to accept a peer")
        return client, self.kernel.connections[-1]

    def dial(self, **options: str) -> Client:
        """A client of the agent.  Raises what the transport's ``dial`` does."""
        url = with_options(self.url, **options)
        channel = self.meanwhile(
            lambda: self.transport.dial(url, int(self.deadline_s * NS_PER_S)), "dial() to return"
        )
        self.clients.append(Client(channel))
        return self.clients[-1]

    def meanwhile(self, call: Callable[[], T], what: str) -> T:
        """Run ``call`` in a thread of its own while all parties are polled; returns or raises as it
        does."""
        thread = Call(call)
        self.until(lambda: not thread.is_alive(), what)
        return thread.result()

    def until(
        self, condition: Callable[[], object], what: str, *, deadline_s: float | None = None
    ) -> None:
        """Move everybody until ``condition`` holds; fails if it does not come to."""
        allowed = self.deadline_s if deadline_s is None else deadline_s
        deadline = time.monotonic() + allowed
        while not condition():
            if not self.turn():
                self._poll(NAP_NS)
            if self.kernel.violations:
                self.check()
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {allowed:g} s for {what}, in vain\n{self.describe()}")

    def until_over(self, client: Client) -> None:
        """Move everybody until nothing will arrive at ``client`` any more."""
        self.until(lambda: client.over, "the end of input at a client")

    def turn(self) -> bool:
        """Move everybody once, without waiting; whether anything moved."""
        moved = self._poll(0) > 0
        for client in self.clients:
            moved = client.turn() or moved
        return moved

    def _poll(self, timeout_ns: int) -> int:
        try:
            return self.agent.poll(timeout_ns)
        except Exception as error:
            raise AssertionError(
                f"Agent.poll raised {error!r}: what one peer does or sends never comes out of poll(); "
                "it ends that peer's connection"
            ) from error

    def settle(self, *, or_else: Callable[[], object] = lambda: False) -> None:
        """Move everybody until nothing has moved for some turns, or until ``or_else``."""
        quiet = 0

        def still() -> object:
            nonlocal quiet
            quiet = 0 if self.turn() else quiet + 1
            return quiet > QUIET_TURNS or or_else()

        self.until(still, "everything to come to rest")

    def exchange(self, client: Client, data: bytes | bytearray | memoryview) -> None:
        """Have ``data`` echoed to ``client``; fails unless exactly that comes back."""
        client.data.clear()
        client.send(data)
        self.until(
            lambda: len(client.data) >= len(data) or client.over,
            f"{len(data)} bytes to come back",
        )
        check_same(client.data, data, f"an echo of {len(data)} bytes")

    def check(self) -> None:
        """Fail if the transport has broken its contract with connections."""
        broken = "\n".join(f"- {violation}" for violation in self.kernel.violations)
        assert not broken, f"hermes.spi.transport.Connection: the contract was broken:\n{broken}"

    def describe(self) -> str:
        """Where everybody stands, for a message."""
        connections = [
            f"connection of {c.peer.address}: received {c.received}, pending {c.pending}, in "
            f"flight {c.in_flight}, paused {c.paused}, closing {c.closing}, lost {c.lost}"
            for c in self.kernel.connections[-DESCRIBED_MAX:]
        ]
        clients = [
            f"client: sent {c.sent} of {c.sent + c.unsent}, received {c.received}, ended {c.ended},"
            f" lost {c.lost!r}"
            for c in self.clients[-DESCRIBED_MAX:]
        ]
        return "\n".join(
            [*connections, *clients, f"counters of the agent: {self.agent.counters()}"]
        )

    def close(self) -> None:
        """Close everybody.  Idempotent."""
        for client in self.clients:
            client.close()
        self.agent.close()


def check_same(got: bytes | bytearray, expected: bytes | bytearray | memoryview, what: str) -> None:
    """Fail unless both are equal, saying where they part."""
    if got == expected:
        return
    size = min(len(got), len(expected))
    first = next((i for i in range(size) if got[i] != expected[i]), size)
    poisoned = bytes(got[first : first + 8]) == bytes([POISON]) * 8
    hint = " (this is released memory: it was sent after release())" if poisoned else ""
    raise AssertionError(
        f"{what}: every byte arrives once and in order; {len(got)} bytes came, {len(expected)} "
        f"were sent, and they differ from byte {first} on: "
        f"{bytes(got[first : first + 16]).hex(' ')} instead of "
        f"{bytes(expected[first : first + 16]).hex(' ')}{hint}"
    )
