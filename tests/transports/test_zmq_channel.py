"""A ZeroMQ client's channel, used by two threads at once."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

import hermes
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url

zmq = pytest.importorskip("zmq")
pytest.importorskip("zmq.auth")

from hermes_zmq import channel as channels  # noqa: E402
from hermes_zmq.sockets import events  # noqa: E402

LONG_MS, LONG_NS = 60_000, 60 * 10**9
"""For anything a test waits for: generous, because the machine may be busy."""


@pytest.fixture
def channel() -> Iterator[Any]:
    """A channel to a broker, of which a Ping will be answered."""
    with hermes.Broker(
        listeners=["zmq+tcp://127.0.0.1:0?doors=router"], storage="memory:"
    ) as broker:
        dialled = default_plugins().transport("zmq+tcp").dial(parse_url(broker.url), LONG_NS)
        with closing(dialled):
            yield dialled


class Clearing:
    """A poller before whose wait another call clears the descriptor of the socket."""

    taking: Any = None
    found: list[list[tuple[int, int]]]

    def __init__(self) -> None:
        self._poller = REAL_POLL()
        self._first = 0

    def register(self, descriptor: int, mask: int) -> None:
        self._first = self._first or descriptor
        self._poller.register(descriptor, mask)

    def poll(self, timeout_ms: int | None) -> list[tuple[int, int]]:
        taking, Clearing.taking = Clearing.taking, None
        if taking is not None:
            news = REAL_POLL()
            news.register(self._first, select.POLLIN)
            assert news.poll(LONG_MS), "the socket has no news"
            taking()
        found = self._poller.poll(timeout_ms)
        self.found.append(found)
        return found


REAL_POLL = select.poll


def test_a_descriptor_that_another_call_cleared_wakes_a_thread_that_waits(
    channel: Any, monkeypatch: pytest.MonkeyPatch
):
    """A send may clear the descriptor of a message for which another thread has begun to wait."""
    monkeypatch.setattr(channels.select, "poll", Clearing)
    monkeypatch.setattr(Clearing, "found", [], raising=False)
    monkeypatch.setattr(Clearing, "taking", lambda: channel.send([b"garbage, at least a header"]))
    assert channel.send([b"garbage, of which the broker says so"])

    assert channel.wait(readable=True, writable=False, timeout_ns=LONG_NS)

    assert Clearing.found[-1:] != [[]], "the wait ended by its timeout"
    assert events(channel._socket) & zmq.POLLIN


def test_closing_wakes_a_thread_that_waits(channel: Any):
    """A channel that one thread closes lets another go that waits for something to read."""
    found: list[bool] = []

    def wait() -> None:
        found.append(channel.wait(readable=True, writable=False, timeout_ns=LONG_NS))

    thread = threading.Thread(target=wait)
    thread.start()
    while not channel._sleepers and thread.is_alive():
        time.sleep(0)
    channel.close()
    thread.join(LONG_MS / 2000)

    assert not thread.is_alive()
    assert found == [True]
