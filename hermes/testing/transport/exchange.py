"""Exchange: every byte arrives once, in order and unharmed, whatever the sizes."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Iterator

import pytest

from hermes.errors import WouldBlock
from hermes.testing.contract import raises
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.stage import Stage, check_same

BOUNDARIES = (4096, 65_536, 1 << 20)
"""Sizes of buffers: pages, sockets' and scratch buffers, outputs."""
SIZES = (1, 31, 32, 33, *(size + off for size in BOUNDARIES for off in (-1, 0, 1)))
VIEWS = 3000
"""Views of one send: more than a system call takes."""
MESSAGES = 100_000
RECORD = struct.Struct("<III")
"""Number, length and CRC-32 of what follows."""
LENGTHS_MAX = 100
"""Bytes of a message, at most: many are small."""
WAIT_NS = 50_000_000
"""How long a client waits for input that does not come."""
CLOCK_SLACK_NS = 1_000_000
"""So much earlier a wait may end: systems count timeouts in whole milliseconds."""
SEED = 7
BULK = 16 << 20


def records(count: int, seed: int) -> bytes:
    """``count`` numbered messages of all small lengths, each with its checksum."""
    chance = random.Random(seed)
    pool = chance.randbytes(1 << 16)
    made = []
    for number in range(count):
        size = number % LENGTHS_MAX
        start = chance.randrange(len(pool) - size)
        body = pool[start : start + size]
        made += [RECORD.pack(number, size, zlib.crc32(body)), body]
    return b"".join(made)


def check_records(data: bytes | bytearray, count: int) -> None:
    """Fail unless ``data`` is ``count`` messages in sequence, each with the right checksum."""
    for number, (found, body, crc) in enumerate(split(data)):
        assert found == number, f"message {number} was expected and {found} came"
        assert zlib.crc32(body) == crc, f"message {number} is damaged"
    assert number + 1 == count, f"{count} messages were sent and {number + 1} came"


def split(data: bytes | bytearray) -> Iterator[tuple[int, memoryview, int]]:
    """Number, body and checksum of each message."""
    view, at = memoryview(data), 0
    while at < len(view):
        number, size, crc = RECORD.unpack_from(view, at)
        at += RECORD.size
        yield number, view[at : at + size], crc
        at += size


class ExchangeContract(Contract):
    """Bytes through an echo and back."""

    @pytest.mark.parametrize("size", SIZES)
    def test_any_size_comes_back(self, stage: Stage, size: int) -> None:
        """Around every boundary of a buffer, what was sent comes back byte for byte."""
        client, _ = stage.connect()

        stage.exchange(client, random.Random(size).randbytes(size))

    def test_nothing_is_nothing(self, stage: Stage) -> None:
        """Sending no bytes takes none, and reports none at the other end."""
        client, connection = stage.connect()

        assert client.channel.send([]) == 0
        assert client.channel.send([b"", memoryview(b"")]) == 0
        stage.exchange(client, b"after")
        assert connection.received == 5

    def test_many_views_in_one_send(self, stage: Stage) -> None:
        """Thousands of views, some of them empty, are taken from the first on and arrive in
        order."""
        client, _ = stage.connect()
        views = [b"" if number % 7 == 0 else b"%d," % number for number in range(VIEWS)]
        data = b"".join(views)
        taken = client.channel.send(views)

        assert 0 <= taken <= len(data)
        client.send(data[taken:])
        stage.until(lambda: len(client.data) >= len(data) or client.over, "all views to come back")
        check_same(client.data, data, f"a send of {VIEWS} views")

    def test_many_small_views_of_output(self, stage: Stage) -> None:
        """Output in thousands of views arrives in order."""
        stage.kernel.view_max = 3
        client, _ = stage.connect()

        data = random.Random(SEED).randbytes(5 * VIEWS)
        client.send(data)
        stage.until(lambda: len(client.data) >= len(data) or client.over, "many views of output")
        check_same(
            client.data,
            data,
            "Connection.output: any number of views may be returned, more than one system call takes",
        )

    def test_sent_memory_may_be_used_again(self, stage: Stage) -> None:
        """Bytes that send() has taken belong to the channel: changing the memory afterwards changes
        nothing that arrives."""
        client, _ = stage.connect()
        expected = bytearray()
        for number in range(200):
            memory = bytearray([number] * 5000)
            taken = 0
            while taken < len(memory):
                step = client.channel.send([memoryview(memory)[taken:]])
                expected += memory[taken : taken + step]
                memory[taken : taken + step] = bytes([0xEE]) * step
                taken += step
                if not step:
                    stage.turn()
        stage.until(lambda: len(client.data) >= len(expected) or client.over, "all to come back")

        check_same(client.data, expected, "Channel.send: memory changed after it was taken")

    def test_a_small_buffer_gets_the_rest_later(self, stage: Stage) -> None:
        """receive_into() fills what it is given; what does not fit comes with the next call."""
        client, connection = stage.connect()
        client.reading = False
        connection.send(b"abcdefgh")
        stage.until(lambda: not connection.pending, "output to be taken")
        got = bytearray()

        def all_there() -> bool:
            buffer = memoryview(bytearray(b"??"))
            try:
                count = client.channel.receive_into(buffer[:1])
            except WouldBlock:
                return False
            assert count == 1
            assert bytes(buffer[1:]) == b"?", "receive_into() wrote behind the buffer"
            got.extend(buffer[:1])
            return len(got) == 8

        stage.until(all_there, "eight bytes, one at a time")
        assert got == b"abcdefgh"

    def test_nothing_there_is_would_block(self, stage: Stage) -> None:
        """A channel without input raises WouldBlock, and wait() returns False after its timeout."""
        client, _ = stage.connect()
        stage.settle()

        with raises(WouldBlock, "Channel.receive_into: nothing is there now"):
            client.channel.receive_into(memoryview(bytearray(8)))
        begun = time.monotonic_ns()
        assert not client.channel.wait(readable=True, writable=False, timeout_ns=WAIT_NS)
        waited = time.monotonic_ns() - begun
        assert waited >= WAIT_NS - CLOCK_SLACK_NS, (
            f"Channel.wait: it returns False once timeout_ns has passed; it did after {waited} ns "
            f"of {WAIT_NS}"
        )
        assert client.channel.wait(readable=False, writable=True, timeout_ns=0), (
            "Channel.wait: there is room, so it is writable"
        )

    def test_wait_sees_what_arrived(self, stage: Stage) -> None:
        """wait() says True as soon as bytes are there, and again until they are taken."""
        client, connection = stage.connect()
        client.reading = False
        connection.send(b"news")
        stage.settle()

        for _ in range(2):
            assert stage.meanwhile(
                lambda: client.channel.wait(
                    readable=True, writable=False, timeout_ns=int(self.deadline_s * 1e9)
                ),
                "wait() to see what arrived",
            )
        client.reading = True
        stage.until(lambda: client.data == b"news", "the news")

    def test_many_messages_in_sequence(self, stage: Stage) -> None:
        """100,000 small messages come back in sequence, each with its checksum."""
        client, _ = stage.connect()
        client.send(data := records(MESSAGES, SEED))
        stage.until(lambda: len(client.data) >= len(data) or client.over, "100,000 messages")

        check_records(client.data, MESSAGES)

    def test_both_directions_at_once(self, stage: Stage) -> None:
        """Megabytes cross megabytes of something else, and both arrive whole."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.keeping = False
        chance = random.Random(SEED)
        up, down = chance.randbytes(BULK), chance.randbytes(BULK)
        client.send(up)
        connection.send(down)
        stage.until(
            lambda: (connection.received >= BULK and client.received >= BULK) or client.over,
            f"{BULK} bytes each way",
        )

        assert (connection.received, connection.received_crc) == (BULK, zlib.crc32(up))
        assert (client.received, client.crc) == (BULK, zlib.crc32(down))

    def test_clients_do_not_mix(self, stage: Stage) -> None:
        """The bytes of twenty clients that send at once come back to the client that sent them."""
        clients = [stage.connect()[0] for _ in range(20)]
        sent = [random.Random(number).randbytes(100_000) for number in range(len(clients))]
        for client, data in zip(clients, sent, strict=True):
            client.send(data)
        stage.until(
            lambda: all(len(client.data) >= 100_000 or client.over for client in clients),
            "every client's own bytes",
        )

        for client, data in zip(clients, sent, strict=True):
            check_same(client.data, data, "twenty clients at once")
