"""Clients whose program calls nothing, while their broker goes and comes back."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import hermes
from hermes.client.keeper import KEEPER, LOOK_S, Keeper
from hermes.errors import ConnectionLost
from tests import processes
from tests.client.conftest import Wire
from tests.transports.uring import needs_uring

pytestmark = pytest.mark.slow

TIMEOUT_S = 60.0
TRANSPORTS = ["tcp", pytest.param("uring+tcp", marks=needs_uring), "udp", "zmq+tcp"]


def until(condition: Callable[[], object]) -> None:
    """Wait for ``condition``."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Served:
    """A broker in a process of its own, to be killed and started again at the same address."""

    def __init__(self, place: Path, transport: str) -> None:
        self._place = place
        options = "?doors=router" if transport == "zmq+tcp" else ""
        self.url = f"{transport}://127.0.0.1:0{options}"
        self.start()

    def start(self) -> None:
        ready = self._place / "ready.json"
        ready.unlink(missing_ok=True)
        self._process = processes.start(
            *("-m", "hermes", "serve", "--transport", self.url),
            *("--storage", f"mmap:{self._place}/data", "--ready-file", ready),
            stdout=subprocess.DEVNULL,
        )
        until(ready.exists)
        self.url = str(json.loads(ready.read_text())["listeners"][0]["url"])

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Served]]:
    """Start a broker of one transport."""
    with ExitStack() as stack:

        def begin(transport: str) -> Served:
            served = Served(tmp_path, transport)
            stack.callback(lambda: served.kill())
            return served

        yield begin


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("linger", [None, 0.001])
def test_one_send_after_a_restart_is_delivered(
    start: Callable[[str], Served], transport: str, linger: float | None
):
    """The broker of an idle publisher is killed and started again: one message that is sent then
    arrives, although the publisher's program calls nothing more."""
    if transport == "zmq+tcp" and linger is not None:
        pytest.skip("publishers do not linger on this transport")
    served = start(transport)
    with hermes.connect(served.url, timeout=TIMEOUT_S, reconnect=TIMEOUT_S) as client:
        publisher = client.publisher("a", linger=linger)
        publisher.send(b"before")
        publisher.flush()
        served.kill()
        served.start()
        with hermes.connect(served.url, timeout=TIMEOUT_S) as other:
            subscription = other.subscribe("a", start="earliest")
            publisher.send(b"after")

            assert subscription.receive(TIMEOUT_S).payload == b"before"
            assert subscription.receive(TIMEOUT_S).payload == b"after"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_was_sent_to_a_dead_broker_is_delivered_to_its_successor(
    start: Callable[[str], Served], transport: str
):
    """A message that is sent between a broker's death and its restart arrives without a further
    call."""
    served = start(transport)
    with hermes.connect(served.url, timeout=TIMEOUT_S, reconnect=TIMEOUT_S) as client:
        publisher = client.publisher("a")
        publisher.send(b"before")
        publisher.flush()
        sending = threading.Thread(target=lambda: publisher.send(b"meanwhile"))
        served.kill()
        sending.start()
        served.start()
        with hermes.connect(served.url, timeout=TIMEOUT_S) as other:
            subscription = other.subscribe("a", start="earliest")

            assert subscription.receive(TIMEOUT_S).payload == b"before"
            assert subscription.receive(TIMEOUT_S).payload == b"meanwhile"
        sending.join(TIMEOUT_S)


def test_an_idle_client_notices_that_its_broker_is_gone(wire: Wire):
    """Without a call of the program: the connection is given up as soon as the system knows of its
    end, and there is another as soon as there can be."""
    with hermes.connect(wire.url, reconnect=TIMEOUT_S) as client:
        before = wire.connections
        wire.refusing = True
        wire.cut()
        until(lambda: client._connection.link is None)
        wire.refusing = False

        until(lambda: wire.connections > before and client._connection.link is not None)


def test_connected_is_true_only_while_there_is_a_broker(wire: Wire):
    """The first look after the connection's end says that there is none."""
    with hermes.connect(wire.url, reconnect=TIMEOUT_S, timeout=TIMEOUT_S) as client:
        assert client.connected
        client.timeout = 0.1  # for its close, which finds no broker
        wire.refusing = True
        wire.cut()
        until(lambda: _has_ended(client))

        assert not client.connected


def _has_ended(client: hermes.Client) -> bool:
    link = client._connection.link
    return link is None or link.channel.wait(readable=True, writable=False, timeout_ns=0)


def test_an_idle_client_gives_up_by_itself(wire: Wire):
    """When a broker has been gone for as long as the client tries, the client ends, and the next
    call says why."""
    client = hermes.connect(wire.url, reconnect=0.2)
    wire.refusing = True
    wire.cut()

    until(lambda: client.closed)

    with pytest.raises(ConnectionLost, match="did not bring it back"):
        client.ping()
    client.close()


def test_an_idle_client_answers_a_stopping_broker():
    """A broker that stops does not wait for idle clients until its deadline: they say Close."""
    limits = {"stop": "1h"}
    with hermes.Broker(
        listeners=["tcp://127.0.0.1:0"], storage="memory:", limits=limits, idle="block"
    ) as broker:
        client = hermes.connect(broker.url, reconnect=False)
        client.subscribe("a")

    until(lambda: client.closed)
    client.close()


def test_the_thread_ends_with_the_last_client(broker: hermes.Broker):
    """No client, no thread; a client that is dropped counts as closed."""
    with hermes.connect(broker.url):
        first = KEEPER._thread
        assert first is not None
        assert first.is_alive()
        with hermes.connect(broker.url):
            assert KEEPER._thread is first
        assert KEEPER._thread is first
    assert KEEPER._thread is None
    assert not first.is_alive()

    dropped = [hermes.connect(broker.url)]
    with pytest.warns(ResourceWarning, match="not closed"):
        until(lambda: dropped.clear() or gc.collect() or KEEPER._thread is None)


class Slow:
    """A client whose look waits for a broker that does not answer."""

    over = False

    def look_after(self) -> None:
        time.sleep(0.1)


class Watch(threading.Event):
    """Ends the keeper's thread after the second pause, and knows how long the pauses were."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        return len(self.pauses) > 1


def test_a_look_that_waits_does_not_make_looks_rare():
    """How often clients are looked at depends on what the looks cost, not on how long one of them
    waited: else one client without a broker leaves all others without a look."""
    keeper, slow, watch = Keeper(), Slow(), Watch()
    keeper._kept.add(slow)
    keeper._wake = watch

    keeper._run(watch)

    assert watch.pauses == [LOOK_S, LOOK_S]


def test_a_forked_child_has_a_keeper_of_its_own(broker: hermes.Broker):
    """A client that a child makes is looked after in the child."""
    with hermes.connect(broker.url):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with hermes.connect(broker.url, timeout=TIMEOUT_S) as own:
                    own.ping()
                    thread = KEEPER._thread
                    code = 0 if thread is not None and thread.is_alive() else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
