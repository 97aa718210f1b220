"""Order and reliability: over a medium that may lose, repeat and reorder, with faults on purpose.

Both ends get the specification, so the faults are in both directions.  Each has its seed in the
specification, which a failure's message shows.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable

import pytest

from hermes.testing.contract import needs
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.stage import Stage

FAULTS = (
    "loss=0.1%,seed=1",
    "loss=1%,seed=2",
    "loss=5%,seed=3",
    "loss=10%,seed=4",
    "loss=25%,seed=5",
    "loss=5%,burst=8,seed=6",
    "duplicate=20%,seed=7",
    "reorder=20%,seed=8",
    "delay=2ms,jitter=1ms,seed=9",
    "truncate=5%,seed=10",
    "corrupt=5%,seed=11",
    "loss=3%,burst=3,duplicate=3%,reorder=3%,jitter=500us,truncate=1%,corrupt=1%,seed=12",
)
BULK = 2 << 20
SMALL = 100
"""Exchanges of a few bytes: each may lose its only datagram."""
BLACKOUT = "blackout=50ms+2s"
NOTICED_S = 1.0
"""An exchange that takes so long has met the black-out."""


class ReliabilityContract(Contract):
    """Every byte in order, whatever happens to the datagrams."""

    @needs("datagrams")
    @pytest.mark.parametrize("spec", FAULTS)
    def test_megabytes_both_ways(self, make_stage: Callable[..., Stage], spec: str) -> None:
        """Different megabytes in each direction arrive whole and in order under the fault."""
        stage = make_stage(intercept=spec)
        stage.kernel.echo = False
        client, connection = stage.connect(intercept=spec)
        client.keeping = False
        chance = random.Random(spec)
        up, down = chance.randbytes(BULK), chance.randbytes(BULK)
        client.send(up)
        connection.send(down)
        stage.until(
            lambda: (connection.received >= BULK and client.received >= BULK) or client.over,
            f"{BULK} bytes each way under {spec}",
            deadline_s=self.loss_deadline_s,
        )

        assert (connection.received, connection.received_crc) == (BULK, zlib.crc32(up)), spec
        assert (client.received, client.crc) == (BULK, zlib.crc32(down)), spec
        self._check_met(stage, spec)

    @needs("datagrams")
    @pytest.mark.parametrize("spec", ["loss=10%,seed=21", "reorder=30%,duplicate=30%,seed=22"])
    def test_a_few_bytes_at_a_time(self, make_stage: Callable[..., Stage], spec: str) -> None:
        """Request and reply, each alone in its datagram: the last one lost is noticed too."""
        stage = make_stage(intercept=spec)
        client, _ = stage.connect(intercept=spec)
        for number in range(SMALL):
            stage.exchange(client, b"%d" % number)

    @needs("datagrams")
    def test_a_blackout_heals(self, make_stage: Callable[..., Stage]) -> None:
        """Two seconds in which nothing passes break no connection, and lose nothing."""
        stage = make_stage(intercept=f"{BLACKOUT},seed=31")
        client, connection = stage.connect(intercept=f"{BLACKOUT},seed=32")
        data = random.Random(31).randbytes(1 << 16)
        longest = 0.0
        deadline = time.monotonic() + self.deadline_s
        while longest < NOTICED_S:
            begun = time.monotonic()
            assert begun < deadline, "the black-out never began: nothing took long"
            stage.exchange(client, data[:64])
            longest = time.monotonic() - begun
        stage.exchange(client, data)

        assert not connection.lost

    @needs("datagrams")
    def test_last_words_arrive_all_the_same(self, make_stage: Callable[..., Stage]) -> None:
        """Bytes sent just before the broker closes arrive, although datagrams are lost."""
        spec = "loss=15%,seed=41"
        stage = make_stage(intercept=spec)
        stage.kernel.echo = False
        for number in range(10):
            client, connection = stage.connect(intercept=spec)
            connection.send(b"goodbye %d" % number)
            connection.close()
            stage.until_over(client)

            assert client.data == b"goodbye %d" % number, (
                f"connection {number} under {spec}: {bytes(client.data)!r} arrived, then "
                f"{client.lost or 'the end of input'}"
            )
            client.close()
            stage.clients.clear()

    @staticmethod
    def _check_met(stage: Stage, spec: str) -> None:
        """Fail if the listener's interceptor was never used."""
        counters = stage.agent.counters()
        assert counters.get("intercept_admitted"), (
            f"nothing passed through the interceptor under {spec}: what a transport over datagrams "
            "sends goes through it, and its counters are among the agent's"
        )
