"""Connections that break: everything goes on, exactly once, or says that it does not."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest

import hermes
from hermes.client.connection import SLIPS_MAX, dial
from hermes.client.pump import GLANCE_S
from hermes.client.steps import Until
from hermes.errors import (
    ConnectFailed,
    ConnectionLost,
    HermesError,
    InvalidUrl,
    MalformedInput,
    Refused,
    SystemFault,
    Timeout,
)
from hermes.native import Log
from hermes.spi.transport import Channel, Transport
from hermes.spi.url import Url
from tests.client.conftest import Wire

pytestmark = pytest.mark.slow


def stored(broker: hermes.Broker) -> list[bytes]:
    """The payloads of everything that is in the broker's log."""
    with hermes.connect(broker.url) as client:
        count = client.streams()[0]["messages"]
        subscription = client.subscribe(">", start="earliest")
        return [subscription.receive(60).payload for _ in range(count)]


@pytest.mark.parametrize("linger", [None, 0.002])
def test_unacknowledged_messages_are_sent_again_once(
    broker: hermes.Broker, wire: Wire, linger: float | None
):
    """Connections cut again and again while publishing: every message is in the log once, in order."""
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a", linger=linger)
        for i in range(2000):
            publisher.send(b"%d" % i)
            if i % 400 == 200:
                wire.cut()
        publisher.flush()

        assert publisher.acked == 2000
        assert wire.connections >= 3
    assert stored(broker) == [b"%d" % i for i in range(2000)]


def test_a_break_and_its_end_are_logged(wire: Wire, caplog: pytest.LogCaptureFixture):
    """A user who waits meanwhile is told what for: that the connection broke, and that it is back."""
    with hermes.connect(wire.url, timeout=20) as client:
        wire.cut()
        client.ping()

    broke, back = (record.getMessage() for record in caplog.records)
    assert "trying to connect again for 30 s" in broke
    assert "connected again after" in back


def test_what_the_broker_has_but_did_not_acknowledge_is_not_appended_twice(
    broker: hermes.Broker, wire: Wire
):
    """Acknowledgements are lost with the connection: everything is sent again on the next one,
    acknowledged, and in the log once."""
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a")
        wire.hold("down")
        publisher.send_many([b"%d" % i for i in range(500)])
        with hermes.connect(broker.url) as other:
            deadline = time.monotonic() + 10
            while other.streams()[0]["messages"] < 500:
                assert time.monotonic() < deadline
        assert publisher.acked == 0
        wire.cut()
        wire.let_go()
        publisher.flush()

        assert publisher.acked == 500
    assert stored(broker) == [b"%d" % i for i in range(500)]


def test_what_the_broker_has_in_memory_only_is_not_durable_after_a_reconnect(
    serve: Callable[..., hermes.Broker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A broker that says on a new connection what it has does not promise that it is on disk: a
    durable publisher waits for the sync all the same, and gets its acknowledgement then."""
    broker = serve(storage=f"mmap:{tmp_path}")
    wire = Wire(broker.url)
    sync_begin = Log.sync_begin
    held: list[Log] = []
    monkeypatch.setattr(Log, "sync_begin", lambda log: held.append(log))
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a", ack="durable")
        publisher.send_many([b"0", b"1", b"2"])
        with hermes.connect(broker.url) as other:
            deadline = time.monotonic() + 10
            while other.streams()[0]["messages"] < 3 or not held:
                assert time.monotonic() < deadline
        wire.cut()
        assert client.ping() > 0

        with pytest.raises(Timeout):
            publisher.flush(0.2)
        assert publisher.acked == 0

        monkeypatch.undo()
        for log in held:
            sync_begin(log)
        publisher.flush()
        assert publisher.acked == 3

        wire.cut()
        publisher.send(b"3")
        publisher.flush()
        assert publisher.acked == 4
    wire.close()
    assert stored(broker) == [b"0", b"1", b"2", b"3"]


def test_a_durable_publisher_hears_of_what_was_on_disk_before_it_came_back(
    serve: Callable[..., hermes.Broker], tmp_path: Path
):
    """A message that is sent again and on disk already is acknowledged at once: no sync would tell."""
    broker = serve(storage=f"mmap:{tmp_path}")
    wire = Wire(broker.url)
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a", ack="durable")
        wire.hold("down")
        publisher.send(b"0")
        with hermes.connect(broker.url) as other:
            # Behind it in the same log, and acknowledged: so it is on disk itself.
            deadline = time.monotonic() + 10
            while other.streams()[0]["messages"] < 1:
                assert time.monotonic() < deadline
            second = other.publisher("md.a", ack="durable")
            second.send(b"1")
            second.flush()
        wire.cut()
        wire.let_go()

        publisher.flush()

        assert publisher.acked == 1
    wire.close()
    assert stored(broker) == [b"0", b"1"]


def test_a_subscription_goes_on_without_a_gap_or_a_repetition(broker: hermes.Broker, wire: Wire):
    """Cut while messages stream in: the subscriber gets each exactly once, in order."""
    with hermes.connect(wire.url, timeout=20) as client, hermes.connect(broker.url) as other:
        subscription = client.subscribe("md.a")
        publisher = other.publisher("md.a")
        found: list[bytes] = []
        for i in range(10):
            publisher.send_many([b"%d" % (i * 100 + k) for k in range(100)])
            if i % 3 == 1:
                wire.cut()
            found += [subscription.receive(60).payload for _ in range(60)]
        found += [subscription.receive(60).payload for _ in range(400)]

        assert found == [b"%d" % i for i in range(1000)]
        assert wire.connections >= 3
        with pytest.raises(Timeout):
            subscription.receive(0.05)


def test_a_message_sent_during_an_outage_is_kept_and_sent_later(broker: hermes.Broker, wire: Wire):
    """While nobody answers, send() takes the message, says so with Timeout, and delivers it once later."""
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a")
        wire.hold("down")
        publisher.send(b"before")
        wire.refusing = True
        wire.cut()
        wire.let_go()
        with pytest.raises(Timeout):
            client.ping(timeout=0.2)  # by now the loss is known
        with pytest.raises(Timeout, match="do not send it again; 2 messages"):
            publisher.send(b"during", timeout=0.2)
        with pytest.raises(Timeout, match="0 of them are on the wire"):
            publisher.flush(timeout=0.05)
        wire.refusing = False
        publisher.send(b"after")
        publisher.flush()

    assert stored(broker) == [b"before", b"during", b"after"]


def test_a_lingering_publisher_reconnects_by_itself(broker: hermes.Broker, wire: Wire):
    """With a linger, send() does not wait for the broker to come back, and nothing is lost."""
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a", linger=0.001)
        publisher.send(b"0")
        publisher.flush()
        wire.cut()
        for i in range(1, 200):
            publisher.send(b"%d" % i)
        publisher.flush()

    assert stored(broker) == [b"%d" % i for i in range(200)]


def test_trying_has_a_bound(wire: Wire):
    """When the broker does not come back, the error says how long and how often it was tried."""
    client = hermes.connect(wire.url, reconnect=0.3)
    subscription = client.subscribe("md.a")
    wire.refusing = True
    wire.cut()
    begun = time.monotonic()

    with pytest.raises(ConnectionLost, match=r"\d+ attempts in \d"):
        subscription.receive()

    assert 0.2 < time.monotonic() - begun < 60
    with pytest.raises(ConnectionLost):
        client.publisher("md.a")
    assert client.closed
    client.close()


def test_without_reconnect_a_broken_connection_is_an_error(wire: Wire):
    """reconnect=False: the first use after the connection broke raises, what is lost is counted."""
    client = hermes.connect(wire.url, reconnect=False)
    publisher = client.publisher("md.a")
    wire.cut()

    def publish() -> None:
        for _ in range(1000):
            publisher.send(b"x")
            publisher.flush()

    with pytest.raises(ConnectionLost):
        publish()

    with pytest.raises(ConnectionLost, match="1 messages are unacknowledged"):
        client.close()


def test_a_deadline_holds_while_reconnecting(wire: Wire):
    """receive() with a timeout gives up in time although the broker is away."""
    client = hermes.connect(wire.url, reconnect=240)
    subscription = client.subscribe("md.a")
    wire.refusing = True
    wire.cut()
    begun = time.monotonic()

    with pytest.raises(Timeout):
        subscription.receive(0.3)

    assert time.monotonic() - begun < 60
    wire.refusing = False
    client.close()


def test_back_pressure_waits_then_says_how_much_is_queued(wire: Wire):
    """A broker that does not read: send() waits, then raises Timeout with the queue; nothing is lost."""
    with hermes.connect(wire.url, timeout=20) as client:
        publisher = client.publisher("md.a", window=1 << 20)
        wire.hold("up")
        sent = 0

        def publish() -> None:
            nonlocal sent
            while True:
                publisher.send(b"%d" % sent + b" " * 4000, timeout=0.2)
                sent += 1

        with pytest.raises(Timeout, match=r"messages \(\d+ bytes\) are queued") as caught:
            publish()
        taken = publisher.sent
        assert taken in (sent, sent + 1)
        assert ("not taken" in str(caught.value)) == (taken == sent)

        with pytest.raises(Timeout, match=r"\d+ of 1000 messages were taken"):
            publisher.send_many([b"x" * 4000] * 1000, timeout=0.2)
        wire.let_go()
        publisher.flush()
        assert publisher.acked == publisher.sent


def test_a_client_that_waits_for_room_reads_meanwhile(broker: hermes.Broker):
    """A publisher under back-pressure takes its acknowledgements: both directions never wait at once."""
    with hermes.connect(broker.url, timeout=20) as client, hermes.connect(broker.url) as other:
        subscription = other.subscribe("md.a")
        publisher = client.publisher("md.a", window=1 << 16, ack="appended")
        sending = threading.Thread(
            target=lambda: [publisher.send(b"x" * 1000) for _ in range(5000)]
        )
        sending.start()
        found = [subscription.receive(60) for _ in range(5000)]
        sending.join(60)

    assert found[-1].sequence == 5000


def test_bytes_changed_on_the_way_are_sent_again(broker: hermes.Broker, wire: Wire):
    """A flipped bit in a payload, once: the batch comes again over a new connection, and what was
    published behind it follows, each message once."""
    with hermes.connect(wire.url) as client, hermes.connect(broker.url) as other:
        subscription = client.subscribe("md.a")
        left = [b"precious"]

        def once(data: bytes) -> bytes:
            if left and left[0] in data:
                return data.replace(left.pop(), b"Precious")
            return data

        wire.tamper = once
        publisher = other.publisher("md.a")
        for payload in (b"before", b"precious", b"after"):
            publisher.send(payload)

        assert [subscription.receive(60).payload for _ in range(3)] == [
            b"before",
            b"precious",
            b"after",
        ]
        assert not left
        assert wire.connections == 2
        assert subscription.positions == {"default": 3}


@pytest.mark.parametrize("batches", [False, True])
def test_bytes_changed_on_the_way_every_time_are_an_error(wire: Wire, batches: bool):
    """A payload that is changed each time it comes: MalformedInput after a few connections, and the
    client is closed."""
    client = hermes.connect(wire.url)
    subscription = client.subscribe("md.a")
    wire.tamper = lambda data: data.replace(b"precious", b"Precious")
    client.publisher("md.a").send(b"precious")

    with pytest.raises(MalformedInput, match="not what was published"):
        next(subscription.batches(60)) if batches else subscription.receive(60)

    assert wire.connections == SLIPS_MAX
    assert not client.connected
    with pytest.raises(MalformedInput):
        client.ping()
    client.close()


def test_nobody_there():
    """Connecting where nobody listens fails at once and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        url = f"tcp://127.0.0.1:{door.getsockname()[1]}"

    with pytest.raises(ConnectFailed, match="hermes serve"):
        hermes.connect(url)


def test_somebody_else_there():
    """A server that says nothing: Timeout in time; one that says something else: it is told apart."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        url = f"tcp://127.0.0.1:{door.getsockname()[1]}"
        with pytest.raises(Timeout, match="is that a Hermes broker"):
            hermes.connect(url, timeout=0.2)

        def speak() -> None:
            for _ in range(2):  # the first is the one that was not answered
                peer, _address = door.accept()
                with peer:
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(32))
                    while peer.recv(1000):
                        pass

        speaking = threading.Thread(target=speak)
        speaking.start()
        with pytest.raises(MalformedInput, match="not_hermes"):
            hermes.connect(url, timeout=5)
        speaking.join(60)


def test_a_broker_that_stops_says_goodbye():
    """A client of a broker that is stopped learns so, and cannot come back."""
    with hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker:
        client = hermes.connect(broker.url, reconnect=0.2)
        subscription = client.subscribe("md.a")
        problems: list[type] = []

        def wait() -> None:
            try:
                subscription.receive()
            except HermesError as error:
                problems.append(type(error))

        waiting = threading.Thread(target=wait)
        waiting.start()
    waiting.join(60)

    assert problems == [ConnectionLost]
    client.close()


def test_a_refused_publisher_says_how_much_is_lost_and_can_try_again(
    serve: Callable[..., hermes.Broker],
):
    """One topic too many: the publisher's next calls raise with the count; others are untouched."""
    broker = serve(limits={"topics": 2})
    with hermes.connect(broker.url) as client:
        publisher, sound = client.publisher("md.a"), client.publisher("md.a")
        publisher.send(b"1")
        publisher.send(b"2", "md.b")
        publisher.send(b"3", "md.c")
        publisher.send(b"4", "md.a")

        with pytest.raises(Refused, match="2 messages are unacknowledged") as caught:
            publisher.flush()
        assert caught.value.code == "too_many_topics"
        with pytest.raises(Refused):
            publisher.send(b"5")
        sound.send(b"sound")
        sound.flush()
        publisher.resend()
        with pytest.raises(Refused):
            publisher.flush()
        with pytest.raises(Refused):
            publisher.close()
        publisher.close()

    assert stored(broker) == [b"1", b"2", b"sound"]


def test_what_was_refused_is_not_lost_silently(serve: Callable[..., hermes.Broker]):
    """A publisher that was refused and never looked: close() of the client raises."""
    broker = serve(limits={"topics": 1})
    client = hermes.connect(broker.url)
    publisher = client.publisher("md.a")
    publisher.send(b"1")
    publisher.send(b"2", "md.b")

    with pytest.raises(Refused, match="1 messages are unacknowledged"):
        client.close()


def test_requests_survive_a_broken_connection(wire: Wire):
    """Subscribing, opening a publisher and asking on a connection that broke unnoticed: all work."""
    with hermes.connect(wire.url, timeout=20) as client:
        for _ in range(2):
            wire.cut()
            subscription = client.subscribe("md.a")
            wire.cut()
            publisher = client.publisher("md.a")
            publisher.send(b"x")
            assert subscription.receive(60).payload == b"x"
            subscription.close()
            wire.cut()
            assert client.streams()[0]["topics"] == 1
            wire.cut()
            assert client.ping() > 0


def test_a_commit_survives_a_broken_connection(wire: Wire):
    """commit() on a connection that broke unnoticed is stored on the next."""
    with hermes.connect(wire.url, timeout=20) as client:
        client.publisher("md.a").send_many([b"0", b"1"])
        subscription = client.subscribe("md.a", start="earliest", durable="app")
        subscription.receive(60)
        wire.cut()
        subscription.commit()
        subscription.close()
        client.ping()

        assert client.subscribe("md.a", durable="app").receive(60).payload == b"1"


@pytest.mark.parametrize(("timeout", "bound"), [(0.1, 0.1), (None, 3), ("acked", GLANCE_S)])
def test_nobody_waits_longer_than_he_said_for_an_attempt(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, timeout: float | str | None, bound: float
):
    """A lingering send() tries to connect again within its own timeout, or the client's; ``acked``
    within a moment."""
    with hermes.connect(wire.url, timeout=3) as client:
        publisher = client.publisher("md.a", linger=0.001)
        wire.refusing = True
        wire.cut()
        with pytest.raises(Timeout):
            client.ping(timeout=0.2)  # by now the loss is known
        limits: list[float] = []

        def watched(transport: Transport, url: Url, limit: int | None) -> Channel:
            assert limit is not None
            limits.append((limit - time.monotonic_ns()) / 1e9)
            return dial(transport, url, limit)

        monkeypatch.setattr("hermes.client.connection.dial", watched)
        monkeypatch.setattr(client._connection, "_next_ns", 0)  # it is time to try

        if isinstance(timeout, str):
            assert publisher.acked == 0
        else:
            assert publisher.send(b"x", timeout=timeout) == 1

        assert len(limits) == 1
        assert limits[0] <= bound
        wire.refusing = False
        publisher.flush(60)


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_NONAME])
def test_a_name_that_is_not_found_for_a_while_is_looked_up_again(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, code: int
):
    """A name server that is away while a client reconnects is another attempt that failed."""
    with hermes.connect(wire.url, timeout=20) as client:
        lookups: list[object] = []

        def away(*arguments: object, **options: object) -> None:
            lookups.append(arguments)
            raise socket.gaierror(code, "no")

        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", away)
            wire.cut()
            with pytest.raises(Timeout):
                client.ping(timeout=0.3)

        assert lookups
        assert client.ping() > 0
        assert wire.connections == 2


def test_no_answer_about_a_name_is_no_mistake_of_whoever_gave_it(monkeypatch: pytest.MonkeyPatch):
    """A name server that does not answer is not blamed on the URL, a name it does not know is."""
    failure = socket.gaierror(socket.EAI_AGAIN, "no answer")

    def fail(*arguments: object, **options: object) -> None:
        raise failure

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    with pytest.raises(ConnectFailed, match=r"'broker' cannot be looked up now .*no answer"):
        hermes.connect("tcp://broker:7601")
    with pytest.raises(SystemFault, match="cannot be looked up now"):
        hermes.Broker(listeners=["tcp://broker:7601"], storage="memory:").start()
    failure = socket.gaierror(socket.EAI_NONAME, "unknown")
    with pytest.raises(InvalidUrl, match="check its spelling"):
        hermes.connect("tcp://broker:7601")


def test_answers_that_nobody_awaits_any_more_are_forgotten(wire: Wire):
    """Pings that timed out leave nothing behind, whether their answers come later or never."""
    with hermes.connect(wire.url, timeout=20) as client:
        wire.hold("down")
        for _ in range(100):
            with pytest.raises(Timeout):
                client.ping(timeout=0)
        wire.let_go()

        assert client.ping() > 0

        assert client._connection.session.pings == set()


def test_a_broker_that_comes_and_goes_is_asked_until_it_answers(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
):
    """However often the connection breaks before the answer, the question is asked again."""
    breaks = sys.getrecursionlimit()
    with hermes.connect(wire.url, timeout=None) as client:
        connection = client._connection
        session, wait = connection.session, connection._await
        questions: list[Until] = []

        def broken(until: Until, deadline: int | None) -> None:
            if until.ready():  # there is a connection to ask over
                return
            questions.append(until)
            if len(questions) < breaks:
                session.protocol = copy(session.protocol)  # as a new connection has one of its own
                assert until.ready()
            else:
                wait(until, deadline)

        monkeypatch.setattr(connection, "_await", broken)

        assert client.ping() > 0

        assert len(questions) == breaks
