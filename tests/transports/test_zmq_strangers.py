"""The ZeroMQ doors under peers that are none, or that do not behave as libzmq's sockets do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import hermes
from hermes.native.frames import BATCH_HEADER_SIZE, encode_batch
from tests.transports import zmtp
from tests.transports.test_zmq import TIMEOUT_MS, Programs, serving

zmq = pytest.importorskip("zmq")

from hermes_zmq import doors  # noqa: E402
from hermes_zmq import pump as pumps  # noqa: E402
from hermes_zmq.router import RouterDoor  # noqa: E402

pytestmark = pytest.mark.slow

DOORS = ("pub", "sub", "pull", "push", "router")


@pytest.fixture
def programs() -> Iterator[Programs]:
    """Sockets, once :func:`serving` gave them a broker."""
    found = Programs(zmq.Context())
    try:
        yield found
    finally:
        found.close()


NO_PEERS = {
    "zmtp 1.0, the greeting and a message": bytes.fromhex("010003004142"),
    "zmtp 1.0, another": bytes.fromhex("0100020078"),
    "zmtp 2.0": zmtp.OLD_GREETINGS["2.0"] + b"\x00\x01x" * 3,
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "http with a body": b"POST /a b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "tls": bytes.fromhex("16030100f5010000f10303") + bytes(240),
    "text": b"hello world, here is some text\n" * 8,
    "hermes over tcp": b"HRMS" + bytes(60),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("said", NO_PEERS.values(), ids=NO_PEERS)
def test_what_is_no_zeromq_3_is_hung_up_on(programs: Programs, door: str, said: bytes) -> None:
    """A peer of another protocol, or of ZMTP 1.0 or 2.0, loses its own connection: nothing of it
    reaches the log, it is counted, and the broker goes on."""
    with serving(programs) as broker:
        with zmtp.connect(programs.doors[door]) as stranger:
            stranger.sendall(said)
            assert zmtp.ended(stranger)
        programs.until(lambda: programs.counters[f"{door}_refused_peers"] == 1)
        counters = programs.counters
        streams = broker.streams()
        with hermes.connect(broker.listeners[0].url) as client:
            client.ping()

    assert counters["faults"] == 0
    assert counters[f"{door}_peers"] == counters[f"{door}_lost_peers"] == 0
    assert [stream["messages"] for stream in streams] == [0]


@pytest.mark.parametrize("door", DOORS)
def test_sockets_of_the_wrong_kind_are_told_of(
    programs: Programs, door: str, caplog: pytest.LogCaptureFixture
) -> None:
    """REQ, REP, DEALER and ROUTER sockets at any door are counted as refused, and a line of the log
    names the door and what may connect there."""
    kinds = [zmq.REQ, zmq.REP, zmq.ROUTER] + [zmq.DEALER] * (door != "router")
    with serving(programs):
        for kind in kinds:
            if door == "router" and kind in (zmq.REQ, zmq.ROUTER):
                continue  # libzmq takes these for a DEALER's like
            programs.socket(kind, door, reconnect_ivl=-1)
        programs.until(lambda: programs.counters[f"{door}_refused_peers"] >= 1)
        counters = programs.counters

    assert counters[f"{door}_peers"] == counters[f"{door}_lost_peers"] == 0
    lines = [record.getMessage() for record in caplog.records if "handshake" in record.message]
    assert any(f"{door} door" in line and doors.WANTS[door] in line for line in lines)


def test_gauges_count_those_who_came_in(programs: Programs) -> None:
    """Peers that never finished the handshake take nothing from the number of those that did."""
    with serving(programs):
        programs.pair()
        strangers = [zmtp.connect(programs.doors[door]) for door in ("pub", "sub") * 6]
        for stranger in strangers:
            stranger.sendall(b"\x01\x00\x03\x00AB")
            assert zmtp.ended(stranger)
            stranger.close()
        programs.until(lambda: programs.counters["pub_refused_peers"] == 6)
        programs.until(lambda: programs.counters["sub_refused_peers"] == 6)
        during = programs.counters
        for made in programs.made:
            made.close(0)
        programs.until(lambda: programs.counters["pub_peers"] == 0)
        programs.until(lambda: programs.counters["sub_peers"] == 0)
        after = programs.counters

    assert during["pub_peers"] == during["sub_peers"] == 1
    assert after["pub_lost_peers"] == after["sub_lost_peers"] == 1


# Unsubscriptions.


@pytest.mark.parametrize(
    "said", [[b"\x00nothing"], [b"\x01", b"\x00", b"\x00"]], ids=["never", "twice"]
)
def test_unsubscribing_silences_nobody_else(programs: Programs, said: list[bytes]) -> None:
    """A peer that unsubscribes from what it has not, or once too often, changes nothing for the
    others at its door, also where they have the same prefix."""
    with serving(programs):
        publisher, subscriber = programs.pair()
        other = zmtp.join(programs.doors["sub"], b"SUB")
        with other:
            other.sendall(b"".join(zmtp.frame(part) for part in said) * 3)
            programs.until(lambda: programs.counters["sub_peers"] == 2)
            for number in range(50):
                publisher.send_multipart([b"md.a", b"%d" % number])
                assert subscriber.recv_multipart() == [b"md.a", b"%d" % number]
        publisher.send_multipart([b"md.a", b"end"])
        assert subscriber.recv_multipart() == [b"md.a", b"end"]


def test_a_door_replays_again_after_its_last_subscriber(programs: Programs) -> None:
    """When the last of several subscribers is gone, however it went, the next first one gets a
    replay."""
    with serving(programs, "zmq+tcp://127.0.0.1:0?from=earliest") as broker:
        with hermes.connect(broker.urls[1]) as client, client.publisher() as publisher:
            publisher.send(b"one", topic="md.a")
            publisher.flush()
        for _ in range(3):
            by_hand = zmtp.join(programs.doors["sub"], b"SUB")
            by_hand.sendall(zmtp.frame(b"\x01md.") + zmtp.frame(b"\x01md."))
            first = programs.socket(zmq.SUB, "sub", prefix=b"md.")
            assert first.recv_multipart() == [b"md.a", b"one"]
            by_hand.close()
            first.close(0)
            programs.until(lambda: programs.counters["sub_peers"] == 0)


# Refused messages.


class Gathering:
    """A pump that has the first so many messages come in one batch, however they arrive."""

    def __init__(self, pump: Any, count: int) -> None:
        self.view = memoryview(b"")
        self._pump = pump
        self._left = count
        self._frames: list[bytes] = []
        self._messages = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pump, name)

    def receive(self, publisher: int, after: int, now_ns: int) -> Any:
        found = self._pump.receive(publisher, after + self._messages, now_ns)
        if found.size:
            self._frames.append(bytes(self._pump.view[BATCH_HEADER_SIZE : found.size]))
            self._messages += found.messages
            self._left -= found.messages
        size = messages = 0
        if self._left <= 0 and self._frames:
            frames, messages = b"".join(self._frames), self._messages
            header = encode_batch(
                id=publisher, after=after, through=after + messages, frames_size=len(frames)
            )
            self._frames, self._messages = [], 0
            self.view = memoryview(header + frames)
            size = len(self.view)
        return SimpleNamespace(
            size=size, messages=messages, oversized=0, crowded=0, why=found.why, error=0
        )


def _topics(programs: Programs, topic: str) -> list[bytes]:
    with hermes.connect(programs.broker.urls[1]) as client:
        last = sum(found["messages"] for found in client.topics() if found["topic"] == topic)
        found = client.subscribe(topic, start="earliest")
        return [bytes(found.receive(TIMEOUT_MS / 1000).payload) for _ in range(last)]


@pytest.mark.parametrize(
    "pattern",
    [["no", "ok", "no", "ok"], ["no"] * 900 + ["ok"], ["ok", *["no"] * 300, "ok", "no", "ok"]],
    ids=["two", "nine hundred", "between"],
)
def test_refused_messages_are_passed_over(
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pattern: list[str],
) -> None:
    """However many messages of a batch are refused, and in whatever order, the others are in the log
    once and in order, what comes later as well, and each refused one is counted."""
    real = pumps.make_pump
    monkeypatch.setattr(pumps, "make_pump", lambda *args: Gathering(real(*args), len(pattern)))
    declared = {"name": "default", "create_topics": False, "declare": ["ok"]}
    with serving(programs, streams=[declared]):
        sent = [[name.encode(), b"%d" % i] for i, name in enumerate(pattern)]
        push = programs.socket(zmq.PUSH, "push")
        for parts in [*sent, [b"ok", b"after"]]:
            push.send_multipart(parts)
        programs.until(lambda: _topics(programs, "ok")[-1:] == [b"after"])
        counters, taken = programs.counters, _topics(programs, "ok")

    assert taken == [*(payload for topic, payload in sent if topic == b"ok"), b"after"]
    assert counters["push_refused"] == pattern.count("no")
    assert "'no'" in caplog.text
    assert counters["faults"] == 0


# Lines.


def test_lines_leave_topics_to_others(programs: Programs, caplog: pytest.LogCaptureFixture) -> None:
    """Lines that begin with a counter make topics up to half of a stream's bound; further ones are
    carried byte for byte, counted and told of, and words that are topics already stay topics."""
    bound = 40
    lines = [b"%d.5 GET /" % number for number in range(500)]
    with serving(programs, limits={"topics": bound}) as broker:
        subscriber = programs.socket(zmq.SUB, "sub", prefix=b"")
        programs.until(lambda: programs.counters["sub_peers"] == 1)
        push = programs.socket(zmq.PUSH, "push")
        push.send(lines[0])
        assert subscriber.recv() == lines[0]
        for line in lines[1:]:
            push.send(line)
        found = [subscriber.recv() for _ in lines[1:]]
        push.send(lines[0])
        assert subscriber.recv() == lines[0]
        with hermes.connect(broker.urls[1]) as client, client.publisher("a.topic") as publisher:
            publisher.send(b"there is room")
            publisher.flush()
            topics = {topic["topic"]: topic["messages"] for topic in client.topics()}
        counters = programs.counters

    assert found == lines[1:]
    assert bound // 2 <= len(topics) <= bound // 2 + 2  # one for raw lines, and the client's
    assert topics[lines[0].split()[0].decode()] == 2
    assert topics["_zmq.raw"] == counters["push_raw_lines"] == 500 - (len(topics) - 2)
    assert counters["push_refused"] == 0
    assert "?split=no" in caplog.text


# Peers that hold a door.


def _held(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A door that is held by a SUB which reads nothing, and another SUB."""
    monkeypatch.setattr(doors, "HELD_NS", 200_000_000)
    monkeypatch.setattr(doors, "LOOK_NS", 50_000_000)
    monkeypatch.setattr(doors, "LOG_NS", 0)
    stuck = zmtp.join(programs.doors["sub"], b"SUB")
    stuck.sendall(zmtp.frame(b"\x01"))
    other = programs.socket(zmq.SUB, "sub", prefix=b"", rcvhwm=0)
    programs.until(lambda: programs.counters["sub_peers"] == 2)
    return stuck, other


def _fill(programs: Programs) -> int:
    """Publish more than the systems' buffers hold; returns how many messages."""
    count = 600
    with hermes.connect(programs.broker.urls[1]) as client, client.publisher("a") as publisher:
        publisher.send_many([bytes(65536)] * count)
        publisher.flush()
    return count


def test_a_stuck_subscriber_is_let_go(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A subscriber that reads nothing holds its door for `hold`, of which a warning tells with its
    address; then it is ended and counted, and the others get everything."""
    with serving(programs, "zmq+tcp://127.0.0.1:0?high_water=10&hold=1s"):
        stuck, other = _held(programs, monkeypatch)
        with stuck:
            count = _fill(programs)
            for _ in range(count):
                assert len(other.recv_multipart()[1]) == 65536
            counters = programs.counters
            address = ":".join(map(str, stuck.getsockname()))

    assert counters["sub_let_go"] == 1
    assert f"held for 0 s by {address}" in caplog.text
    assert f"ended the connection of {address}" in caplog.text


def test_a_slow_subscriber_is_not_let_go(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subscriber that reads, however slowly, keeps its connection and gets everything."""
    with serving(programs, "zmq+tcp://127.0.0.1:0?high_water=10&hold=1s"):
        stuck, other = _held(programs, monkeypatch)
        stuck.close()
        programs.until(lambda: programs.counters["sub_peers"] == 1)
        slow = programs.socket(zmq.SUB, "sub", prefix=b"", rcvhwm=1, rcvbuf=65536)
        programs.until(lambda: programs.counters["sub_peers"] == 2)
        count = _fill(programs)
        for _ in range(count):
            assert len(slow.recv_multipart()[1]) == 65536
            time.sleep(0.005)
        for _ in range(count):
            other.recv_multipart()
        counters = programs.counters

    assert counters["sub_let_go"] == 0


def test_more_prefixes_than_are_remembered(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that subscribes to more than is remembered silences nobody, and when all are gone the
    door knows it: it gives up its subscription."""
    monkeypatch.setattr("hermes_zmq.prefixes.PREFIXES_MAX", 10)
    with (
        serving(programs) as broker,
        hermes.connect(broker.urls[1]) as client,
        client.publisher("md.a") as publisher,
    ):
        for _ in range(2):
            greedy = zmtp.join(programs.doors["sub"], b"SUB")
            greedy.sendall(b"".join(zmtp.frame(b"\x01p%d" % number) for number in range(50)))
            subscriber = programs.socket(zmq.SUB, "sub", prefix=b"md.")
            while not subscriber.poll(10):
                publisher.send(b"one")
                publisher.flush()
            assert subscriber.recv_multipart() == [b"md.a", b"one"]
            assert subscriptions(client) == 1
            greedy.close()
            subscriber.close(0)
            programs.until(lambda: programs.counters["sub_peers"] == 0)
            programs.until(lambda: subscriptions(client) == 0)


def subscriptions(client: hermes.Client) -> int:
    """Subscriptions that the door for SUB sockets has with the broker."""
    clients = client.stats()["clients"]
    return sum(one["subscriptions"] for one in clients if "hermes_zmq sub " in one["client"])


def test_the_router_door_is_left_alone_only_when_it_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last look after a pass may find input, or output that had its share: neither comes with
    another sign, so the door says that it has work left."""
    look_around, poll = RouterDoor._look_around, RouterDoor.poll
    found = 0
    left: list[str] = []

    def slow(door: RouterDoor) -> None:
        nonlocal found
        time.sleep(0.0005)  # input comes meanwhile
        look_around(door)
        found += door.awake

    def checked(door: RouterDoor) -> int:
        for link in list(door._links.values()):
            door.owe(link)  # most have no output
        done = poll(door)
        if not done and (door.awake or door._owed):
            left.append("input" if door.awake else "output")
        return done

    monkeypatch.setattr(RouterDoor, "_look_around", slow)
    monkeypatch.setattr(RouterDoor, "poll", checked)
    url = "zmq+tcp://127.0.0.1:0?doors=router"
    with (
        hermes.Broker(listeners=[url], storage="memory:") as broker,
        hermes.connect(broker.url) as one,
        hermes.connect(broker.url) as other,
        one.publisher("a") as publisher,
        other.subscribe("a") as subscription,
    ):
        end = time.monotonic() + TIMEOUT_MS / 1000
        while found < 20 and time.monotonic() < end:
            publisher.send(b"x")
            one.ping()
            other.ping()
            assert subscription.receive(TIMEOUT_MS / 1000).payload == b"x"

    assert found >= 20
    assert not left
