"""Behaviour beyond the contract of the agent that all stream-socket transports share; and of the one over
io_uring, of which the same must hold."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from hermes.errors import ConnectionLost, WouldBlock
from hermes.net import listener
from hermes.net.sending import WRITES_PER_PASS
from hermes.net.sockets import SocketAgent, SocketChannel
from hermes.plugins.discovery import default_plugins
from hermes.spi.transport import Peer
from hermes.spi.url import parse_url
from tests.selecting import PLAIN
from tests.transports.uring import needs_uring

pytestmark = pytest.mark.slow

Drive = Callable[[Any, Callable[[], object]], None]
URLS = [
    "tcp://127.0.0.1:0",
    *(f"tcp://127.0.0.1:0#{kind.__name__}" for kind in PLAIN),
    "tcp://[::1]:0",
    "inproc:",
    pytest.param("uring+tcp://127.0.0.1:0", marks=needs_uring),
]


@pytest.fixture(params=URLS)
def agent(
    request: pytest.FixtureRequest, kernel: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SocketAgent]:
    """An agent that listens; once per transport and address family, and per selector of a system
    without epoll."""
    address, _, name = request.param.partition("#")
    for kind in PLAIN:
        if kind.__name__ == name:
            monkeypatch.setattr(selectors, "DefaultSelector", kind)
    url = parse_url(address)
    with closing(default_plugins().transport(url.scheme).listen(url, kernel)) as listening:
        yield listening


def dial(agent: Any) -> SocketChannel:
    """A client of the agent."""
    url = parse_url(agent.url)
    channel = default_plugins().transport(url.scheme).dial(url, 5_000_000_000)
    assert isinstance(channel, SocketChannel)
    return channel


def receive(channel: SocketChannel, into: bytearray) -> bool:
    """Take what is there; True at the end of input."""
    buffer = memoryview(bytearray(1 << 20))
    with contextlib.suppress(WouldBlock):
        count = channel.receive_into(buffer)
        into += buffer[:count]
        return count == 0
    return False


def test_half_close_still_gets_the_answer(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """A peer that shuts its sending side down still gets everything, then the end of input."""
    got = bytearray()
    ended: list[bool] = []
    with closing(dial(agent)) as channel:
        channel.send([b"x" * 100_000])
        channel._sock.shutdown(socket.SHUT_WR)
        drive(agent, lambda: ended or (receive(channel, got) and ended.append(True)) or ended)

    assert got == b"x" * 100_000
    assert kernel.connections[0].ended
    assert kernel.connections[0].lost == [None]


@pytest.mark.parametrize("listener", ["tcp://127.0.0.1:0", "inproc:", "udp://127.0.0.1:0"])
def test_a_pass_gives_a_connection_its_share_once(listener: str, kernel: Any, drive: Drive) -> None:
    """A connection that has more with every output, and says so, is sent to no more often in the
    tenth pass than in the first: the others have their turn."""
    url = parse_url(listener)
    transport = default_plugins().transport(url.scheme)
    with (
        closing(transport.listen(url, kernel)) as agent,
        ThreadPoolExecutor(1) as dialing,
    ):
        dialed = dialing.submit(transport.dial, parse_url(agent.url), 5_000_000_000)
        drive(agent, lambda: dialed.done() and kernel.connections)
        (connection,) = kernel.connections
        connection.source = itertools.repeat(b"x" * 10)
        kernel.view_max = 10
        pulls = 0
        real = connection.output

        def output(limit: int) -> list[memoryview]:
            nonlocal pulls
            pulls += 1
            connection.mark()
            return real(10)

        connection.output = output
        connection.mark()
        shares = []
        for _ in range(10):
            pulls = 0
            agent.poll(0)
            shares.append(pulls)
        dialed.result().close()

    assert shares == [WRITES_PER_PASS] * 10


def test_many_small_views_stall_as_one_does(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """With more views due than one call takes, a peer that does not read costs nothing until it
    does, and then gets everything."""
    kernel.view_max = 60  # over IOV_MAX views in the first pull already
    data = os.urandom(1 << 20) * 16
    got = bytearray()
    with closing(dial(agent)) as channel:
        drive(agent, lambda: kernel.connections)
        (connection,) = kernel.connections
        connection.send(data)

        drive(agent, lambda: connection.advanced and agent.deadline_ns() is None)
        assert connection.advanced < len(data)
        drive(agent, lambda: receive(channel, got) or len(got) == len(data))
    assert got == data


def test_lingering_ends_at_its_deadline(
    agent: SocketAgent, kernel: Any, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that never closes after the broker has is cut off after the deadline."""
    monkeypatch.setattr(listener, "LINGER_NS", 30_000_000)
    with closing(dial(agent)):
        drive(agent, lambda: kernel.connections)
        kernel.connections[0].closing = True
        kernel.connections[0].send(b"goodbye")
        drive(agent, lambda: agent.counters()["lingered"])

        assert agent.deadline_ns() is not None
        drive(agent, lambda: agent.counters()["connections"] == 0)


def test_connections_over_the_limit_are_closed(kernel: Any, drive: Drive) -> None:
    """With connections=2 the third peer sees the end of input, and a place is free again when one
    leaves."""
    url = parse_url("tcp://127.0.0.1:0?connections=2")
    with closing(default_plugins().transport("tcp").listen(url, kernel)) as agent:
        first, second, third = (dial(agent) for _ in range(3))
        drive(agent, lambda: receive(third, bytearray()))
        assert agent.counters()["refused"] == 1

        first.close()
        drive(agent, lambda: agent.counters()["connections"] == 1)
        fourth = dial(agent)
        drive(agent, lambda: agent.counters()["connections"] == 2)
        for channel in (second, third, fourth):
            channel.close()


def test_running_out_of_descriptors_pauses_accepting(
    kernel: Any, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without descriptors the agent stops accepting, sleeps instead of spinning, and goes on when
    there are some."""
    monkeypatch.setattr("hermes.net.listener.ACCEPT_RETRY_NS", 1_000_000_000)  # not while we look
    got = bytearray()
    url = parse_url("tcp://127.0.0.1:0")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(default_plugins().transport("tcp").listen(url, kernel)) as agent:
        channel = dial(agent)
        channel.send([b"hello"])
        top = os.dup(0)
        os.close(top)
        resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
        try:
            agent.poll(0)
            assert agent.counters()["accept_pauses"] == 1
            begun = time.monotonic_ns()
            assert agent.poll(20_000_000) == 0
            assert time.monotonic_ns() - begun >= 15_000_000, "it must wait, not spin"
            assert agent.deadline_ns() is not None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        drive(agent, lambda: receive(channel, got) or got == b"hello")
        channel.close()


class Failing:
    """An acceptor with somebody at the door whose accept fails."""

    def __init__(self, problem: int) -> None:
        self.reader, self.writer = os.pipe()
        os.write(self.writer, b"x")
        self.problem = problem
        self.calls = 0

    def fileno(self) -> int:
        return self.reader

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        raise OSError(self.problem, os.strerror(self.problem))

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.mark.parametrize(
    ("problem", "pauses"),
    [(number, 0) for number in sorted(listener.PASSING)]
    + [(number, 1) for number in sorted(listener.EXHAUSTED)],
    ids=lambda value: errno.errorcode[value] if value > 1 else "",
)
def test_a_failing_accept_ends_nothing(problem: int, pauses: int, kernel: Any) -> None:
    """An error of one peer is passed over at once; without room for any, accepting pauses."""
    acceptor = Failing(problem)
    with closing(
        SocketAgent(
            acceptor,
            url="test:",
            kernel=kernel,
            describe=lambda sock, address: Peer("test", "nobody", local=True),
        )
    ) as agent:
        agent.poll(0)
        agent.poll(0)

        assert agent.counters()["accept_pauses"] == pauses
    assert acceptor.calls == (1 if pauses else 2)


def test_sending_to_a_closed_connection_is_told(
    agent: SocketAgent, kernel: Any, drive: Drive
) -> None:
    """Once the other side has reset the connection, sending raises ConnectionLost."""
    with closing(dial(agent)) as channel:
        drive(agent, lambda: kernel.connections)
        agent.close()
        with contextlib.suppress(ConnectionLost):
            channel.send([b"this makes the other side reset us"])
            channel.wait(readable=True, writable=False, timeout_ns=5_000_000_000)
            channel.receive_into(memoryview(bytearray(8)))
        with pytest.raises(ConnectionLost):
            channel.send([b"too late"])


class Between:
    """A listening socket that sends over another one before it accepts."""

    def __init__(self, listening: socket.socket, other: socket.socket, data: bytes) -> None:
        self._listening = listening
        self._other = other
        self._data = data
        self.fileno = listening.fileno
        self.close = listening.close

    def accept(self) -> tuple[socket.socket, Any]:
        """The next peer; the other socket's data is there by then."""
        if self._other.fileno() >= 0:
            self._other.sendall(self._data)
            self._other.close()
        return self._listening.accept()


def test_what_was_sent_first_is_read_first(kernel: Any, drive: Drive) -> None:
    """Input that a client sent over its last connection is taken before what it sends over a new one, also
    if it arrives while the new one is accepted."""
    url = parse_url("tcp://127.0.0.1:0")
    order: list[Any] = []
    connect = kernel.connect

    def connect_and_note(owner: object, peer: Peer) -> Any:
        connection = connect(owner, peer)
        connection.on_input = lambda: order.append(connection)
        return connection

    kernel.connect = connect_and_note
    with closing(default_plugins().transport("tcp").listen(url, kernel)) as agent:
        older = socket.create_connection(("127.0.0.1", parse_url(agent.url).port))
        drive(agent, lambda: kernel.connections)
        agent._acceptor = Between(agent._acceptor, older, b"first")
        with closing(dial(agent)) as newer:
            newer.send([b"second"])
            drive(agent, lambda: len(order) == 2)

    assert order == kernel.connections
