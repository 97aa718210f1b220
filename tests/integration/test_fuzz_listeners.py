"""With any bytes to any listener or ZeroMQ door, the broker lives, and serves others beside.

Inputs are greetings of several protocols, whole, cut anywhere, changed, slow, and many at once.
``HERMES_FUZZ_INPUTS`` sets how many come to each listener, ``HERMES_FUZZ_SEED`` which.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes.errors import HermesError
from hermes.plugins.discovery import default_plugins
from hermes.wire.client import ClientProtocol
from hermes_inproc.engine import NAMES
from tests.effort import effort
from tests.transports import zmtp

INPUTS = int(os.environ.get("HERMES_FUZZ_INPUTS", effort(200, 5000)))
"""Inputs to each listener."""
SEED = int(os.environ.get("HERMES_FUZZ_SEED", str(random.SystemRandom().randrange(1 << 32))))
DEADLINE_S = 60.0
"""For anything a test waits for: generous, because the machine may be busy."""
AT_ONCE = 32
"""Connections that are open at a time."""
DOORS = ("pub", "sub", "pull", "push", "router")
KINDS = (b"PUB", b"SUB", b"XPUB", b"XSUB", b"PUSH", b"PULL", b"REQ", b"REP", b"DEALER", b"ROUTER")
LISTENERS = ["tcp", "uring+tcp", "udp", "inproc"]
LISTENERS += [f"{scheme} {door}" for scheme in ("zmq+tcp", "zmq+ipc") for door in DOORS]


def corpus() -> list[bytes]:
    """First bytes of peers of several protocols."""
    hello = ClientProtocol().hello(client="fuzz", identity=None, credentials={})
    joined = [
        zmtp.GREETING + zmtp.ready(kind) + zmtp.frame(b"\x01a") + zmtp.frame(b"\x00b") * 2
        for kind in KINDS
    ]
    metadata = b"\x04" + b"\x60" + b"\x05READY\x0bSocket-Type" + struct.pack(">I", 0xFFFFFFFF)
    return [
        *joined,
        *zmtp.OLD_GREETINGS.values(),
        *(old + b"\x03\x00AB" * 4 for old in zmtp.OLD_GREETINGS.values()),
        zmtp.GREETING.replace(b"NULL", b"PLAIN") + bytes(1),
        zmtp.GREETING.replace(b"NULL\0", b"CURVE"),
        zmtp.GREETING + metadata,
        zmtp.GREETING + b"\x02" + b"\xff" * 8,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nhello you",
        bytes.fromhex("16030100f5010000f10303") + bytes(240),
        hello,
        hello * 3,
        b"a line of text\n" * 50,
        b"",
        b"HRMS",
    ]


def variant(rng: random.Random, known: list[bytes]) -> bytes:
    """One input: something known, whole, halved, cut, changed or followed by more; or noise."""
    data = bytearray(rng.choice(known))
    how = rng.randrange(6)
    if how == 0:
        return rng.randbytes(rng.choice((1, 2, 7, 64, 1500, 70_000)))
    if how == 1:
        del data[len(data) // 2 :]
    elif how == 2:
        del data[rng.randrange(len(data) + 1) :]
    elif how == 3:
        for _ in range(rng.randrange(1, 8)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == 4:
        data += rng.choice(known) + rng.randbytes(rng.randrange(64))
    return bytes(data)


class Strangers:
    """Connections to one place, each of which gets one input and is closed some time later."""

    def __init__(self, connect: Callable[[], socket.socket], rng: random.Random) -> None:
        self._connect = connect
        self._rng = rng
        self._open: list[tuple[socket.socket, bytes]] = []

    def send(self, data: bytes) -> None:
        """One more, all of it or its first half now; the oldest of many ends."""
        if len(self._open) >= AT_ONCE:
            self._end(self._open.pop(0))
        try:
            made = self._connect()
        except OSError:
            return  # the backlog is full, or the listener takes no more
        made.setblocking(False)
        split = len(data) // 2 if self._rng.random() < 0.3 else len(data)
        with contextlib.suppress(OSError):
            made.send(data[:split])
        self._open.append((made, data[split:]))

    def close(self) -> None:
        while self._open:
            self._end(self._open.pop())

    def _end(self, item: tuple[socket.socket, bytes]) -> None:
        made, rest = item
        with contextlib.suppress(OSError):
            for byte in rest[:20]:  # slowly
                made.send(bytes([byte]))
            made.send(rest[20:])
            if self._rng.random() < 0.3:
                made.shutdown(socket.SHUT_WR)
            elif self._rng.random() < 0.3 and made.type == socket.SOCK_STREAM:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            select.select([made], [], [], 0)
            made.recv(65536)
        made.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} (seed {SEED})"
        time.sleep(0.005)


def descriptors() -> int:
    """Open ones of this process, which the broker is in."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Beside:
    """A client that is served all the while, and for a ZeroMQ listener a PUB and a SUB as well."""

    def __init__(self, broker: hermes.Broker, scheme: str) -> None:
        self._undo = contextlib.ExitStack()
        client = self._undo.enter_context(hermes.connect(broker.listeners[0].url))
        self._publisher = self._undo.enter_context(client.publisher("beside"))
        self._found = client.subscribe("beside", start="earliest")
        self._sockets: list[Any] = []
        self._count = 0
        if scheme.startswith("zmq"):
            self._join(broker.listeners[0].doors)
        self.check()

    def _join(self, doors: dict[str, str]) -> None:
        import zmq

        context = zmq.Context()
        self._undo.callback(context.destroy, 0)
        publisher, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
        publisher.connect(doors["pub"])
        subscriber.connect(doors["sub"])
        subscriber.subscribe(b"pair")
        until(lambda: publisher.send_multipart([b"pair", b""]) or subscriber.poll(5), "no way")
        self._sockets = [publisher, subscriber]

    def check(self) -> None:
        """A message goes through, for each."""
        self._count += 1
        number = b"%d" % self._count
        self._publisher.send(number)
        self._publisher.flush(timeout=DEADLINE_S)
        assert self._found.receive(DEADLINE_S).payload == number
        if self._sockets:
            publisher, subscriber = self._sockets
            publisher.send_multipart([b"pair", number])
            deadline = time.monotonic() + DEADLINE_S
            while subscriber.poll(max(0, 1000 * (deadline - time.monotonic()))):
                if subscriber.recv_multipart()[-1] == number:
                    return
            raise AssertionError(f"the subscriber beside got nothing (seed {SEED})")

    def close(self) -> None:
        self._undo.close()


def first_datagram() -> bytes:
    """Return a client's first datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trap:
        trap.bind(("127.0.0.1", 0))
        with pytest.raises(HermesError):
            hermes.connect(f"udp://127.0.0.1:{trap.getsockname()[1]}", timeout=0.1)
        return trap.recv(65536)


def connector(scheme: str, broker: hermes.Broker, door: str) -> Callable[[], socket.socket]:
    """Return a function that makes a plain connection to the listener."""
    listener = broker.listeners[0]
    if scheme == "inproc":
        return lambda: NAMES.knock(listener.url.partition("://")[2])
    if scheme == "udp":

        def datagrams() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.connect(zmtp.address(listener.url))
            return made

        return datagrams
    place = listener.doors[door] if door else listener.url
    return lambda: zmtp.connect(place)


@pytest.fixture(params=LISTENERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, str]:
    """Scheme, URL and door of one listener."""
    scheme, _, door = request.param.partition(" ")
    if scheme.startswith("zmq"):
        pytest.importorskip("zmq")
    reason = default_plugins().transport(scheme).probe()
    if reason is not None:
        pytest.skip(reason)
    at = {"zmq+ipc": f"{tmp_path}/feed", "inproc": "0"}.get(scheme, "127.0.0.1:0")
    return scheme, f"{scheme}://{at}", door


@pytest.mark.thorough
def test_no_bytes_end_or_disturb_a_broker(place: tuple[str, str, str]) -> None:
    """Peers of any behaviour end alone: no error of ours is counted, a client beside is served all
    the while, and nothing of them is left."""
    scheme, url, door = place
    rng = random.Random(SEED)
    known = corpus()
    if scheme == "udp":
        known.append(first_datagram())
    with (
        hermes.Broker(listeners=[url, "inproc://fuzz-beside"], storage="memory:") as broker,
        contextlib.ExitStack() as undo,
    ):
        beside = Beside(broker, scheme)
        undo.callback(beside.close)
        before = descriptors()
        connections = broker.stats()["connections"]["open"] + bool(door)  # the door has its own
        strangers = Strangers(connector(scheme, broker, door), rng)
        for number in range(INPUTS):
            data = variant(rng, known)
            if scheme == "udp":
                data = data[:1400]
            strangers.send(data)
            if number % 50 == 49:
                beside.check()
        strangers.close()
        beside.check()
        stats = broker.stats()
        until(lambda: descriptors() <= before, "descriptors are left")
        if scheme != "udp":  # a session that was begun lasts until its peer was silent for long
            until(
                lambda: broker.stats()["connections"]["open"] <= connections, "connections are left"
            )

    assert broker.failure is None
    assert stats["failures"] == sum(one.get("faults", 0) for one in stats["listeners"]) == 0, SEED
    if door and door != "router":
        assert stats["listeners"][0][f"{door}_refused_peers"] > 0
    elif scheme != "udp" and not door:
        assert stats["violations"] > 0
