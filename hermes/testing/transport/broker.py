"""A real broker and real clients through the transport, and peers who mean no good."""

from __future__ import annotations

import contextlib
import random
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import hermes
from hermes.errors import ConnectionLost, HermesError, MessageTooLarge, WouldBlock
from hermes.plugins.discovery import register_transport
from hermes.spi.transport import Transport
from hermes.spi.url import Url, parse_url
from hermes.testing.compare import same
from hermes.testing.contract import needs
from hermes.testing.peers import Peer
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.exchange import SIZES
from hermes.testing.transport.stage import with_options
from hermes.wire.client import ClientProtocol

MESSAGE_MAX = 2 << 20
"""The broker's limit for a message here: above every boundary, below what takes long."""
MESSAGES = 100_000
SEED = 7
TIMEOUT_S = 30.0
ATTACKS = 30


def bodies(count: int, seed: int) -> tuple[bytes, array[int]]:
    """``count`` payloads joined, with the length of each: number, CRC-32, and random bytes."""
    chance = random.Random(seed)
    pool = chance.randbytes(1 << 12)
    made = bytearray()
    lengths = array("I")
    for number in range(count):
        start = chance.randrange(1 << 11)
        body = number.to_bytes(4, "little") + pool[start : start + number % 64]
        made += zlib.crc32(body).to_bytes(4, "little") + body
        lengths.append(4 + len(body))
    return bytes(made), lengths


class BrokerContract(Contract):
    """Use by clients, and abuse by strangers."""

    @pytest.fixture
    def broker(self, free_url: Callable[..., Url]) -> Iterator[hermes.Broker]:
        """A broker that listens through the transport, in memory, in a thread."""
        with ExitStack() as undo:
            if self.factory is not None:
                scheme = parse_url(self.url).scheme
                undo.enter_context(register_transport(scheme, self.make))
            yield undo.enter_context(
                hermes.Broker(
                    listeners=[str(free_url())],
                    storage="memory:",
                    idle="block",
                    limits={"message": MESSAGE_MAX},
                )
            )

    @pytest.fixture
    def url_of(self, broker: hermes.Broker) -> Url:
        """URL that clients of the broker dial."""
        return with_options(parse_url(broker.url), **self.client_options)

    @pytest.fixture
    def client(self, url_of: Url) -> Iterator[hermes.Client]:
        """A client of the broker."""
        with hermes.connect(str(url_of), timeout=TIMEOUT_S) as made:
            yield made

    @pytest.fixture
    def other(self, url_of: Url) -> Iterator[hermes.Client]:
        """Another client of the broker."""
        with hermes.connect(str(url_of), timeout=TIMEOUT_S) as made:
            yield made

    def test_messages_of_any_size(self, client: hermes.Client, other: hermes.Client) -> None:
        """From 0 bytes to the limit, every payload arrives as it was published."""
        sizes = [0, *SIZES, MESSAGE_MAX - 1, MESSAGE_MAX]
        sent = [random.Random(size).randbytes(size) for size in sizes]
        with other.subscribe("size") as subscription:
            with client.publisher("size") as publisher:
                for payload in sent:
                    publisher.send(payload)
            for number, message in enumerate(subscription.messages(timeout=TIMEOUT_S)):
                size = sizes[number]
                assert same(bytes(message.payload), sent[number]), f"a message of {size} bytes"
                if number + 1 == len(sent):
                    break

    def test_one_byte_too_many(self, client: hermes.Client) -> None:
        """A message over the limit raises MessageTooLarge, and the next one passes."""
        with client.publisher("size") as publisher:
            with pytest.raises(MessageTooLarge):
                publisher.send(bytes(MESSAGE_MAX + 1))
            publisher.send(b"fits")

        assert publisher.acked == 1

    def test_many_messages_both_ways(self, client: hermes.Client, other: hermes.Client) -> None:
        """Two clients publish 100,000 messages in all and each receives the other's, in sequence,
        with the right checksums."""
        half = MESSAGES // 2
        pairs = ((client, "left", "right"), (other, "right", "left"))
        with contextlib.ExitStack() as opened:
            subscriptions = [opened.enter_context(one.subscribe(to)) for one, _, to in pairs]
            for one, name, _ in pairs:
                with one.publisher(name) as publisher:
                    publisher.send_many(*bodies(half, SEED))
            for subscription in subscriptions:
                self._receive_bodies(subscription, half)

    @staticmethod
    def _receive_bodies(subscription: hermes.Subscription, count: int) -> None:
        number, topic = 0, subscription.pattern
        for batch in subscription.batches(timeout=TIMEOUT_S):
            for payload in batch.payloads():
                found = int.from_bytes(payload[4:8], "little")
                assert found == number, f"{topic}: message {number} was expected, {found} came"
                assert zlib.crc32(payload[4:]) == int.from_bytes(payload[:4], "little")
                number += 1
            if number == count:
                break
        assert number == count

    def test_the_broker_stops_in_order(self, broker: hermes.Broker, url_of: Url) -> None:
        """A broker that stops has sent and taken everything; its clients see the end."""
        with contextlib.suppress(HermesError), contextlib.ExitStack() as undo:
            client = hermes.connect(str(url_of), timeout=TIMEOUT_S, reconnect=False)
            undo.callback(client.close)
            publisher = client.publisher("a")
            publisher.send_many(*bodies(1000, SEED))
            publisher.flush()
            broker.stop()
            end = time.monotonic() + TIMEOUT_S
            while time.monotonic() < end:  # until it is told that the broker stops
                client.ping(timeout=TIMEOUT_S)
        broker.close()

        assert publisher.acked == 1000
        with pytest.raises(HermesError):
            client.ping(timeout=TIMEOUT_S)

    @needs("processes")
    @pytest.mark.parametrize(("way", "status"), [("fall", 0), ("exit", 3), ("raise", 1)])
    def test_a_program_ends_with_an_open_client(
        self, client: hermes.Client, url_of: Url, way: str, status: int
    ) -> None:
        """However it ends, it ends, and what it had published arrives: a channel that is closed then
        finds no time for threads."""
        with client.subscribe("left") as subscription:
            with Peer("hermes.testing.peer", self, "leave_open", url_of, way) as program:
                assert program.ended() == status

            assert subscription.receive(timeout=TIMEOUT_S).payload == b"the last message"

    def test_a_program_ends_with_an_open_client_and_broker(
        self, free_url: Callable[..., Url]
    ) -> None:
        """Both in one process, and neither closed: it ends all the same."""
        with Peer("hermes.testing.peer", self, "leave_open", free_url(), "exit embed") as program:
            assert program.ended() == 3

    def test_random_bytes_harm_nobody(
        self, url_of: Url, transport: Transport, client: hermes.Client
    ) -> None:
        """Bytes that are no frames are answered with an Error, or end the connection, and a client
        beside them notices nothing."""
        chance = random.Random(SEED)
        hello = ClientProtocol().hello()
        with client.subscribe(">") as subscription, client.publisher("beside") as publisher:
            for number in range(ATTACKS):
                prefix = chance.choice([b"", b"HRMS", hello])
                data = prefix + chance.randbytes(chance.randrange(64, 3000))
                answer = self._strike(transport, url_of, data)
                if prefix == b"":
                    assert b"not_hermes" in answer, f"attack {number} was answered with {answer!r}"
                publisher.send(b"%d" % number)
                message = subscription.receive(timeout=TIMEOUT_S)
                assert bytes(message.payload) == b"%d" % number

        assert client.ping() < TIMEOUT_S

    @staticmethod
    def _strike(transport: Transport, url: Url, data: bytes) -> bytes:
        """Send ``data``; everything that is answered, up to the end."""
        answer, buffer = bytearray(), memoryview(bytearray(65_536))
        deadline = time.monotonic() + TIMEOUT_S
        channel = transport.dial(url, int(TIMEOUT_S * 1e9))
        with contextlib.closing(channel), contextlib.suppress(ConnectionLost):
            while time.monotonic() < deadline:
                if data:
                    data = data[channel.send([data]) :]
                channel.wait(readable=True, writable=bool(data), timeout_ns=10_000_000)
                try:
                    count = channel.receive_into(buffer)
                except WouldBlock:
                    continue
                if not count:
                    break
                answer += buffer[:count]
        assert time.monotonic() < deadline, "bytes that are no frames were neither answered nor cut"
        return bytes(answer)
