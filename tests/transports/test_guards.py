"""An unexpected error in serving one peer ends that peer: over every transport, wherever it comes from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hermes
from hermes.broker.connection import Connection
from hermes.errors import HermesError
from hermes.plugins.discovery import default_plugins

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
"""For anything a test waits for: generous, because the machine may be busy."""
FAULTY = "faulty"
LARGE = 300_000
"""Bytes of a message that takes the long way: no transport has it moved in one native call."""

URLS = ["tcp://127.0.0.1:0", "uring+tcp://127.0.0.1:0", "udp://127.0.0.1:0", "inproc://0"]
URLS += ["zmq+tcp://127.0.0.1:0?doors=router"]
METHODS = [
    "get_buffer",
    "buffer_updated",
    "data_received",
    "serve",
    "eof_received",
    "output",
    "advance",
    "release",
    "connection_lost",
    "flush",
]


class Defect(RuntimeError):
    """Nothing in Hermes raises it."""


@pytest.fixture(params=URLS, ids=lambda url: url.partition(":")[0])
def broker(request: pytest.FixtureRequest) -> Iterator[hermes.Broker]:
    """A broker with the listener and one for TCP."""
    scheme = request.param.partition(":")[0]
    reason = default_plugins().transport(scheme).probe()
    if reason is not None:
        pytest.skip(reason)
    with hermes.Broker(
        listeners=[request.param, "tcp://127.0.0.1:0"], storage="memory:", idle="block"
    ) as made:
        yield made
    assert made.failure is None


def inject(monkeypatch: pytest.MonkeyPatch, method: str) -> list[int]:
    """Have a method of the faulty client's connection raise; returns how often it did, item by item."""
    real = getattr(Connection, method)
    raised: list[int] = []

    def broken(connection: Any, *arguments: Any, **named: Any) -> Any:
        hello = connection._protocol.hello
        if hello is not None and FAULTY in hello.client:
            raised.append(1)
            raise Defect(method)
        return real(connection, *arguments, **named)

    monkeypatch.setattr(Connection, method, broken)
    return raised


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.005)


def faults(broker: hermes.Broker) -> int:
    """Every unexpected error that the broker counts."""
    stats = broker.stats()
    return int(stats["failures"]) + sum(one["faults"] for one in stats["listeners"])


@pytest.mark.parametrize("method", METHODS)
def test_a_defect_ends_the_peer_it_serves(
    broker: hermes.Broker, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Whichever method of one client's connection raises, the error is counted, that client ends at
    most, and a client beside it, on the same listener, goes on."""
    url = broker.listeners[0].url
    with hermes.connect(url) as beside, beside.publisher() as publisher:
        there = beside.subscribe("beside", start="earliest")
        publisher.send(b"before", topic="beside")
        publisher.flush()
        assert there.receive(DEADLINE_S).payload == b"before"
        raised = inject(monkeypatch, method)
        try:
            with hermes.connect(url, name=FAULTY, reconnect=0, timeout=2) as faulty:
                found = faulty.subscribe("faulty", start="earliest")
                with faulty.publisher() as other:
                    for size in [1] * 10 + [LARGE] * 4:
                        other.send(bytes(size), topic="faulty")
                        other.flush(timeout=2)
                        found.receive(timeout=2)
        except HermesError:
            pass
        if raised:
            until(lambda: faults(broker) > 0)
        for _ in range(20):
            publisher.send(b"after", topic="beside")
            publisher.flush()
            assert there.receive(DEADLINE_S).payload == b"after"

    left = int(method == "connection_lost" and bool(raised))
    until(lambda: broker.stats()["connections"]["open"] <= left)
    assert bool(raised) == bool(faults(broker))


def test_a_defect_does_not_keep_a_broker_from_stopping(
    broker: hermes.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopping broker says Close to the other clients when doing so for one of them raises."""
    url = broker.listeners[0].url
    with hermes.connect(url) as beside, hermes.connect(url, name=FAULTY) as faulty:
        beside.ping()
        faulty.ping()
        raised = inject(monkeypatch, "begin_close")
        broker.close()

    assert raised
    assert broker.failure is None
