"""Exceptions from outside, at every step of a call: nothing is lost or doubled, and the client goes on."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import hermes
import hermes.client
from hermes.client.connection import dial
from hermes.client.keeper import Keeper
from hermes.errors import Closed, ConnectFailed, ConnectionLost, Timeout, WouldBlock
from hermes.spi.transport import Channel, Transport
from hermes.spi.url import Url
from tests.effort import effort

CLIENT = str(Path(hermes.client.__file__).parent)
TRANSPORTS = ["tcp", "uring+tcp", "udp", "zmq+tcp", "inproc"]
TIMEOUT_S = 60.0
STEPS_MAX = 5000
"""More than any call here takes."""
STRIDE = {"line": effort(3, 1), "opcode": effort(35, 7)}
"""Steps from one interrupt to the next: a call has hundreds of lines, and thousands of opcodes."""


class Interrupted(BaseException):
    """As KeyboardInterrupt, which pytest takes for itself."""


class Interruption:
    """Raises in a call of the client, before its ``step``-th line or behind its ``step``-th opcode."""

    def __init__(self, step: int, way: str) -> None:
        self._left = step
        self._way = way
        self.raised = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        """As :func:`sys.settrace` wants it."""
        if not frame.f_code.co_filename.startswith(CLIENT):
            return None
        if self._way == "opcode":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == self._way and not self.raised:
            self._left -= 1
            if self._left == 0:
                self.raised = True
                sys.settrace(None)
                if self._way == "line":
                    raise Interrupted
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(threading.get_ident()), ctypes.py_object(Interrupted)
                )
        return self


def interrupt(call: Callable[[], object], step: int, way: str) -> bool:
    """Interrupt ``call``; False if it has fewer steps."""
    trace = Interruption(step, way)
    before = sys.gettrace()
    with contextlib.suppress(Interrupted):  # one in a finalizer is swallowed by Python
        try:
            sys.settrace(trace)
            try:
                call()
            finally:
                sys.settrace(None)
            for _ in range(10):  # an asynchronous one that was not raised yet
                pass
        finally:
            sys.settrace(before)
    return trace.raised


def steps(way: str) -> Iterator[int]:
    """Steps at which a call is interrupted, one after the other."""
    return iter(range(1, STEPS_MAX, STRIDE[way]))


@pytest.fixture(params=TRANSPORTS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL at which a broker listens."""
    where = "inproc://interrupts" if request.param == "inproc" else f"{request.param}://127.0.0.1:0"
    with hermes.Broker(listeners=[where, "tcp://127.0.0.1:0"], storage="memory:") as broker:
        yield broker.url


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ways = pytest.mark.parametrize("way", ["line", "opcode"])


@pytest.mark.thorough
@ways
@pytest.mark.parametrize("taking", ["receive", "batches"])
def test_an_interrupted_consumer_loses_nothing(url: str, taking: str, way: str):
    """A message that receive() or batches() did not return is returned by the next call."""
    with (
        hermes.connect(url, timeout=TIMEOUT_S, reconnect=False) as client,
        hermes.connect(url, timeout=TIMEOUT_S) as other,
    ):
        subscription, publisher = client.subscribe("md.a"), other.publisher("md.a")

        def take() -> Any:
            if taking == "receive":
                return [subscription.receive(TIMEOUT_S)]
            return next(subscription.batches(TIMEOUT_S))

        told = 0
        for step in steps(way):
            sent = publisher.send_many([b"x"] * 3)
            publisher.flush()
            found: list[Any] = []

            again = interrupt(lambda into=found: into.append(take()), step, way)  # type: ignore[misc]

            # What take() was about to return when an asynchronous one came is handed out already.
            leeway = 3 if way == "opcode" and not found else 0
            while told < sent:
                sequences = [message.sequence for message in found.pop()] if found else []
                if sequences:
                    assert told < sequences[0] <= told + 1 + leeway
                    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
                    told, leeway = sequences[-1], 0
                elif leeway and told + leeway >= sent and not ready(client, subscription):
                    told = sent
                else:
                    found.append(take())
            if not again:
                return
        pytest.fail("the call has no end")


def ready(client: hermes.Client, subscription: hermes.Subscription) -> bool:
    """Whether there is something to take, all that was sent having come."""
    client.ping()
    client.ping()  # its answer comes behind all that was to be delivered at the first
    with contextlib.suppress(Timeout):
        subscription._fill(time.monotonic_ns() + 200_000_000, 200_000_000)
        return True
    return False


CALLS: dict[str, Callable[[hermes.Client, hermes.Publisher, hermes.Subscription], object]] = {
    "send": lambda client, publisher, subscription: publisher.send(b"x"),
    "send_many": lambda client, publisher, subscription: publisher.send_many([b"x", b"y"]),
    "flush": lambda client, publisher, subscription: (publisher.send(b"x"), publisher.flush()),
    "acked": lambda client, publisher, subscription: (publisher.send(b"x"), publisher.acked),
    "commit": lambda client, publisher, subscription: subscription.commit({"default": 1}),
    "ping": lambda client, publisher, subscription: client.ping(),
    "query": lambda client, publisher, subscription: client.streams(),
    "publisher": lambda client, publisher, subscription: client.publisher("md.b").close(),
    "subscribe": lambda client, publisher, subscription: client.subscribe("md.b").close(),
}


@pytest.mark.thorough
@ways
@pytest.mark.parametrize(
    ("url", "name"),
    [("tcp", name) for name in CALLS] + [(scheme, "flush") for scheme in TRANSPORTS[1:]],
    indirect=["url"],
)
def test_an_interrupted_call_leaves_the_client_usable(url: str, name: str, way: str):
    """Messages that were sent arrive once and in order, every other call works, and nothing stays open."""
    with (
        hermes.connect(url, timeout=TIMEOUT_S, reconnect=False) as client,
        hermes.connect(url, timeout=TIMEOUT_S) as other,
    ):
        read = other.subscribe("md.a")
        publisher = client.publisher("md.a")
        subscription = client.subscribe("md.a", durable="mine")

        for step in steps(way):
            again = interrupt(lambda: CALLS[name](client, publisher, subscription), step, way)

            publisher.send(b"after")
            publisher.flush()
            assert client.ping() > 0
            if not again:
                break
        assert [read.receive(TIMEOUT_S).sequence for _ in range(publisher.sent)] == list(
            range(1, publisher.sent + 1)
        )
        with pytest.raises(Timeout):
            read.receive(0.01)
        stats = next(one for one in other.stats()["clients"] if one["subscriptions"] == 1)
        assert stats["publishers"] <= 1


@pytest.mark.thorough
@ways
@pytest.mark.parametrize("url", ["tcp", "udp"], indirect=True)
def test_an_interrupted_close_can_be_repeated(url: str, way: str):
    """close() that was interrupted is finished by the next one, and nothing taken is lost."""
    with hermes.connect(url, timeout=TIMEOUT_S) as other:
        read = other.subscribe("md.a")
        for step in range(1, STEPS_MAX, effort(15, 5)):
            client = hermes.connect(url, timeout=TIMEOUT_S)
            publisher = client.publisher("md.a")
            publisher.send(b"%d" % step)

            again = interrupt(client.close, step, way)
            client.close()

            assert client.closed
            assert read.receive(TIMEOUT_S).payload == b"%d" % step
            with pytest.raises(Closed):
                client.ping()
            if not again:
                return
        pytest.fail("the call has no end")


def test_a_call_of_its_own_thread_is_refused_at_once(client: hermes.Client):
    """In the middle of a change nothing can be done, and nothing waits for its own thread."""
    publisher, subscription = client.publisher("md.a"), client.subscribe("md.a")

    with client._connection.locked(None):  # as a handler that came while it was held
        for call in (client.ping, publisher.flush, subscription.receive, client.streams):
            with pytest.raises(WouldBlock, match="in the middle of another call"):
                call()
        publisher.send(b"x")
        subscription.close()
        client.close()

    with pytest.raises(Closed):
        client.ping()
    assert client.closed


ALARMS = [TimeoutError, OSError, BlockingIOError, ConnectionResetError, IndexError, Timeout]


@pytest.mark.parametrize("kind", ALARMS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_a_handler_raises_is_what_comes_out(transport: str, kind: type[Exception]):
    """A call that waits ends with the exception of a signal handler, of whatever kind: it is not
    taken for an error of the connection."""
    url = "inproc://alarms" if transport == "inproc" else f"{transport}://127.0.0.1:0"

    def alarm(*_: object) -> None:
        raise kind("the alarm")

    def interrupted(call: Callable[[], object]) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        call()

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with (
            hermes.Broker(listeners=[url], storage="memory:") as broker,
            hermes.connect(broker.url, timeout=TIMEOUT_S) as client,
            client.subscribe("none") as subscription,
        ):
            link = client._connection.link
            calls: list[Callable[[], object]] = [
                lambda: subscription.receive(TIMEOUT_S),
                lambda: next(subscription.messages(TIMEOUT_S)),
                lambda: next(subscription.batches(TIMEOUT_S)),
            ]
            for call in calls:
                with pytest.raises(kind, match=r"^the alarm$"):
                    interrupted(call)
            if transport != "zmq+tcp":  # which Python reads: it is not trusted after an interrupt
                assert client._connection.link is link
            client.ping()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_while_a_connection_is_taken_down(
    broker: hermes.Broker, monkeypatch: pytest.MonkeyPatch
):
    """The time to go on trying begins with this loss, not with one that never was: attempts that
    fail are repeated."""
    with hermes.connect(broker.url, timeout=TIMEOUT_S, reconnect=TIMEOUT_S) as client:
        connection = client._connection
        retire, failures = connection._retire, [0]

        def interrupted() -> None:
            retire()
            monkeypatch.setattr(connection, "_retire", retire)
            raise Interrupted

        def refused(transport: Transport, url: Url, deadline: int | None) -> Channel:
            failures[0] += 1
            if failures[0] < 3:
                raise ConnectFailed("not yet")
            return dial(transport, url, deadline)

        monkeypatch.setattr("hermes.client.connection.dial", refused)
        monkeypatch.setattr(connection, "_retire", interrupted)
        with pytest.raises(Interrupted), connection.locked(None):
            connection._broke(ConnectionLost("it broke"))

        client.ping()

    assert failures[0] == 3


def test_connecting_again_starts_no_plugin(broker: hermes.Broker, monkeypatch: pytest.MonkeyPatch):
    """A client keeps its transport: an interrupt while a plugin starts would make it look broken."""
    with hermes.connect(broker.url, timeout=TIMEOUT_S) as client:

        def start(*_: object) -> None:
            raise AssertionError("a plugin was started")

        monkeypatch.setattr("hermes.plugins.discovery._made", start)
        with client._connection.locked(None):
            client._connection._broke(ConnectionLost("it broke"))

        client.ping()


def test_a_short_call_after_an_interrupt_ends_nothing(
    broker: hermes.Broker, monkeypatch: pytest.MonkeyPatch
):
    """The attempt that a call has no time for is repeated by the next, also with reconnect=False."""
    with hermes.connect(broker.url, timeout=TIMEOUT_S, reconnect=False) as client:
        attempts = []

        def slow(transport: Transport, url: Url, deadline: int | None) -> Channel:
            attempts.append(deadline)
            if len(attempts) == 1:
                raise ConnectFailed("not within this call's time")
            return dial(transport, url, deadline)

        monkeypatch.setattr("hermes.client.connection.dial", slow)
        with pytest.raises(Interrupted), client._connection.locked(None):
            raise Interrupted

        with contextlib.suppress(Timeout):
            client.ping(timeout=0.001)
        client.ping()

    assert len(attempts) > 1


class Idle:
    """A client that has nothing to do, and tells that it was looked after."""

    over = False

    def __init__(self) -> None:
        self.looked = threading.Event()

    def look_after(self) -> None:
        self.looked.set()


@ways
@pytest.mark.parametrize("leaving", [False, True])
def test_an_interrupted_call_leaves_the_keeper_at_work(
    monkeypatch: pytest.MonkeyPatch, leaving: bool, way: str
):
    """Wherever an exception strikes while a client comes or goes, the next one is looked after."""
    monkeypatch.setattr("hermes.client.keeper.LOOK_S", 0.001)
    others = set(threading.enumerate())
    for step in range(1, STEPS_MAX):
        keeper, first, second = Keeper(), Idle(), Idle()
        if leaving:
            keeper.add(first)
        raised = interrupt(lambda: (keeper.remove if leaving else keeper.add)(first), step, way)  # noqa: B023

        keeper.add(second)
        assert second.looked.wait(TIMEOUT_S), f"after an exception at step {step}"
        keeper.remove(first)
        keeper.remove(second)
        if not raised:
            break

    assert step > 5
    for thread in set(threading.enumerate()) - others:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
