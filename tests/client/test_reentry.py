"""One thread twice in a client, clients that others close meanwhile, and objects that are dropped."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hermes
from hermes.errors import Closed, HermesError
from hermes.wire.messages import QUERIES_MAX
from tests.client.conftest import Wire

TRANSPORTS = ["tcp", "uring+tcp", "udp", "zmq+tcp", "inproc"]
TIMEOUT_S = 60.0


@pytest.fixture(params=TRANSPORTS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL at which a broker listens."""
    where = "inproc://reentry" if request.param == "inproc" else f"{request.param}://127.0.0.1:0"
    with hermes.Broker(listeners=[where], storage="memory:") as broker:
        yield broker.url


def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("what", ["subscription.close", "client.close", "publisher.flush", "ask"])
def test_a_signal_handler_may_use_the_client_that_waits(url: str, what: str):
    """A handler that came while the main thread waits for messages, for ever, is served at once."""
    client = hermes.connect(url, timeout=None)
    subscription, publisher = client.subscribe("none"), client.publisher("bye")
    done: list[str] = []

    def handler(*_: Any) -> None:
        if what == "publisher.flush":
            publisher.send(b"bye")
            publisher.flush()
        elif what == "ask":
            client.streams()
        elif what == "client.close":
            client.close()
        done.append(what)
        subscription.close()

    def tell() -> None:
        until(lambda: not client._connection._reading.free)
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=tell)
    thread.start()
    try:
        assert list(subscription) == []
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()

    assert done == [what]
    assert publisher.acked == (1 if what == "publisher.flush" else 0)
    client.close()


@pytest.mark.parametrize("what", ["close", "flush", "ask", "receive"])
def test_a_function_for_gaps_may_use_the_client(serve: Callable[..., hermes.Broker], what: str):
    """The function is called without the lock: it may end its subscription, flush, ask, and receive."""
    broker = serve(storage="memory:", segment="64KiB", retention="128KiB")
    with hermes.connect(broker.url, timeout=TIMEOUT_S) as client:
        publisher, alerts = client.publisher("md.a"), client.publisher("alerts")
        publisher.send_many([b"x" * 5000] * 400)
        publisher.flush()
        found: list[object] = []

        def on_gap(gap: hermes.client.Gap) -> None:
            if what == "close":
                subscription.close()
            elif what == "flush":
                alerts.send(b"gap")
                alerts.flush()
            elif what == "ask":
                client.streams()
            else:
                found.append(subscription.receive(TIMEOUT_S).sequence)
            found.append(gap.last)

        subscription = client.subscribe("md.a", start=1, on_gap=on_gap)
        if what == "close":
            with pytest.raises(Closed):
                subscription.receive(TIMEOUT_S)
        else:
            found.append(subscription.receive(TIMEOUT_S).sequence)

    assert found
    if what == "receive":
        assert found == [found[1] + 1, found[1], found[1] + 2]  # type: ignore[operator]


def test_a_logging_handler_may_use_the_client(wire: Wire):
    """Records about a client are logged without its lock."""
    said: list[str] = []

    class Asking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "connected again" in record.getMessage():
                client.ping()
                said.append(record.getMessage())

    log, handler = logging.getLogger("hermes.client"), Asking()
    log.addHandler(handler)
    try:
        with hermes.connect(wire.url, timeout=TIMEOUT_S) as client:
            wire.cut()
            until(lambda: client.ping() > 0 and bool(said))
    finally:
        log.removeHandler(handler)

    assert said


def test_whoever_waits_when_a_client_is_closed_gets_closed(url: str):
    """Always the same: Closed, or the end of a loop over messages."""
    client = hermes.connect(url, timeout=TIMEOUT_S)
    outcomes: dict[str, str] = {}
    began = threading.Barrier(8)

    def receive() -> None:
        subscription = client.subscribe("a")
        began.wait()
        while True:
            subscription.receive()

    def iterate() -> None:
        subscription = client.subscribe("a")
        began.wait()
        for _ in subscription:
            pass

    def batches() -> None:
        subscription = client.subscribe("a")
        began.wait()
        for _ in subscription.batches():
            pass

    def send() -> None:
        publisher = client.publisher("a")
        began.wait()
        while True:
            publisher.send(b"x")

    def flush() -> None:
        publisher = client.publisher("a")
        began.wait()
        while True:
            publisher.send(b"x")
            publisher.flush()

    def send_many() -> None:
        publisher = client.publisher("b", window=1 << 16)
        began.wait()
        while True:
            publisher.send_many([bytes(1000)] * 200)

    def ask() -> None:
        began.wait()
        while True:
            client.streams()

    def run(work: Callable[[], None]) -> None:
        try:
            work()
            outcomes[work.__name__] = "ended"
        except HermesError as error:
            outcomes[work.__name__] = f"{type(error).__name__}: {error}"

    threads = [
        threading.Thread(target=run, args=(work,))
        for work in (receive, iterate, batches, send, flush, send_many, ask)
    ]
    for thread in threads:
        thread.start()
    began.wait(TIMEOUT_S)
    client.close()
    for thread in threads:
        thread.join(TIMEOUT_S)

    closed = "Closed: the client is closed"
    assert outcomes == {
        **dict.fromkeys(["receive", "send", "flush", "send_many", "ask"], closed),
        "iterate": "ended",
        "batches": "ended",
    }


def test_more_threads_than_queries_may_ask_at_once(client: hermes.Client):
    """Threads over the broker's bound wait for an answer to another one."""
    failed: list[HermesError] = []

    def ask() -> None:
        try:
            for _ in range(5):
                client.streams()
        except HermesError as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2 * QUERIES_MAX)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert failed == []
    assert client.connected


def test_one_publisher_too_many_is_refused_here(serve: Callable[..., hermes.Broker]):
    """The broker's limit is named, and the connection lives."""
    broker = serve(storage="memory:", limits={"publishers": 2})
    with hermes.connect(broker.url) as client:
        first, second = client.publisher("a"), client.publisher("a")

        with pytest.raises(hermes.errors.Refused, match=r"limits\.publishers") as caught:
            client.publisher("a")

        assert caught.value.code == "too_many_publishers"
        second.close()
        client.publisher("a").send(b"x")
        first.send(b"x")
        first.flush()


def test_what_is_dropped_ends(client: hermes.Client, other: hermes.Client):
    """The last reference to a subscription or publisher ends it, with a warning; what the publisher
    had taken is acknowledged first."""

    def mine() -> dict[str, Any]:
        return next(one for one in other.stats()["clients"] if one["number"] == number)

    read = other.subscribe("md.a")
    subscription, publisher = client.subscribe("md.b"), client.publisher("md.a", linger=0.01)
    number = next(one["number"] for one in other.stats()["clients"] if one["publishers"] == 1)
    publisher.send(b"kept")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del subscription, publisher
        gc.collect()

    until(lambda: client.ping() > 0 and (mine()["subscriptions"], mine()["publishers"]) == (0, 0))
    assert read.receive(TIMEOUT_S).payload == b"kept"
    assert sorted(str(one.message).split(" of ")[0] for one in said) == [
        "a publisher",
        "a subscription",
    ]
