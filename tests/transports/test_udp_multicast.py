"""Multicast with both real ends: many receivers under loss, late and slow ones, restarts."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes import Gap
from hermes.errors import ConnectFailed, InvalidUrl, Timeout
from hermes.spi.url import parse_url
from hermes_udp.native import ffi, lib
from tests import processes
from tests.transports.multicast_receiver import DEADLINE_S, await_take_over, channel_of
from tests.transports.udp_wire import beacon_body, sealed

pytestmark = pytest.mark.slow

HOST = f"239.255.{os.getpid() >> 8 & 0xFF}.{os.getpid() & 0xFF}"
"""A group of this process's own: tests that run beside this one are not to be heard."""
HOST6 = f"ff11::4845:{os.getpid():x}"
"""Another address of this process; nothing that is sent to it leaves the machine."""
OPTIONS = "interface=127.0.0.1"
ROOT = Path(__file__).parents[2]
RECEIVERS = 8
COUNT = 20_000
PAYLOAD = 200
LOSS = 0.05
HISTORY = 4 << 20
"""Bytes of a short one."""


@pytest.fixture(autouse=True, scope="module")
def multicast() -> None:
    """Skips, with the reason, where no datagram to a group comes back over loopback."""
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            loopback = socket.inet_aton("127.0.0.1")
            receiver.bind((HOST, 0))
            member = socket.inet_aton(HOST) + loopback
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, loopback)
            sender.sendto(b"?", receiver.getsockname())
            ready, _, _ = select.select([receiver], [], [], 2)
            if not ready:
                raise OSError(errno.ETIMEDOUT, "what was sent to the group did not come back")
    except OSError as error:
        pytest.skip(f"multicast does not work over this machine's loopback: {error}")


@contextlib.contextmanager
def casting(extra: str = "", **settings: Any) -> Iterator[tuple[hermes.Broker, str]]:
    """A broker that casts, and the URL of its group."""
    listener = f"udp://{HOST}:0?{OPTIONS}{extra}"
    settings.setdefault("storage", "memory:")
    with hermes.Broker(listeners=[listener], **settings) as broker:
        yield broker, broker.listeners[0].url


class Receiver:
    """A receiver's process, and what it has said."""

    def __init__(self, url: str, pattern: str, count: int) -> None:
        self.process = processes.start(
            *("-m", "tests.transports.multicast_receiver", url, pattern, str(count)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> dict[str, Any]:
        """Its next word, in time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        assert ready, "the receiver did not say anything in time"
        found: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        assert found, f"the receiver ended with {self.process.wait()}"
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def payload(number: int) -> bytes:
    return number.to_bytes(8, "little") * (PAYLOAD // 8)


@pytest.mark.parametrize("repair", ["multicast", "unicast"])
def test_many_receivers_under_loss_get_all_of_it(repair: str) -> None:
    """Each of eight processes loses a twentieth, each another one, and has all of what it chose, in
    order; what was published came through the group's URL."""
    with casting(f"&repair={repair}") as (_, url), contextlib.ExitStack() as undo:
        receivers = []
        for number in range(RECEIVERS):
            pattern = "md.>" if number % 2 else "md.a"
            count = COUNT if number % 2 else COUNT // 2
            found = Receiver(f"{url}&drop={LOSS}&seed={number + 1}", pattern, count)
            undo.callback(found.close)
            receivers.append(found)
        assert all(receiver.says()["ready"] for receiver in receivers)
        expected = [hashlib.sha256(), hashlib.sha256()]
        with hermes.connect(url, timeout=DEADLINE_S) as client:
            with client.publisher("md.a") as a, client.publisher("md.b") as b:
                for start in range(0, COUNT, 100):
                    first = [payload(number) for number in range(start, start + 50)]
                    second = [payload(number) for number in range(start + 50, start + 100)]
                    a.send_many(first)
                    a.flush(DEADLINE_S)
                    b.send_many(second)
                    b.flush(DEADLINE_S)
            ends = [receiver.says() for receiver in receivers]
            caster = client.stats()["listeners"][0]
        for number in range(COUNT):
            topic = "md.a" if number % 100 < 50 else "md.b"
            text = b"%d %s %s" % (number + 1, topic.encode(), payload(number))
            expected[1].update(text)
            if topic == "md.a":
                expected[0].update(text)

    for number, end in enumerate(ends):
        assert end["digest"] == expected[number % 2].hexdigest()
        assert end["counters"]["group_in_holes"] > 0, "it has lost something"
        assert end["counters"]["group_cuts"] == 0
    lost = sum(end["counters"]["group_in_holes"] for end in ends)
    called = sum(end["counters"]["group_nacks_sent"] for end in ends)
    print(f"{lost} holes, {called} calls sent, {caster['group_repeats']} datagrams repeated")
    print({key: value for key, value in caster.items() if key.startswith("group_")})


def test_another_caster_in_the_group_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A client that comes back to a group and finds another broker there is told of both; the same one is
    not reported."""
    with casting() as (first, url):
        for _ in range(2):
            hermes.connect(url, timeout=DEADLINE_S).close()
        before = first.listeners[0].doors["unicast"].removeprefix("udp://")
        assert not [one for one in caplog.records if one.name == "hermes.udp"]
    with hermes.Broker(listeners=[url], storage="memory:") as second:
        hermes.connect(url, timeout=DEADLINE_S).close()
        now = second.listeners[0].doors["unicast"].removeprefix("udp://")

    (record,) = [one for one in caplog.records if one.name == "hermes.udp"]
    assert f"{now} casts to the group now, and {before} did before" in record.message


def interface_of_ipv6() -> str:
    """One by which a datagram to a group of IPv6 comes back; skips, with the reasons, without."""
    problems = []
    for index, name in socket.if_nameindex():
        try:
            with (
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver,
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
            ):
                receiver.bind((HOST6, 0, 0, index))
                member = socket.inet_pton(socket.AF_INET6, HOST6) + struct.pack("=I", index)
                receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
                sender.sendto(b"?", (HOST6, receiver.getsockname()[1]))
                ready, _, _ = select.select([receiver], [], [], 2)
                if ready:
                    return name
            problems.append(f"{name}: nothing came back")
        except OSError as error:
            problems.append(f"{name}: {error}")
    pytest.skip(f"multicast over IPv6 works by no interface of this machine: {problems}")


@pytest.mark.parametrize("by", ["name", "number", "zone"])
def test_a_group_of_ipv6(by: str) -> None:
    """A group of IPv6 is cast, joined and repaired as one of IPv4; its scope is this machine, whatever the
    interface."""
    name = interface_of_ipv6()
    index = socket.if_nametoindex(name)
    host = f"{HOST6}%{name}" if by == "zone" else HOST6
    query = {"name": f"interface={name}&", "number": f"interface={index}&", "zone": ""}[by]
    listener = f"udp://[{host}]:0?{query}insecure=yes&drop=0.05&seed=1"

    with hermes.Broker(listeners=[listener], storage="memory:") as broker:
        port = parse_url(broker.listeners[0].url).port
        with (
            hermes.connect(f"udp://[{HOST6}]:{port}?interface={name}&drop=0.05&seed=2") as client,
            client.subscribe("md.>") as found,
            client.publisher("md.a") as publisher,
        ):
            await_take_over(client, found)
            publisher.send_many([payload(number) for number in range(5_000)])
            got = [found.receive(DEADLINE_S).payload for _ in range(5_000)]
            counters = channel_of(client).counters()

    assert got == [payload(number) for number in range(5_000)]
    assert counters["group_datagrams"] > 100
    assert counters["group_repeats"] > 0


def test_a_publisher_of_a_groups_url_may_linger() -> None:
    """Messages wait for others, and a native thread sends them while the program does nothing."""
    with casting() as (_, url), hermes.connect(url) as client, client.subscribe("md.>") as found:
        await_take_over(client, found)
        with client.publisher("md.a", linger=0.005) as publisher:
            for number in range(100):
                publisher.send(payload(number))

            got = [found.receive(DEADLINE_S).payload for _ in range(100)]

    assert got == [payload(number) for number in range(100)]


@pytest.mark.timing
def test_a_client_of_a_group_waits_awake_if_it_was_told_to() -> None:
    """With ``spin`` the processor is at work for so long, else hardly at all."""
    used = []
    for spin in (0.0, 0.2):
        with (
            casting() as (_, url),
            hermes.connect(url, spin=spin) as client,
            client.subscribe("md.>") as found,
        ):
            await_take_over(client, found)
            begun = time.thread_time()
            with pytest.raises(Timeout):
                found.receive(0.2)
            used.append(time.thread_time() - begun)

    assert used[1] > 0.02, used  # a busy machine gives it a tenth of that time at least
    assert used[0] < used[1] / 2, used


def test_a_late_joiner_has_history_and_then_the_group() -> None:
    """A subscriber that comes in the middle and wants all from the beginning gets every message once, in order,
    and is served by the group in the end."""
    past = 2 * COUNT - 1  # several windows of unicast
    with (
        casting() as (_, url),
        hermes.connect(url, timeout=DEADLINE_S) as source,
        source.publisher("md.a") as publisher,
        hermes.connect(f"{url}&drop={LOSS}&seed=9", timeout=DEADLINE_S) as client,
    ):
        publisher.send_many([payload(number) for number in range(past)])
        publisher.flush(DEADLINE_S)
        stop = threading.Event()
        with (
            ThreadPoolExecutor(1) as pool,
            client.subscribe("other") as other,
        ):
            await_take_over(client, other)
            publisher.send(payload(past), topic="other")
            other.receive(DEADLINE_S)  # the group has come as far before the replay begins
            subscription = client.subscribe(">", start="earliest")
            under_way = pool.submit(trickle, publisher, past + 1, stop)
            seen = 0
            try:
                while channel_of(client).counters()["group_subscriptions"] < 2:
                    seen += 1
                    assert subscription.receive(DEADLINE_S).sequence == seen
            finally:
                stop.set()
            count = past + 1 + under_way.result(DEADLINE_S)
            while seen < count:
                seen += 1
                message = subscription.receive(DEADLINE_S)
                assert (message.sequence, message.payload) == (seen, payload(seen - 1))

    assert seen >= past


def trickle(publisher: hermes.Publisher, first: int, stop: threading.Event) -> int:
    """Publish some thousand messages a second until told to stop, and then a few more: how many."""
    count = 0
    after = 50
    while after:
        publisher.send_many(
            [payload(number) for number in range(first + count, first + count + 20)]
        )
        publisher.flush(DEADLINE_S)
        count += 20
        after -= stop.wait(0.005)
    return count


def test_a_slow_receiver_gets_a_gap_and_holds_up_nobody() -> None:
    """A receiver that does not read for longer than the history lasts is told exactly what it missed, also if
    nothing follows; another has all of it meanwhile."""
    count = 3 * HISTORY // 1024
    piece = bytes(900)
    gaps: list[Gap] = []
    with (
        casting(f"&history={HISTORY}", limits={"message": 65536}) as (_, url),
        hermes.connect(url, timeout=DEADLINE_S) as source,
        source.publisher("md.a") as publisher,
        hermes.connect(url, timeout=DEADLINE_S) as fast,
        hermes.connect(url, timeout=DEADLINE_S) as slow,
        fast.subscribe("md.>") as wanted,
        slow.subscribe("md.>", on_gap=gaps.append) as neglected,
    ):
        await_take_over(fast, wanted)
        await_take_over(slow, neglected)
        for start in range(0, count, 64):
            publisher.send_many([piece] * 64)
            for number in range(start, start + 64):
                assert wanted.receive(DEADLINE_S).sequence == number + 1
        seen = told = 0
        while seen < count:
            sequence = 0
            with contextlib.suppress(Timeout):  # the gap may reach to the end
                sequence = neglected.receive(0.2).sequence
            for gap in gaps[told:]:
                assert gap.first == seen + 1
                seen = gap.last
            told = len(gaps)
            assert sequence in (0, seen + 1)
            seen = max(seen, sequence)
        counters = channel_of(slow).counters()

    assert gaps
    assert counters["group_cuts"] >= 1
    assert sum(gap.last - gap.first + 1 for gap in gaps) > count // 10


def test_the_broker_comes_back_and_all_goes_on(tmp_path: Path) -> None:
    """A broker that is started again casts again: its clients find it, and miss nothing."""
    storage = f"mmap:{tmp_path}"
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as undo:
        with casting(storage=storage) as (_, url):
            client = hermes.connect(url, timeout=DEADLINE_S)
            undo.callback(client.close)
            subscription = client.subscribe("md.>")
            await_take_over(client, subscription)
            publisher = client.publisher("md.a")
            publisher.send(payload(0))
            assert subscription.receive(DEADLINE_S).payload == payload(0)
            before = channel_of(client)
            waiting = pool.submit(subscription.receive, DEADLINE_S)
        listener = f"udp://{HOST}:{parse_url(url).port}?{OPTIONS}"
        with hermes.Broker(listeners=[listener], storage=storage):
            publisher.send(payload(1))
            assert waiting.result(DEADLINE_S).payload == payload(1)
            for number in range(2, 100):
                publisher.send(payload(number))
                message = subscription.receive(DEADLINE_S)
                assert (message.sequence, message.payload) == (number + 1, payload(number))
            await_take_over(client, subscription)
            publisher.send(payload(100))
            assert subscription.receive(DEADLINE_S).payload == payload(100)
            assert channel_of(client) is not before
            undo.close()


def test_everything_else_works_as_on_unicast() -> None:
    """Durable positions, queries and subscriptions that come and go, beside the group."""
    with (
        casting() as (_, url),
        hermes.connect(url, timeout=DEADLINE_S) as client,
        client.publisher("md.a") as publisher,
    ):
        with client.subscribe("md.>", durable="d", start="earliest") as durable:
            publisher.send(b"1")
            assert durable.receive(DEADLINE_S).payload == b"1"
            durable.commit(timeout=DEADLINE_S)
            assert channel_of(client).counters()["group_subscriptions"] == 0
        for _ in range(3):
            with (
                client.subscribe("md.a") as exact,
                client.subscribe("md.*") as pattern,
                client.subscribe("other") as other,
            ):
                await_take_over(client, exact, 3)
                publisher.send(b"2")
                assert exact.receive(DEADLINE_S).payload == b"2"
                assert pattern.receive(DEADLINE_S).payload == b"2"
                with pytest.raises(Timeout):
                    other.receive(0)
            assert client.stats()["connections"]
        with client.subscribe("md.>", durable="d") as durable:
            assert durable.receive(DEADLINE_S).payload == b"2"


def test_nobody_but_the_caster_is_believed() -> None:
    """Sound datagrams of the very cast, sent to the group by somebody else, are ignored."""
    with (
        casting() as (_, url),
        hermes.connect(url, timeout=DEADLINE_S) as client,
        client.publisher("md.a") as publisher,
        client.subscribe("md.>") as subscription,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        await_take_over(client, subscription)
        group = (HOST, parse_url(url).port)
        stranger.setsockopt(
            socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1")
        )
        heard = overheard(group)
        fields = {"session": heard.session, "stream": 1}
        forged = [
            sealed(lib.HU_DATA, bytes(100), position=heard.position, **fields),
            sealed(lib.HU_RESET, window=1, **fields),
            sealed(
                lib.HU_BEACON,
                beacon_body(
                    pattern=b">",
                    entries=[],
                    join=1 << 40,
                    oldest=1 << 40,
                    history=1 << 26,
                    receivers=1 << 31,
                    datagram=1000,
                ),
                position=1 << 40,
                received=1 << 40,
                **fields,
            ),
            b"HU\1",
        ]
        for datagram in forged:
            stranger.sendto(datagram, group)
        for number in range(100):
            publisher.send(payload(number))
            assert subscription.receive(DEADLINE_S).payload == payload(number)
        counters = channel_of(client).counters()

    assert counters["spoofed"] == 3
    assert counters["group_cuts"] == 0


def overheard(group: Any) -> Any:
    """The header of a beacon, as a client that joins the group gets it."""
    header = ffi.new("hu_header *")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(group)
        member = socket.inet_aton(group[0]) + socket.inet_aton("127.0.0.1")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        while header.type != lib.HU_BEACON:
            data = sock.recv(65536)
            assert lib.hu_header_decode(data, len(data), header) == 0
    return header


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        (f"udp://HOST:9?{OPTIONS}", ConnectFailed, "no beacon"),
        ("udp://[ff15::7]:7601?interface=nonesuch", InvalidUrl, "no interface nonesuch"),
        ("udp://HOST:9?interface=203.0.113.9", InvalidUrl, "interface"),
        (f"udp://127.0.0.1:9?{OPTIONS}", InvalidUrl, "127.0.0.1 is no group"),
    ],
)
def test_a_group_that_cannot_be_dialled(url: str, error: type[Exception], text: str) -> None:
    """The error says what is wrong, and what to look at."""
    with pytest.raises(error, match=text):
        hermes.connect(url.replace("HOST", HOST), timeout=0.3)
