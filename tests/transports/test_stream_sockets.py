"""The agent that all stream-socket transports share, driven over TCP and socket pairs."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from hermes import streamsockets
from hermes.errors import ConnectionLost, WouldBlock
from hermes.plugins import default_plugins
from hermes.streamsockets import SocketAgent, SocketChannel
from hermes.transport import Peer
from hermes.url import parse_url

Drive = Callable[[Any, Callable[[], object]], None]
URLS = ["tcp://127.0.0.1:0", "tcp://[::1]:0", "inproc:"]


@pytest.fixture(params=URLS)
def agent(request: pytest.FixtureRequest, kernel: Any) -> Iterator[SocketAgent]:
    """An agent that listens; once per transport and address family."""
    url = parse_url(request.param)
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


def test_bytes_come_back_in_order(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """Every byte of several views arrives, in order, and comes back."""
    got = bytearray()
    with closing(dial(agent)) as channel:
        assert channel.send([b"abc", memoryview(b"defg"), b""]) == 7
        drive(agent, lambda: receive(channel, got) or len(got) == 7)

    assert got == b"abcdefg"


def test_more_than_the_socket_holds_is_sent_in_parts(
    agent: SocketAgent, kernel: Any, drive: Drive
) -> None:
    """Megabytes of output to a peer that reads late arrive whole, across many partial sends."""
    data = os.urandom(16 << 20)
    got = bytearray()
    with closing(dial(agent)) as channel:
        drive(agent, lambda: kernel.connections)
        kernel.connections[0].send(data)
        for _ in range(50):
            agent.poll(0)
        assert agent.counters()["stalls"] >= 1
        drive(agent, lambda: receive(channel, got) or len(got) == len(data))

    assert got == data


def test_a_stalled_connection_costs_no_passes(
    agent: SocketAgent, kernel: Any, drive: Drive
) -> None:
    """While a peer does not read, polling finds no work: the agent waits for room instead of trying
    again."""
    with closing(dial(agent)):
        drive(agent, lambda: kernel.connections)
        kernel.connections[0].send(bytes(32 << 20))
        while agent.poll(0):
            pass

        assert [agent.poll(0) for _ in range(10)] == [0] * 10
        assert agent.poll(20_000_000) == 0


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


def test_peer_that_vanishes_is_reported_once(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """A reset reaches the broker as one connection_lost, and the socket is forgotten."""
    channel = dial(agent)
    drive(agent, lambda: kernel.connections)
    kernel.connections[0].send(bytes(32 << 20))
    agent.poll(0)

    channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    channel.close()

    drive(agent, lambda: kernel.connections[0].lost)
    assert len(kernel.connections[0].lost) == 1
    assert agent.counters()["connections"] == 0


def test_last_words_survive_unread_input(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """A connection closed by the broker while its peer still sends delivers its last bytes: no
    reset."""
    kernel.echo = False
    got = bytearray()
    with closing(dial(agent)) as channel:
        drive(agent, lambda: kernel.connections)
        kernel.connections[0].closing = True
        kernel.connections[0].send(b"goodbye")
        channel.send([bytes(100_000)])
        drive(agent, lambda: receive(channel, got))

        assert got == b"goodbye"
        assert agent.counters()["lingered"] == 1


def test_lingering_ends_at_its_deadline(
    agent: SocketAgent, kernel: Any, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that never closes after the broker has is cut off after the deadline."""
    monkeypatch.setattr(streamsockets, "LINGER_NS", 30_000_000)
    with closing(dial(agent)):
        drive(agent, lambda: kernel.connections)
        kernel.connections[0].closing = True
        kernel.connections[0].send(b"goodbye")
        drive(agent, lambda: agent.counters()["lingered"])

        assert agent.deadline_ns() is not None
        drive(agent, lambda: agent.counters()["connections"] == 0)


def test_paused_connection_is_not_read(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """While the broker wants no input of a peer, its bytes stay with the peer; afterwards they
    arrive."""
    kernel.pending_max = 1 << 20
    sent = 0
    got = bytearray()
    with closing(dial(agent)) as channel:
        block = bytes(1 << 16)
        idle = 0
        while idle < 20:
            count = channel.send([block])
            sent += count
            idle = 0 if count or agent.poll(0) else idle + 1
        assert kernel.connections[0].paused
        assert kernel.connections[0].received < (64 << 20)

        drive(agent, lambda: receive(channel, got) or len(got) == sent)

    assert not any(got)


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


def test_kernel_refusal_closes_the_peer(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """A peer that the broker does not want sees the end of input."""
    kernel.connections_max = 0
    with closing(dial(agent)) as channel:
        drive(agent, lambda: receive(channel, bytearray()))

    assert agent.counters()["refused"] == 1


def test_running_out_of_descriptors_pauses_accepting(kernel: Any, drive: Drive) -> None:
    """Without descriptors the agent stops accepting, sleeps instead of spinning, and goes on when
    there are some."""
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


def test_accept_survives_a_peer_that_is_gone(kernel: Any) -> None:
    """ECONNABORTED concerns one peer: the listener goes on."""

    class Aborting:
        def __init__(self) -> None:
            self.reader, self.writer = os.pipe()
            self.calls = 0

        def fileno(self) -> int:
            return self.reader

        def accept(self) -> tuple[socket.socket, Any]:
            self.calls += 1
            raise OSError(errno.ECONNABORTED, "aborted")

        def close(self) -> None:
            os.close(self.reader)
            os.close(self.writer)

    acceptor = Aborting()
    os.write(acceptor.writer, b"x")
    describe = lambda sock, address: Peer("test", "nobody", local=True)  # noqa: E731
    with closing(SocketAgent(acceptor, url="test:", kernel=kernel, describe=describe)) as agent:
        agent.poll(0)
        agent.poll(0)

    assert acceptor.calls == 2


def test_watched_descriptor_ends_a_wait(agent: SocketAgent) -> None:
    """A wait inside the agent returns when the loop's own descriptor becomes readable."""
    event = os.eventfd(0)
    try:
        agent.watch(event)
        os.eventfd_write(event, 1)

        assert agent.poll(-1) == 0
    finally:
        os.close(event)


def test_descriptor_is_readable_when_there_is_work(agent: SocketAgent) -> None:
    """The agent's descriptor tells a sleeping loop that a peer is there."""
    poller = select.poll()
    poller.register(agent.fileno(), select.POLLIN)
    assert poller.poll(0) == []

    with closing(dial(agent)):
        assert poller.poll(5000)


def test_stop_accepting_serves_who_is_there(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """After stop_accepting a newcomer is refused and a connected peer still answered."""
    got = bytearray()
    with closing(dial(agent)) as channel:
        drive(agent, lambda: kernel.connections)
        agent.stop_accepting()
        agent.stop_accepting()
        channel.send([b"still here"])
        drive(agent, lambda: receive(channel, got) or len(got) == 10)
        with pytest.raises(Exception, match="listens"):
            dial(agent)

    assert got == b"still here"


def test_close_ends_every_connection(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """Closing the agent tells every connection once and the peers see the end."""
    with closing(dial(agent)) as channel:
        drive(agent, lambda: kernel.connections)
        agent.close()
        agent.close()

        assert channel.wait(readable=True, writable=False, timeout_ns=5_000_000_000)
        with contextlib.suppress(ConnectionLost):
            assert channel.receive_into(memoryview(bytearray(8))) == 0
    assert kernel.connections[0].lost == [None]


def test_channel_says_what_happened(agent: SocketAgent, kernel: Any, drive: Drive) -> None:
    """Nothing there is WouldBlock; a wait without news is False; a broken connection is
    ConnectionLost."""
    with closing(dial(agent)) as channel:
        drive(agent, lambda: kernel.connections)
        with pytest.raises(WouldBlock):
            channel.receive_into(memoryview(bytearray(8)))
        assert not channel.wait(readable=True, writable=False, timeout_ns=1)
        assert channel.wait(readable=False, writable=True, timeout_ns=1)
        assert channel.stream_fd == channel._sock.fileno()

        agent.close()
        block = memoryview(bytearray(8))
        with contextlib.suppress(ConnectionLost):
            channel.send([b"this makes the other side reset us"])
            channel.wait(readable=True, writable=False, timeout_ns=5_000_000_000)
            channel.receive_into(block)
        with pytest.raises(ConnectionLost):
            channel.send([b"too late"])
