"""Paths that go dead without a word while data is under way: both ends notice.

Each test has a network of two namespaces whose cable forgets where the other end is; it needs the
rights of root, and is skipped without.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq

import hermes
from hermes.client.connection import dial, transport_for
from hermes.net import tcp
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url
from hermes_zmq import router
from hermes_zmq.sockets import PATH_BOUND_S
from tests.transports.uring import needs_uring

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120
BOUND = "1s"
"""Option `keepalive` of the URLs, of which twice as much may pass unanswered."""
HERE = Path(__file__).parent / "dead_path.py"

TRANSPORTS = ["tcp", pytest.param("uring+tcp", marks=needs_uring), "udp"]


def may_unshare() -> bool:
    """Whether a test may have networks of its own."""
    made = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"],
        capture_output=True,
        check=False,
    )
    return made.returncode == 0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as door,
        socket.create_connection(door.getsockname()) as near,
    ):
        far, _ = door.accept()
        with far:
            yield near, far


def test_a_peer_that_does_not_read_is_not_taken_for_dead(
    pair: tuple[socket.socket, socket.socket],
):
    """Its machine answers the probes of its closed window: a subscriber may pause."""
    near, _far = pair
    near.settimeout(0.2)
    with pytest.raises(TimeoutError):
        near.sendall(bytes(1 << 26))

    until = time.monotonic() + 2.0  # some probes, 0.2 s after each other and then longer
    while time.monotonic() < until:
        assert not tcp.unanswered(near, 100_000_000)
        time.sleep(0.01)


def test_what_cannot_be_asked_is_not_dead():
    """A socket that is no TCP has no path to watch, and a closed one is somebody else's business."""
    one, other = socket.socketpair()
    with one, other:
        assert not tcp.unanswered(one, 0)
    assert not tcp.unanswered(one, 0)


@pytest.mark.parametrize(
    ("query", "bound_ms"), [("", 60_000), ("?keepalive=5s", 10_000), ("?keepalive=0", 0)]
)
def test_a_client_bounds_what_stays_unanswered(kernel: Any, query: str, bound_ms: int):
    """Twice `keepalive`, for the system to keep; 0 leaves it to the system."""
    transport = default_plugins().transport("tcp")
    with closing(transport.listen(parse_url("tcp://127.0.0.1:0"), kernel)) as agent:
        channel: Any = transport.dial(parse_url(agent.url + query), -1)
        with closing(channel):
            found = channel._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    assert found == bound_ms


def test_zeromq_bounds_what_stays_unanswered(monkeypatch: pytest.MonkeyPatch):
    """A client's socket has the bound; a router door hangs up on a client whose machine has answered
    nothing for so long, and on no other."""
    listeners = ["zmq+tcp://127.0.0.1:0?doors=router"]
    with hermes.Broker(listeners=listeners, storage="memory:", idle="block") as broker:
        url = parse_url(broker.url)
        with closing(dial(transport_for(url), url, None)) as channel:
            assert channel._socket.getsockopt(zmq.TCP_MAXRT) == PATH_BOUND_S * 1000  # type: ignore[attr-defined]
        with hermes.connect(broker.url) as dead, hermes.connect(broker.url) as alive:
            agent = broker._opened().agents[0]
            door = agent._doors[0]  # type: ignore[attr-defined]
            first = next(link.fd for link in door._links.values() if not link.over)

            def unanswered(sock: socket.socket, _bound_ns: int) -> bool:
                return sock.fileno() == first

            monkeypatch.setattr(router, "unanswered", unanswered)
            broker._ask(lambda: door.watch_paths())
            monkeypatch.undo()
            alive.ping()
            dead.ping(timeout=60)

            assert agent.counters()["router_dead_paths"] == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_both_ends_notice_a_dead_path(transport: str, tmp_path: Path):
    """A publisher with something unacknowledged tries to connect again, and a broker with output
    under way frees its subscriber: within seconds, not when the system gives up."""
    if not may_unshare():
        pytest.skip("namespaces need the rights of root")
    options = "" if transport == "udp" else f"&keepalive={BOUND}"
    made = subprocess.run(
        ["unshare", "-n", sys.executable, HERE, transport, options, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert made.stdout.splitlines() == ["the client noticed", "the broker noticed"], made.stderr
    assert made.returncode == 0
