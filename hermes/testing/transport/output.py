"""Output in two steps: what is advanced over and what is released, and what memory is used until.

That ``released <= advanced <= pulled``, and that nothing is called after the end, is watched by the
echo kernel in every test of the kit; here are the tests that provoke the contrary.
"""

from __future__ import annotations

import gc
import random
import zlib
from functools import partial

from hermes.testing.kernel import EchoConnection
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.stage import Client, Stage, check_same

BULK = 16 << 20
WINDOW = 1 << 16
"""A bound on what is in flight that every transport runs into."""
READ_SIZE = 10_000


def all_have(pairs: list[tuple[Client, EchoConnection]], data: bytes) -> bool:
    """Whether every client has received ``data``."""
    return all(client.data == data for client, _ in pairs)


class OutputContract(Contract):
    """``output``, ``advance`` and ``release``."""

    def test_released_memory_is_not_sent(self, stage: Stage) -> None:
        """Memory is overwritten as soon as it is released, and what arrives at a peer that reads
        slowly is unharmed: a view is used no longer than that."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.keeping = False
        data = random.Random(1).randbytes(BULK)
        for start in range(0, BULK, READ_SIZE):
            connection.send(data[start : start + READ_SIZE])
        client.reading = False
        stage.settle()
        client.reading = True
        stage.until(lambda: client.received >= BULK or client.over, f"{BULK} bytes")

        assert client.crc == zlib.crc32(data), (
            "Connection.output: a view is valid until its bytes are released; what arrived is not "
            "what was handed out"
        )

    def test_everything_is_released_in_the_end(self, stage: Stage) -> None:
        """When the peer has everything, all memory is given back, and no view of it is kept."""
        client, connection = stage.connect()
        for size in (100, 100_000, 1 << 20):
            stage.exchange(client, bytes(size))
        stage.until(lambda: not connection.in_flight, "all memory in flight to be released")
        stage.exchange(client, b"one more")
        stage.until(lambda: not connection.in_flight, "all memory in flight to be released")
        gc.collect()

        held = sum(block.held for block in connection.retired)
        assert not held, (
            f"Connection.release: the medium needs the memory no more, yet views of {held} blocks "
            "are kept: they pin the log"
        )

    def test_a_full_window_is_waited_for(self, stage: Stage) -> None:
        """While as much is in flight as may be, output() is empty; the transport asks again once it
        has released something, and everything arrives."""
        stage.kernel.in_flight_max = WINDOW
        stage.kernel.echo = False
        client, connection = stage.connect()
        data = random.Random(2).randbytes(BULK // 4)
        for start in range(0, len(data), WINDOW):
            connection.send(data[start : start + WINDOW])
        stage.until(
            lambda: len(client.data) >= len(data) or client.over,
            "output beyond the window (after release() the transport has to ask for more)",
        )

        check_same(client.data, data, "output through a window of 64 KiB")

    def test_output_that_comes_later_is_noticed(self, stage: Stage) -> None:
        """Whenever ready() names a connection its output is sent: also if it had none a moment
        ago, and for every connection named."""
        stage.kernel.echo = False
        pairs = [stage.connect() for _ in range(3)]
        for turn in range(50):
            for client, connection in pairs:
                client.data.clear()
                connection.send(b"turn %d" % turn)
            stage.until(
                partial(all_have, pairs, b"turn %d" % turn),
                "output of connections that ready() has named",
            )

    def test_closing_without_output_is_noticed(self, stage: Stage) -> None:
        """A connection that ready() names, that has no output and is to be closed, is closed."""
        client, connection = stage.connect()
        stage.settle()
        connection.close()

        stage.until(lambda: client.over and connection.lost, "an idle connection to be closed")
        assert client.ended, f"it was closed in order, and the client saw {client.lost!r}"
