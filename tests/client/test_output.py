"""A transport without a native socket: the same client, written to in Python."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import hermes
from hermes.client.connection import dial
from hermes.errors import UsageError
from hermes.spi.transport import Channel, Transport
from hermes.spi.url import Url
from tests.client.conftest import Wire

CHUNK = 1000
"""Bytes that a narrow channel takes at a time."""


class Narrow:
    """A channel that hides its socket and takes little at a time."""

    stream_fd = None

    def __init__(self, inner: Channel) -> None:
        self._inner = inner
        self.receive_into = inner.receive_into
        self.wait = inner.wait
        self.close = inner.close
        self.full = False

    def send(self, views: Sequence[memoryview | bytes]) -> int:
        """Every second time there is no room."""
        self.full = not self.full
        return 0 if self.full else self._inner.send([memoryview(views[0])[:CHUNK]])


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client of this file dials narrow channels."""

    def dial_narrow(transport: Transport, url: Url, deadline: int | None) -> Channel:
        return Narrow(dial(transport, url, deadline))

    monkeypatch.setattr("hermes.client.connection.dial", dial_narrow)


def test_everything_works_without_a_native_socket(broker: hermes.Broker):
    """Publishing in all forms, control frames between batches, several publishers."""
    with hermes.connect(broker.url, timeout=20) as client:
        subscription = client.subscribe("md.>")
        first, second = client.publisher("md.a"), client.publisher("md.b", ack="none")
        first.send(b"x" * 10_000)
        second.send(b"1")
        first.send_many([b"%d" % i * 100 for i in range(200)])
        second.close()
        first.flush()

        found = [subscription.receive(60) for _ in range(202)]

    assert sorted(len(m.payload) for m in found if m.topic == "md.b") == [1]
    assert [m.payload for m in found if m.topic == "md.a"] == [
        b"x" * 10_000,
        *(b"%d" % i * 100 for i in range(200)),
    ]


def test_it_reconnects_too(broker: hermes.Broker, wire: Wire):
    """Cut in the middle of batches: everything is stored once, in order."""
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a")
        for i in range(100):
            publisher.send(b"%d" % i)
            if i % 30 == 20:
                wire.cut()
        publisher.flush()
        subscription = client.subscribe("md.a", start="earliest")

        assert [subscription.receive(60).payload for _ in range(100)] == [
            b"%d" % i for i in range(100)
        ]


def test_lingering_needs_a_native_socket(broker: hermes.Broker):
    """There is nothing for a native thread to write to: a linger is refused with the reason and what to do."""
    with hermes.connect(broker.url) as client, pytest.raises(UsageError, match="leave linger out"):
        client.publisher("md.a", linger=0.001)
