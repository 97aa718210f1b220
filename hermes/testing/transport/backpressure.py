"""Back-pressure: the broker waits for a peer that does not read, at no cost, and other peers are
served."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator

from hermes.testing.resources import resident
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.readiness import check_quiet
from hermes.testing.transport.stage import Stage

HELD_MAX = 64 << 20
"""Bytes that a transport and its medium may hold for one peer that does not read."""
GROWTH_MAX = 96 << 20
"""How much memory the process may gain meanwhile."""
PAUSE_SLACK = 8 << 20
"""Input that may still come for a connection that is paused: what was read already."""
PASS_MAX = 64 << 20
"""Bytes one poll may move for one connection: its bounded share, generously."""
PEERS = 64
SHARE = 1 << 19
"""Bytes that each of many readers is to get on average."""
BLOCK = 65_536


def endless() -> Iterator[bytes]:
    """Output without end."""
    return itertools.repeat(bytes(BLOCK))


class BackPressureContract(Contract):
    """Peers that do not read, brokers that do not poll, and fairness among many."""

    def test_a_peer_that_does_not_read(self, stage: Stage) -> None:
        """Output stops with a bounded number of bytes taken; memory stays bounded, the agent
        sleeps, and others are served."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.reading = False
        before = resident()
        connection.source = endless()
        connection.mark()
        stage.settle(or_else=lambda: connection.advanced > HELD_MAX)

        assert connection.advanced <= HELD_MAX, (
            f"{connection.advanced} bytes were taken for a peer that reads nothing: at most "
            f"{HELD_MAX} may be"
        )
        grown = resident() - before
        assert grown <= GROWTH_MAX, f"memory grew by {grown} bytes for a peer that reads nothing"
        check_quiet(stage, "a peer that does not read")
        stage.kernel.echo = True
        other, _ = stage.connect()
        stage.exchange(other, bytes(100_000))

    def test_a_peer_that_reads_again(self, stage: Stage) -> None:
        """When it reads on, everything arrives, from where it had stopped."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.reading = False
        client.keeping = False
        data = random.Random(3).randbytes(24 << 20)
        connection.send(data)
        stage.settle()
        client.reading = True
        stage.until(lambda: client.received >= len(data) or client.over, "all that waited")

        assert (client.received, client.crc) == (len(data), zlib.crc32(data))

    def test_a_broker_that_does_not_poll(self, stage: Stage) -> None:
        """A channel takes a bounded number of bytes, then none, and wait() waits for room; when
        the agent is polled again everything arrives."""
        client, connection = stage.connect()
        client.keeping = False
        block, sent, crc, refused = random.Random(4).randbytes(BLOCK), 0, 0, 0
        while refused < 10 and sent <= HELD_MAX:
            taken = client.channel.send([block])
            sent += taken
            crc = zlib.crc32(block[:taken], crc)
            refused = 0 if taken else refused + 1
            if not taken:
                client.channel.wait(readable=False, writable=True, timeout_ns=5_000_000)

        assert sent <= HELD_MAX, (
            f"Channel.send took {sent} bytes while nobody polled the agent: at most {HELD_MAX} may "
            "be under way"
        )
        assert not client.channel.wait(readable=False, writable=True, timeout_ns=20_000_000), (
            "Channel.wait says there is room, and send() takes nothing"
        )
        stage.until(lambda: client.received >= sent or client.over, "all that was sent")
        assert (connection.received, connection.received_crc) == (sent, crc)

    def test_a_paused_connection_is_not_read(self, stage: Stage) -> None:
        """While ``paused`` is set at most what was read already comes; afterwards the rest."""
        stage.kernel.pending_max = 1 << 20
        client, connection = stage.connect()
        client.keeping = client.reading = False
        data = random.Random(5).randbytes(24 << 20)
        client.send(data)
        stage.settle()

        assert connection.paused, (
            f"after {connection.received} bytes from a client that does not read its answers, "
            f"only {connection.pending} bytes of these wait: all others were taken for it"
        )
        assert connection.received_paused <= PAUSE_SLACK, (
            f"Connection.paused: {connection.received_paused} bytes were delivered while the "
            "broker wanted no more input"
        )
        check_quiet(stage, "a paused connection")
        client.reading = True
        stage.until(lambda: client.received >= len(data) or client.over, "all that was held back")
        assert client.crc == zlib.crc32(data)

    def test_one_poll_has_a_bounded_share(self, stage: Stage) -> None:
        """A poll returns although a connection has output without end and its peer reads."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.keeping = False
        connection.source = endless()
        connection.mark()
        for _ in range(50):
            before = connection.advanced
            stage.agent.poll(0)
            moved = connection.advanced - before
            assert moved <= PASS_MAX, f"one poll moved {moved} bytes of one connection"
            client.turn()

    def test_one_poll_reads_a_bounded_share(self, stage: Stage) -> None:
        """A poll returns although a client's input never ends: each read finds more."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        block, before = bytes(BLOCK), 0

        def send_more() -> None:
            if connection.received - before <= PASS_MAX:
                client.channel.send([block])

        connection.on_input = send_more
        client.send(block)
        stage.until(lambda: connection.received, "the first input")
        for _ in range(50):
            client.channel.send([block])
            before = connection.received
            stage.agent.poll(0)
            moved = connection.received - before
            assert moved <= PASS_MAX, (
                f"Agent.poll: one call does a bounded share per connection; it read {moved} bytes "
                "of one"
            )
        connection.on_input = None

    def test_a_flood_does_not_drown_the_others(self, stage: Stage) -> None:
        """While one client sends without end, 63 others have their answers before it has sent
        much more."""
        others = [stage.connect()[0] for _ in range(PEERS - 1)]
        flooding, connection = stage.connect()
        flooding.keeping = False
        flooding.send(bytes(PASS_MAX * 2))
        stage.until(lambda: connection.received > BLOCK, "the flood to begin")
        before = connection.received
        for client in others:
            client.send(b"a word")
        stage.until(
            lambda: all(client.data == b"a word" for client in others), "63 answers in a flood"
        )

        flood = connection.received - before
        assert flood <= PASS_MAX, f"{flood} bytes of the flood came before 63 others were answered"

    def test_readers_get_equal_shares(self, stage: Stage) -> None:
        """64 clients that all read, with output without end, get on at much the same pace."""
        stage.kernel.echo = False
        pairs = [stage.connect() for _ in range(PEERS)]
        for client, connection in pairs:
            client.keeping = False
            connection.source = endless()
            connection.mark()
        stage.until(
            lambda: sum(client.received for client, _ in pairs) >= PEERS * SHARE,
            f"{PEERS * SHARE} bytes to {PEERS} clients",
        )

        least = min(client.received for client, _ in pairs)
        assert least >= SHARE // 8, f"of {SHARE} bytes on average, one client got {least}"
