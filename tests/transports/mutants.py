"""The TCP transport with one fault each: what the conformance kit has to catch.

Each fault stands in the socket that the agent reads and writes, or in what it is told by the
kernel, so that the transport's own code is the real one.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from hermes.base.platform import EventDescriptor
from hermes.errors import ConnectionLost
from hermes.net.sockets import SocketAgent, SocketChannel, dial_first, listen_at
from hermes.spi.transport import Agent, Capabilities, Channel, Connection, Kernel, Peer
from hermes.spi.url import Url
from hermes.testing.transport.backpressure import BackPressureContract
from hermes.testing.transport.errors import ErrorsContract
from hermes.testing.transport.exchange import ExchangeContract
from hermes.testing.transport.lifecycle import LifecycleContract
from hermes.testing.transport.readiness import ReadinessContract
from hermes_tcp.engine import TcpTransport


class Acceptor:
    """Returns sockets of another class."""

    def __init__(self, listener: Any, kind: type[socket.socket]) -> None:
        self._listener = listener
        self._kind = kind
        self.fileno = listener.fileno
        self.close = listener.close

    def accept(self) -> tuple[socket.socket, Any]:
        sock, address = self._listener.accept()
        return self._kind(fileno=sock.detach()), address


class Unchanged(TcpTransport):
    """No fault: the way in which the others are made does no harm."""

    kind: ClassVar[type[socket.socket]] = socket.socket

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        agent: Any = super().listen(url, kernel)
        agent._acceptor = Acceptor(agent._acceptor, self.kind)
        listening: Agent = agent
        return listening


class TailDropper(socket.socket):
    def sendmsg(self, views: Sequence[Any], *rest: Any) -> int:
        super().sendmsg(views, *rest)
        return sum(map(len, views))


class DropsTheTail(Unchanged):
    """A send that was taken in part counts as taken in full."""

    kind = TailDropper


class Swapper(socket.socket):
    def sendmsg(self, views: Sequence[Any], *rest: Any) -> int:
        if len(views) > 1:
            views = [views[1], views[0], *views[2:]]
        return super().sendmsg(views, *rest)


class ReordersTwoWrites(Unchanged):
    """The second of several views goes out before the first."""

    kind = Swapper


LEAKED: list[int] = []


class Leaker(socket.socket):
    def close(self) -> None:
        if self.fileno() >= 0 and len(LEAKED) < 1000:
            LEAKED.append(os.dup(self.fileno()))
        super().close()


class LeaksADescriptor(Unchanged):
    """Closing a connection leaves a descriptor open."""

    kind = Leaker


class Hoarder(socket.socket):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.hoard = bytearray()

    def sendmsg(self, views: Sequence[Any], *rest: Any) -> int:
        try:
            if self.hoard:
                del self.hoard[: super().send(self.hoard)]
            sent = 0 if self.hoard else super().sendmsg(views, *rest)
        except BlockingIOError:
            sent = 0
        joined = b"".join(views)
        self.hoard += joined[sent:]
        return len(joined)


class BuffersWithoutBound(Unchanged):
    """Ignores back-pressure: takes all output there is, whether the peer reads or not."""

    kind = Hoarder


class NeverPaused:
    """A connection that seems to want input always."""

    paused = False

    def __init__(self, connection: Connection) -> None:
        self.__dict__["_connection"] = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._connection, name, value)


class DeafKernel:
    """Returns connections that are never paused."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.authenticates = kernel.authenticates

    def connect(self, owner: object, peer: Peer) -> Any:
        return NeverPaused(self._kernel.connect(owner, peer))

    def ready(self, owner: object) -> Iterable[Connection]:
        return self._kernel.ready(owner)


class ReadsThePaused(Unchanged):
    """Ignores back-pressure the other way: goes on reading a connection that is paused."""

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        return super().listen(url, DeafKernel(kernel))


class Swallower(socket.socket):
    def recv_into(self, *arguments: Any) -> int:
        try:
            return super().recv_into(*arguments)
        except ConnectionResetError:
            raise BlockingIOError from None

    def sendmsg(self, views: Sequence[Any], *rest: Any) -> int:
        try:
            return super().sendmsg(views, *rest)
        except (ConnectionResetError, BrokenPipeError):
            return 0


class SwallowsAReset(Unchanged):
    """A reset counts as nothing having arrived."""

    kind = Swallower


class Resetter(socket.socket):
    def recv_into(self, *arguments: Any) -> int:
        count = super().recv_into(*arguments)
        if not count:
            raise ConnectionResetError
        return count


class TakesTheEndOfInputForTheEnd(Unchanged):
    """A client that sends no more has gone."""

    kind = Resetter


class Insatiable(SocketAgent):
    def _read(self, link: Any, what: int) -> None:
        before = -1
        while not link.gone and link.connection.received != before:
            before = link.connection.received
            super()._read(link, what)


class ReadsWithoutBound(TcpTransport):
    """Goes on reading a connection as long as there is input."""

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        agent: Any = super().listen(url, kernel)
        agent.__class__ = Insatiable
        listening: Agent = agent
        return listening


class Unguarded(SocketAgent):
    def _fault(self, link: Any, error: Exception) -> None:
        raise error


class LetsDefectsOut(TcpTransport):
    """An exception of the kernel for one peer comes out of the poll that serves them all."""

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        agent: Any = super().listen(url, kernel)
        agent.__class__ = Unguarded
        listening: Agent = agent
        return listening


class DialsWithoutEnd(TcpTransport):
    """A dial takes as long as it takes."""

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        return super().dial(url, 3600 * 10**9)


class Impatient(SocketChannel):
    def wait(self, *, readable: bool, writable: bool, timeout_ns: int) -> bool:
        return super().wait(readable=readable, writable=writable, timeout_ns=0)


class Untranslated(SocketChannel):
    def receive_into(self, buffer: memoryview) -> int:
        try:
            return super().receive_into(buffer)
        except ConnectionLost as error:
            raise OSError("as the system says it") from error


class Watched(SocketChannel):
    @property
    def watch_fd(self) -> int:
        return self._sock.fileno()


class Silent(SocketChannel):
    _event: EventDescriptor | None = None

    @property
    def watch_fd(self) -> int:
        self._event = self._event or EventDescriptor()
        return self._event.fileno()

    def close(self) -> None:
        super().close()
        if self._event is not None:
            self._event.close()


class OtherChannel(TcpTransport):
    """Clients have a channel of another class."""

    channel: ClassVar[type[SocketChannel]]

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        dialled: Any = super().dial(url, timeout_ns)
        dialled.__class__ = self.channel
        found: Channel = dialled
        return found


class WaitsForNothing(OtherChannel):
    """A wait that ends at once says that its time has passed."""

    channel = Impatient


class LetsErrorsOut(OtherChannel):
    """An exception of the system comes out of a channel as it is."""

    channel = Untranslated


class TellsOfInput(OtherChannel):
    """A channel whose socket tells of input."""

    channel = Watched


class TellsOfNothing(OtherChannel):
    """A channel whose descriptor for event loops is never readable."""

    channel = Silent


class UnixSocket(TcpTransport):
    """A Unix socket, whose peers have the user that the system says."""

    capabilities = Capabilities(native_fd=True, peer_credentials=True)

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        sock = socket.socket(socket.AF_UNIX)
        listen_at(sock, url.path, backlog=100)
        return SocketAgent(sock, url=str(url), kernel=kernel, describe=self.describe)

    def describe(self, accepted: socket.socket, address: Any) -> Peer:
        size = struct.calcsize("3i")
        data = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return Peer("unix", "a process", local=True, identity=str(struct.unpack("3i", data)[1]))

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        return dial_first([(socket.AF_UNIX, url.path)], url=str(url), timeout_ns=timeout_ns)


class TakesItsOwnUser(UnixSocket):
    """Every peer is who the broker is."""

    def describe(self, accepted: socket.socket, address: Any) -> Peer:
        return Peer("unix", "a process", local=True, identity=str(os.getuid()))


class Mutated:
    """Base of the suites below: a fault is to be noticed soon."""

    url = "tcp://127.0.0.1:0"
    deadline_s = loss_deadline_s = 1.0


class TestDropsTheTail(Mutated, ExchangeContract):
    factory = DropsTheTail


class TestReordersTwoWrites(Mutated, ExchangeContract):
    factory = ReordersTwoWrites


class TestLeaksADescriptor(Mutated, LifecycleContract):
    cycles = 100
    factory = LeaksADescriptor


class TestBuffersWithoutBound(Mutated, BackPressureContract):
    factory = BuffersWithoutBound


class TestReadsThePaused(Mutated, BackPressureContract):
    factory = ReadsThePaused


class TestSwallowsAReset(Mutated, ErrorsContract):
    factory = SwallowsAReset


class TestTakesTheEndOfInputForTheEnd(Mutated, LifecycleContract):
    factory = TakesTheEndOfInputForTheEnd


class TestReadsWithoutBound(Mutated, BackPressureContract):
    factory = ReadsWithoutBound


class TestLetsDefectsOut(Mutated, ErrorsContract):
    factory = LetsDefectsOut


class TestDialsWithoutEnd(Mutated, LifecycleContract):
    factory = DialsWithoutEnd


class TestWaitsForNothing(Mutated, ExchangeContract):
    factory = WaitsForNothing


class TestLetsErrorsOut(Mutated, LifecycleContract):
    factory = LetsErrorsOut


class TestTellsOfNothing(Mutated, ReadinessContract):
    factory = TellsOfNothing


class TestTellsOfInput(Mutated, ReadinessContract):
    deadline_s = loss_deadline_s = 30.0
    factory = TellsOfInput


class TestTakesItsOwnUser(Mutated, ErrorsContract):
    url = "unix:{tmp}/socket"
    factory = TakesItsOwnUser


class TestUnixSocket(Mutated, ErrorsContract):
    url = "unix:{tmp}/socket"
    deadline_s = loss_deadline_s = 30.0
    factory = UnixSocket


class TestUnchanged(
    Mutated, ExchangeContract, LifecycleContract, BackPressureContract, ErrorsContract
):
    cycles = 100
    deadline_s = loss_deadline_s = 30.0
    factory = Unchanged
