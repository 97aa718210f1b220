"""With any input on a real port, the broker answers or closes, serves the others, and does not
grow."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hermes.wire import messages as m
from hermes.wire.client import ClientProtocol
from hermes.wire.codec import encode_control
from tests.broker.rawclient import RawClient

Spawn = Callable[..., Any]
Connect = Callable[..., RawClient]

MIB = 2**20
TIMEOUT_S = 60.0
HELLO = ClientProtocol().hello()
OPEN = encode_control(m.Open(1, bytes(16)))


@pytest.fixture
def broker(spawn: Spawn) -> Any:
    """A broker that must survive the test."""
    return spawn(limits={"message": "1MiB"})


@pytest.fixture
def bystander(broker: Any, connect: Connect) -> Iterator[RawClient]:
    """A well-behaved client, which must still be served when the test ends."""
    client = connect(broker)
    client.open()
    client.subscribe(">", start="earliest")
    yield client
    last = client.publish("still.there", b"after")
    client.acked(last)
    client.until(lambda: any(x.payload == b"after" for x in client.messages))


def strike(broker: Any, data: bytes, *, finish: bool = True) -> bytes:
    """Send ``data`` and return everything that is answered, up to the end of input."""
    with socket.create_connection(broker.address, timeout=TIMEOUT_S) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            if finish:
                sock.shutdown(socket.SHUT_WR)
        answer = bytearray()
        with contextlib.suppress(ConnectionError):
            while chunk := sock.recv(65536):
                answer += chunk
    return bytes(answer)


def header(kind: int, length: int, *, magic: bytes = b"HRMS", version: int = 1) -> bytes:
    """A frame header with a checksum that is wrong."""
    return struct.pack("<4sBBHQQII", magic, version, kind, 0, 0, 0, length, 0xDEADBEEF)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"not_hermes"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), b"not_hermes"),
        (header(16, 0, magic=b"HRMX"), b"not_hermes"),
        (header(16, 8, version=9) + bytes(8), b"unsupported_version"),
        (header(16, 0), b"bad_checksum"),
        (header(2, 64) + bytes(64), b"hello_expected"),
        (OPEN, b"hello_expected"),
        (HELLO + HELLO, b"hello_repeated"),
        (HELLO + header(2, 2**31), b"bad_length"),
        (HELLO + header(18, 2**31), b"bad_length"),
        (HELLO + header(1, 0), b"bad_"),
        (HELLO + header(99, 0), b"bad_"),
        (HELLO + b"XRMS" + bytes(60), b"bad_magic"),
    ],
)
def test_malformed_input_has_its_answer(
    broker: Any, bystander: RawClient, data: bytes, code: bytes
) -> None:
    """Each malformed input is answered with an Error that names it, then the connection ends."""
    assert code in strike(broker, data)


def test_random_bytes(broker: Any, bystander: RawClient) -> None:
    """Random bytes, before and after a proper greeting, end the connection and nothing else."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(100):
        prefix = chance.choice([b"", b"HRMS", HELLO, HELLO + OPEN])
        strike(broker, prefix + chance.randbytes(chance.randrange(1, 3000)))


@pytest.mark.parametrize("first", [2**63 - 1, 2**63, 2**64 - 2])
def test_sequences_that_are_none(
    broker: Any, bystander: RawClient, connect: Connect, first: int
) -> None:
    """Numbers beyond 2^63 - 1 are a bad sequence: the first, and the one behind the last legal."""
    client = connect(broker)
    batches = [client.batch("a.b", [b"x"], first=number) for number in (first, first + 1)]

    answer = strike(broker, HELLO + OPEN + b"".join(batches))

    assert b"bad_sequence" in answer


def test_mutated_conversation(broker: Any, bystander: RawClient, connect: Connect) -> None:
    """A sound conversation with one byte changed is taken, or refused, but harms nobody."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    batch = connect(broker).batch("a.b", [b"x" * 100, b"y"], first=1)
    subscribe = encode_control(m.Subscribe(1, "a.>"))
    sound = HELLO + OPEN + subscribe + batch + encode_control(m.Close())
    for _ in range(200):
        data = bytearray(sound)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        strike(broker, bytes(data))


def test_conversation_cut_anywhere(broker: Any, bystander: RawClient, connect: Connect) -> None:
    """A conversation that ends after any byte leaves only whole messages behind."""
    batch = connect(broker).batch("cut", [b"whole"], first=1)
    sound = HELLO + OPEN + batch
    before = len(bystander.messages)
    for size in range(len(sound)):
        strike(broker, sound[:size])
    bystander.settle()
    assert len(bystander.messages) == before

    strike(broker, sound)

    bystander.until(lambda: bystander.messages[-1:] and bystander.messages[-1].topic == "cut")


def test_announced_length_costs_nothing(broker: Any, bystander: RawClient) -> None:
    """Hundreds of peers that announce large frames and send little of them cost what they sent."""
    frames = HELLO + OPEN + struct.pack("<4sBBHQQII", b"HRMS", 1, 2, 0, 0, 0, MIB, 0)
    before = broker.resident
    socks = []
    for _ in range(300):
        sock = socket.create_connection(broker.address, timeout=TIMEOUT_S)
        sock.sendall(frames + bytes(100))
        socks.append(sock)
    bystander.settle()

    assert broker.resident - before < 300 * 64 * 1024
    for sock in socks:
        sock.close()


def test_silent_peers_are_dismissed(spawn: Spawn) -> None:
    """A peer that never says Hello, or says it one byte at a time, is told so and dropped."""
    broker = spawn(limits={"hello": "300ms"})
    assert b"too_slow" in strike(broker, b"", finish=False)
    with socket.create_connection(broker.address) as sock:
        answer = b""
        with contextlib.suppress(ConnectionError):
            for byte in HELLO[:-1]:
                sock.sendall(bytes([byte]))
                sock.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    answer += sock.recv(4096)
                if answer:
                    break
            sock.settimeout(TIMEOUT_S)
            while b"too_slow" not in answer and (chunk := sock.recv(4096)):
                answer += chunk
    assert b"too_slow" in answer
    assert b"too_slow" in strike(broker, b"", finish=False), "it goes on serving"


def test_thousands_of_connections(broker: Any, bystander: RawClient) -> None:
    """Thousands of peers that come, say something or nothing, and go, leave no trace."""
    for _ in range(20):
        socks = [socket.create_connection(broker.address, timeout=TIMEOUT_S) for _ in range(200)]
        for i, sock in enumerate(socks):
            sock.sendall(HELLO[: i % (len(HELLO) + 1)])
        for sock in socks:
            sock.close()
        bystander.settle()

    def gone() -> bool:
        connections = bystander.query("stats")[0]["connections"]
        return bool(connections["total"] > 4000 and connections["open"] == 1)

    bystander.until(gone)

    assert broker.resident < 200 * MIB


def test_peer_that_asks_and_never_reads(broker: Any, bystander: RawClient) -> None:
    """A peer that asks for ever without reading the answers is not read from: memory stays
    bounded."""
    ping = encode_control(m.Ping(1)) * 1000
    before = broker.resident
    with socket.create_connection(broker.address, timeout=0.2) as sock:
        sock.sendall(HELLO)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 256 * MIB:
                sent += sock.send(ping)
        bystander.settle()

        assert sent < 256 * MIB
        assert broker.resident - before < 32 * MIB


def test_many_subscriptions_and_publishers_are_bounded(spawn: Spawn, connect: Connect) -> None:
    """Limits that Welcome states are held: too many subscriptions are refused, publishers end
    it."""
    client = connect(spawn(limits={"subscriptions": 5, "publishers": 5}))
    for number in range(6):
        client.subscribe(f"t.{number}", number + 1)
    assert client.expect(m.Error).code == "too_many_subscriptions"

    for number in range(6):
        client.send(client.protocol.open_publisher(number + 1, os.urandom(16)))

    assert client.expect(m.Error, lambda e: e.fatal).code == "too_many_publishers"
    client.until_end()
