"""One meaning of a time, everywhere: negative is now, None and infinity are for ever, NaN is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from typing import Any

import numpy as np
import pytest

import hermes
from hermes import errors
from hermes.base import checks
from hermes.base.checks import FOR_EVER_NS, nanoseconds

WAIT_S = 60.0
MOMENT_S = 0.3
"""Seconds after which a call that waits for ever is seen to wait."""
PAST = [0, 0.0, -0.0, -1e-9, -1, -1e12, -math.inf, np.float64(-0.5), np.int64(-3), -(10**400)]
ENDLESS = [math.inf, 1e12, 10**12, 10**400, np.float64("inf"), np.int64(2**62)]

WAITS: dict[str, Callable[[hermes.Client, hermes.Subscription, Any], Any]] = {
    "receive": lambda client, subscription, timeout: subscription.receive(timeout=timeout),
    "messages": lambda client, subscription, timeout: next(subscription.messages(timeout=timeout)),
    "batches": lambda client, subscription, timeout: next(subscription.batches(timeout=timeout)),
}


@pytest.fixture
def quiet(client: hermes.Client) -> Iterator[hermes.Subscription]:
    """A subscription to which nothing comes."""
    with client.subscribe("quiet") as subscription:
        yield subscription


@pytest.mark.parametrize("timeout", PAST, ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_a_time_that_has_passed_is_now(
    client: hermes.Client, quiet: hermes.Subscription, wait: Any, timeout: Any
) -> None:
    """Nothing is there, and the call says so without waiting."""
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(wait, client, quiet, timeout).exception(WAIT_S)

    assert isinstance(found, hermes.Timeout)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_what_is_there_now_is_returned(client: hermes.Client, wait: Any) -> None:
    """A deadline that has passed does not hide a message that has come."""
    with client.subscribe("md.a") as subscription, client.publisher("md.a") as publisher:
        for number in range(2):
            publisher.send(b"x")
            while not number:  # the first tells when messages come at all
                if subscription.receive(timeout=WAIT_S):
                    break
        client.ping()

        assert wait(client, subscription, -1)


@pytest.mark.parametrize("timeout", [None, *ENDLESS], ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_for_ever_is_for_ever(client: hermes.Client, wait: Any, timeout: Any) -> None:
    """The call waits until a message comes, and raises nothing meanwhile."""
    with client.subscribe("md.a") as subscription, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(wait, client, subscription, timeout)
        with pytest.raises(NotDone):
            waiting.result(MOMENT_S)
        with client.publisher("md.a") as publisher:
            publisher.send(b"x")

        assert waiting.result(WAIT_S)


@pytest.mark.parametrize("nan", [math.nan, -math.nan, np.float64("nan")])
def test_nan_is_no_time(client: hermes.Client, broker: hermes.Broker, nan: Any) -> None:
    """Each argument that is a time refuses it by name, a message that would be taken included."""
    publisher = client.publisher("md.a")
    with client.subscribe("md.a") as subscription:
        calls: dict[str, Callable[[], Any]] = {
            "timeout": lambda: hermes.connect(broker.url, timeout=nan),
            "reconnect": lambda: hermes.connect(broker.url, reconnect=nan),
            "spin": lambda: hermes.connect(broker.url, spin=nan),
            "linger": lambda: client.publisher("md.a", linger=nan),
        }
        waits = [
            lambda: subscription.receive(timeout=nan),
            lambda: subscription.messages(timeout=nan),
            lambda: publisher.send(b"", timeout=nan),
            lambda: publisher.flush(nan),
            lambda: client.ping(timeout=nan),
            lambda: client.close(nan),
        ]
        for name, call in [*calls.items(), *(("timeout", wait) for wait in waits)]:
            with pytest.raises(errors.UsageError, match=f"{name} .*NaN"):
                call()

        assert publisher.send(b"the first") == 1
        assert subscription.receive(timeout=WAIT_S).payload == b"the first"


def test_a_wrong_time_is_refused_though_messages_are_there(client: hermes.Client) -> None:
    """A message that would have been returned is returned by the next call."""
    with client.subscribe("md.a") as subscription, client.publisher("md.a") as publisher:
        publisher.send_many([b"one", b"two"])
        assert subscription.receive(timeout=WAIT_S).payload == b"one"
        with pytest.raises(errors.WrongType, match="timeout"):
            subscription.receive(timeout="soon")  # type: ignore[arg-type]

        assert subscription.receive(timeout=np.float64(WAIT_S)).payload == b"two"


def test_a_clients_times_can_be_without_end(broker: hermes.Broker) -> None:
    """``timeout``, ``reconnect`` and ``spin`` take infinity and None, and the client works."""
    for value in (None, *ENDLESS):
        with hermes.connect(broker.url, timeout=value, reconnect=value, spin=0) as client:
            assert client.timeout is None
            assert client.ping() >= 0
        client = hermes.connect(broker.url)
        client.timeout = value
        assert client.timeout is None
        client.close(timeout=value)


def test_a_refused_connect_leaves_nothing_open(broker: hermes.Broker) -> None:
    """No connection is begun with an argument that cannot work."""
    with hermes.connect(broker.url) as client:
        before = client.stats()
        for arguments in (
            {"reconnect": "soon"},
            {"spin": "1ms"},
            {"credentials": {"password": 5}},
            {"credentials": {"password": "x" * 100_000}},
            {"identity": ""},
            {"queue_bytes": 0},
            {"name": b"me"},
        ):
            with pytest.raises(errors.UsageError):
                hermes.connect(broker.url, **arguments)  # type: ignore[arg-type]

        assert client.stats()["connections"] == before["connections"]


def test_a_password_is_not_shown() -> None:
    """An error about a URL or a credential never repeats it."""
    for call in (
        lambda: hermes.connect(b"tcp://me:secret@127.0.0.1"),  # type: ignore[arg-type]
        lambda: hermes.connect("tcp://me:secret@127.0.0.1:x"),
        lambda: hermes.connect("inproc:", credentials={"password": b"secret"}),  # type: ignore[dict-item]
        lambda: hermes.connect("inproc:", credentials="secret"),  # type: ignore[arg-type]
        lambda: hermes.connect("inproc:", credentials={"password": "secret\ud800"}),
    ):
        with pytest.raises(errors.UsageError) as found:
            call()

        assert "secret" not in str(found.value)


def test_a_linger_is_a_minute_at_most(client: hermes.Client) -> None:
    """A longer one lasts that long: a message *may* wait, and flush sends it."""
    for linger in (61, *ENDLESS):
        with client.publisher("md.a", linger=linger) as publisher:
            publisher.send(b"x")
            publisher.flush(timeout=WAIT_S)


@pytest.mark.parametrize(
    ("seconds", "ns"),
    [(0.25, 250_000_000), (1, 10**9), (1e-9, 1), (None, FOR_EVER_NS), (3153600000, FOR_EVER_NS)],
)
def test_seconds_become_nanoseconds(seconds: Any, ns: int) -> None:
    """Exactly, up to a hundred years."""
    assert nanoseconds(seconds, "timeout") == ns
    assert checks.duration(seconds, "timeout") == (None if ns == FOR_EVER_NS else seconds)
