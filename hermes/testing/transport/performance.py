"""Performance: figures for the report, which nothing is compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from hermes.testing.transport.contract import Contract
from hermes.testing.transport.stage import Stage

ROUND_TRIPS = 300
SIZE = 100
BULK = 64 << 20

Record = Callable[[str, Any], None]


class PerformanceContract(Contract):
    """How fast it is here and now; a change by a factor is worth a look."""

    def test_round_trip(self, stage: Stage, record_property: Record) -> None:
        """Prints the median time for 100 bytes to an echo in the same thread and back."""
        client, _ = stage.connect()
        times = []
        for _ in range(ROUND_TRIPS):
            begun = time.perf_counter_ns()
            stage.exchange(client, bytes(SIZE))
            times.append(time.perf_counter_ns() - begun)

        median_us = statistics.median(times) / 1e3
        record_property("round_trip_us", round(median_us, 1))
        print(f"round trip of {SIZE} bytes: {median_us:.1f} us (median of {ROUND_TRIPS})")

    def test_throughput(self, stage: Stage, record_property: Record) -> None:
        """Prints how fast megabytes of output reach a client in the same thread."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.keeping = False
        block = bytes(1 << 20)
        connection.source = iter([block] * (BULK >> 20))
        begun = time.perf_counter()
        connection.mark()
        stage.until(lambda: client.received >= BULK, f"{BULK} bytes")

        rate = BULK / (time.perf_counter() - begun) / 1e6
        record_property("throughput_mb_per_s", round(rate))
        print(f"output to one client: {rate:.0f} MB/s")
