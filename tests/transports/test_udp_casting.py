"""A listener on a multicast address: what it is asked, what it casts, and who may read it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

import hermes
from hermes.errors import InvalidUrl
from hermes.spi.url import parse_url
from hermes.testing.kernel import EchoKernel
from hermes_udp.engine import UdpTransport
from hermes_udp.native import lib
from tests.transports.udp_wire import beacon_of, opened

DEADLINE_S = 60.0
"""For anything a test waits for: generous, because the machine may be busy."""
GROUP = f"239.254.{os.getpid() >> 8 & 0xFF}.{os.getpid() & 0xFF}"
"""A group of this process's own: tests that run beside this one are not to be heard."""
LOOPBACK = "interface=127.0.0.1"
HERE = socket.inet_aton("127.0.0.1")


def joined(url: str) -> socket.socket:
    """A socket that gets what is cast to the group of a listener's URL."""
    parsed = parse_url(url)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((parsed.host, parsed.port or 0))
    sock.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(parsed.host) + HERE
    )
    sock.settimeout(DEADLINE_S)
    return sock


@pytest.fixture(autouse=True, scope="module")
def multicast() -> None:
    """Skips, with the reason, where no datagram to a group comes back over loopback."""
    try:
        with (
            joined(f"udp://{GROUP}:0") as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, HERE)
            sender.sendto(b"?", receiver.getsockname())
            if not select.select([receiver], [], [], 2)[0]:
                raise OSError(errno.ETIMEDOUT, "what was sent to the group did not come back")
    except OSError as error:
        pytest.skip(f"multicast does not work over this machine's loopback: {error}")


class Listener:
    """Datagrams that come to a group, put together."""

    def __init__(self, url: str) -> None:
        self.sock = joined(url)
        self.cast = 0
        self.begun = 0
        self.stream = bytearray()
        """Bytes cast from position ``begun`` on."""
        self.sources: set[tuple[str, int]] = set()
        self.beacons: list[object] = []

    @property
    def end(self) -> int:
        """Behind the last byte heard."""
        return self.begun + len(self.stream)

    def hear(self, until: Callable[[], object]) -> None:
        """Take datagrams until a condition holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not until():
            assert time.monotonic() < deadline, "it did not come to be"
            datagram, source = self.sock.recvfrom(lib.HU_DATAGRAM_MAX)
            self.sources.add(source)
            header, body = opened(datagram)
            assert header.stream == lib.HU_GROUP_STREAM
            if header.session != self.cast:
                self.cast = int(header.session)
                self.begun = int(header.position)
                self.stream.clear()
            if header.type == lib.HU_BEACON:
                self.beacons.append(beacon_of(header, body))
            elif header.type == lib.HU_DATA and header.position == self.end:
                self.stream += body


@contextlib.contextmanager
def casting(
    extra: str = "", **settings: object
) -> Iterator[tuple[hermes.Broker, hermes.Client, Listener]]:
    """A broker that casts, a client on its ordinary side, and somebody who listens."""
    url = f"udp://{GROUP}:0?{LOOPBACK}{extra}"
    with (
        hermes.Broker(listeners=[url], storage="memory:", **settings) as broker,  # type: ignore[arg-type]
        hermes.connect(broker.listeners[0].doors["unicast"], timeout=DEADLINE_S) as client,
    ):
        listener = Listener(broker.url)
        with listener.sock:
            yield broker, client, listener


def publish(client: hermes.Client, topic: str, payload: bytes) -> None:
    """One message, and wait until the broker has it."""
    with client.publisher(topic) as publisher:
        publisher.send(payload)
        publisher.flush(DEADLINE_S)


def test_what_is_published_is_cast() -> None:
    """Every message is in the group's stream once, and comes from the address of the sessions."""
    with casting() as (broker, client, listener), client.publisher("a.b") as publisher:
        listener.hear(lambda: listener.beacons)
        for number in range(10):
            publisher.send(b"payload %d." % number)
        listener.hear(lambda: b"payload 9." in listener.stream)
        counters = client.stats()["listeners"][0]

        unicast = parse_url(broker.listeners[0].doors["unicast"])
        assert listener.sources == {(unicast.host, unicast.port)}
        assert all(listener.stream.count(b"payload %d." % i) == 1 for i in range(10))
        assert counters["group_bytes"] >= listener.end
        assert counters["group_casts"] == 1
        assert counters["connections"] == 1


def test_beacons_tell_of_the_broker() -> None:
    """They name the pattern, the streams with where they stand, the sessions and the history."""
    with casting("&pattern=md.>&history=40MiB") as (_, client, listener):
        publish(client, "md.x", b"1")
        publish(client, "other", b"2")
        publish(client, "md.x", b"3")
        listener.hear(lambda: listener.stream.count(b"md.x") == 2)
        listener.beacons.clear()
        listener.hear(lambda: listener.beacons)

        found = listener.beacons[0]
        assert isinstance(found, tuple)
        fields, entries = found
        assert fields["pattern"] == b"md.>"
        assert fields["history"] == 64 << 20
        assert fields["receivers"] == 1
        assert fields["datagram"] == 8192
        assert fields["join"] == listener.end
        assert entries == [(3, 0, b"default")]
        assert b"other" not in listener.stream


@pytest.mark.timing
def test_a_slow_rate_holds_up_nobody_else() -> None:
    """While the group gets what `rate` lets through, sessions get everything at once."""
    with (
        casting("&rate=200kB&mtu=1400", limits={"stop": "100ms"}) as (_, client, _listener),
        client.subscribe(">") as subscription,
        client.publisher("a") as publisher,
    ):
        begun = time.monotonic()
        publisher.send_many([bytes(1000)] * 2000)
        for _number in range(2000):
            subscription.receive(DEADLINE_S)
        at_once = client.stats()["listeners"][0]
        took = time.monotonic() - begun
        later = at_once
        while later["group_bytes"] < at_once["group_bytes"] + 300_000:
            assert time.monotonic() < begun + DEADLINE_S, "the cast has come to a halt"
            later = client.stats()["listeners"][0]
        cast = time.monotonic() - begun

    assert at_once["group_bytes"] < 1_000_000, f"sessions had everything after {took:.1f} s only"
    assert later["group_bytes"] < 200_000 * cast * 1.1 + 4 * lib.HU_CAST_BURST  # some are ahead
    assert at_once["group_full"] > 0
    assert at_once["group_gaps"] == 0


@pytest.mark.parametrize("repair", ["multicast", "unicast"])
def test_what_is_lost_is_repeated(repair: str) -> None:
    """A subscriber gets all of it, whichever receivers hear the repeats."""
    count = 20_000
    with (
        casting(f"&repair={repair}&drop=0.05&seed=3") as (broker, _, listener),
        hermes.connect(broker.url, timeout=DEADLINE_S) as client,
        client.subscribe("a.>") as subscription,
        client.publisher("a.b") as publisher,
    ):
        listener.hear(lambda: listener.beacons)
        for start in range(0, count, 100):
            publisher.send_many([b"%d" % number for number in range(start, start + 100)])
            publisher.flush(DEADLINE_S)
        found = [subscription.receive(DEADLINE_S).payload for _number in range(count)]
        counters = client.stats()["listeners"][0]

    assert found == [b"%d" % number for number in range(count)]
    assert counters["group_repeats"] > 0


def test_a_port_can_be_chosen() -> None:
    """The group's port is that of the URL; the sessions have one of their own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with hermes.Broker(listeners=[f"udp://{GROUP}:{port}?{LOOPBACK}"], storage="memory:") as broker:
        assert broker.url == f"udp://{GROUP}:{port}?{LOOPBACK}"
        assert broker.listeners[0].doors["unicast"] != f"udp://127.0.0.1:{port}"


def test_a_cast_that_was_ended_comes_back_as_another(caplog: pytest.LogCaptureFixture) -> None:
    """When the broker ends the caster's connection it says so, and begins a new cast."""
    with casting() as (broker, client, listener), caplog.at_level(logging.CRITICAL):
        listener.hear(lambda: listener.beacons)
        first = listener.cast
        assert broker._loop is not None
        broker._loop.call(lambda: end_cast(broker))
        listener.hear(lambda: listener.cast != first)
        publish(client, "a", b"again")
        listener.hear(lambda: b"again" in listener.stream)

        counters = client.stats()["listeners"][0]
        assert counters["group_casts"] == 2
        assert counters["group_bytes"] >= listener.end


def end_cast(broker: hermes.Broker) -> None:
    assert broker._kernel is not None
    for connection in list(broker._kernel.connections.values()):
        if connection.peer.address.startswith("group"):
            connection.refuse("not_allowed", "for a test")


def test_an_orderly_end_casts_what_is_left() -> None:
    """Messages published before the broker stops are cast before it is gone."""
    with casting(limits={"stop": "1s"}) as (broker, client, listener):
        publish(client, "a", b"last words")
        broker.close()
        listener.hear(lambda: b"last words" in listener.stream)


# Who may read it.


@pytest.mark.parametrize("authenticates", [False, True])
def test_an_interface_that_others_reach_is_refused(authenticates: bool) -> None:
    """Any program can join a group, so a listener refuses even if its broker authenticates."""
    kernel = EchoKernel()
    kernel.authenticates = authenticates
    url = parse_url(f"udp://{GROUP}:0?interface=192.0.2.1")

    with pytest.raises(InvalidUrl, match="insecure=yes"):
        UdpTransport().listen(url, kernel)


# What it is asked.


@pytest.mark.parametrize(
    "option",
    [
        "interface=127.0.0.1",
        "pattern=a",
        "repair=unicast",
        "history=32MiB",
        "rate=1MB",
        "rate_min=1MB",
        "ttl=2",
    ],
)
def test_options_of_a_group_on_an_ordinary_address(option: str) -> None:
    """An option that means nothing there is refused, by its name."""
    with pytest.raises(InvalidUrl, match=f"{option.split('=')[0]} is for multicast"):
        UdpTransport().listen(parse_url(f"udp://127.0.0.1:0?{option}"), EchoKernel())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("pattern=a..b", "pattern|topic"),
        ("rate=1KiB", "rate is between"),
        ("rate=13GB", "rate is between"),
        ("rate_min=1KiB", "rate_min is between"),
        ("rate=1MB&rate_min=2MB", "rate_min is between"),
        ("history=1KiB", "history is between"),
        ("history=2GiB", "history is between"),
        ("mtu=100", "mtu is between 512 and 65507 here, or 0"),
        ("mtu=500", "mtu is between 512 and 65507 here, or 0"),
        ("mtu=65508", "mtu is between 512 and 65507 here, or 0"),
        ("mtu=-1", "mtu is between 512 and 65507 here, or 0"),
        ("ttl=0", "ttl"),
        ("ttl=256", "ttl"),
        ("repair=both", "expected multicast or unicast"),
    ],
)
def test_nonsense_is_refused(option: str, words: str) -> None:
    """An option that makes no sense for a group is refused with what would."""
    with pytest.raises(InvalidUrl, match=words):
        UdpTransport().listen(parse_url(f"udp://{GROUP}:0?{LOOPBACK}&{option}"), EchoKernel())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("udp://GROUP:0?interface=lo", "not the IPv4 address"),
        ("udp://GROUP:0?interface=192.0.2.1&insecure=yes", "has no address"),
        (f"udp://GROUP:0/path?{LOOPBACK}", "no path"),
        ("udp://[ff15::1]:0?interface=nonesuch", "no interface nonesuch here.*`ip link`"),
        ("udp://[ff15::1%nonesuch]:0", "no interface nonesuch here"),
        ("udp://[ff15::1]:0?interface=999999", "no interface 999999 here"),
    ],
)
def test_addresses_that_cannot_be(url: str, words: str) -> None:
    """An interface that is none, and a path, are refused."""
    with pytest.raises(InvalidUrl, match=words):
        UdpTransport().listen(parse_url(url.replace("GROUP", GROUP)), EchoKernel())


def test_a_history_smaller_than_two_batches() -> None:
    """Two of the broker's largest batches must fit; the message says what would do."""
    url = f"udp://{GROUP}:0?{LOOPBACK}&history=32MiB"

    with pytest.raises(InvalidUrl, match=r"may have 17MiB .* say history=64MiB"):
        hermes.Broker(listeners=[url], storage="memory:").open()
    with hermes.Broker(listeners=[url], storage="memory:", limits={"message": 4 << 20}):
        pass
