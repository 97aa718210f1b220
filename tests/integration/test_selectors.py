"""Brokers on systems without epoll: every selector of the standard library serves TCP."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterator

import pytest

import hermes
from hermes.broker import Broker
from tests.selecting import PLAIN

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
MANY = 20_000


@pytest.fixture(params=[1, 2], ids=["one listener", "two listeners"])
def listeners(request: pytest.FixtureRequest) -> list[str]:
    """One listener, in which the loop waits, or two, which it waits for together."""
    return ["tcp://127.0.0.1:0"] * int(request.param)


@pytest.fixture(params=PLAIN)
def broker(
    request: pytest.FixtureRequest, listeners: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Broker]:
    """A broker that sleeps when it has nothing to do, over each selector."""
    monkeypatch.setattr(selectors, "DefaultSelector", request.param)
    with Broker(listeners=listeners, storage="memory:", idle="block") as made:
        yield made


def test_messages_go_round_and_in_bulk(broker: Broker) -> None:
    """Single messages and many at once arrive, in order, at every listener, between sleeps."""
    urls = [listener.url for listener in broker.listeners]
    with hermes.connect(urls[0]) as sender, hermes.connect(urls[-1]) as receiver:
        subscription = receiver.subscribe("a")
        with sender.publisher("a") as publisher:
            for number in range(100):
                publisher.send(b"%d" % number)
                publisher.flush(DEADLINE_S)
                assert subscription.receive(timeout=DEADLINE_S).payload == b"%d" % number
            for number in range(MANY):
                publisher.send(b"%d" % number)
            got = [subscription.receive(timeout=DEADLINE_S).payload for _ in range(MANY)]

    assert got == [b"%d" % number for number in range(MANY)]


def test_a_client_that_ends_is_noticed_and_another_is_let_be(broker: Broker) -> None:
    """Connections come and go while another one is served, and their descriptors are used again."""
    with hermes.connect(broker.url) as staying:
        for _ in range(20):
            hermes.connect(broker.url).close()
        with staying.publisher("a") as publisher:
            publisher.send(b"still here")
            publisher.flush(DEADLINE_S)
        deadline = time.monotonic() + DEADLINE_S
        while broker.stats()["connections"]["open"] != 1:
            assert time.monotonic() < deadline, "the broker still counts clients that have gone"
            time.sleep(0.01)
