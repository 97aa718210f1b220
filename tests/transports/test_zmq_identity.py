"""Identity of a zmq peer: what its key proves, and never what it says of itself."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from hermes.spi.transport import Agent
from hermes.spi.url import parse_url
from hermes.testing.kernel import EchoKernel
from hermes_zmq.engine import ZmqTransport

DEADLINE_S = 60.0
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""ZMTP 3.0 without keys."""


@pytest.fixture
def kernel() -> EchoKernel:
    """A broker that records who connects."""
    return EchoKernel()


@pytest.fixture
def agent(kernel: EchoKernel) -> Iterator[Agent]:
    """A router door without keys."""
    agent = ZmqTransport().listen(parse_url("zmq+tcp://127.0.0.1:0?doors=router"), kernel)
    yield agent
    agent.close()


def metadata(**properties: bytes) -> bytes:
    """The command READY of ZMTP."""
    body = b"\x05READY"
    for name, value in properties.items():
        said = name.replace("_", "-").encode()
        body += bytes([len(said)]) + said + struct.pack(">I", len(value)) + value
    return b"\x04" + bytes([len(body)]) + body


def test_a_peer_cannot_name_itself(agent: Agent, kernel: EchoKernel) -> None:
    """A user that a peer without a key claims in ZeroMQ's own handshake is not believed."""
    address = agent.doors["router"].removeprefix("tcp://").rpartition(":")
    said = metadata(Socket_Type=b"DEALER", User_Id=b"alice")

    with socket.create_connection((address[0], int(address[2])), DEADLINE_S) as peer:
        peer.sendall(GREETING)
        assert peer.recv(len(GREETING), socket.MSG_WAITALL)[:1] == GREETING[:1]
        peer.sendall(said)
        deadline = time.monotonic() + DEADLINE_S
        heard = b""  # in as many parts as the network makes of it
        while b"READY" not in heard and time.monotonic() < deadline:
            agent.poll(10_000_000)
            if select.select([peer], [], [], 0)[0]:
                heard += peer.recv(1024)
        assert b"READY" in heard  # only then is it a peer's turn to send
        peer.sendall(b"\x01\x00" + b"\x00\x06hermes")
        while not kernel.live and time.monotonic() < deadline:
            agent.poll(10_000_000)
        identities = [connection.peer.identity for connection in kernel.live]

    assert identities == [None]
