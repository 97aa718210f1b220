"""Performance: informative, recorded with the result; nothing fails for being slow."""

from __future__ import annotations

import time
from collections.abc import Callable

from hermes.native import Run
from hermes.testing.scribe import Scribe, encode, settle
from hermes.testing.storage.contract import Contract

BATCHES = 100
BATCH = 256
SIZE = 256


class PerformanceContract(Contract):
    """Rates of large appends and reads."""

    def test_rates(self, scribe: Scribe, record_property: Callable[[str, object], None]) -> None:
        """Messages of 256 B in appends of 256: how many a second, in and out."""
        batches = [
            b"".join(encode(1 + number * BATCH, [SIZE] * BATCH)) for number in range(BATCHES)
        ]
        begun = time.perf_counter()
        for batch in batches:
            scribe.log.append(memoryview(batch), BATCH, now_ns=time.time_ns())
        settle(scribe.log, BATCHES * BATCH + 1, self.deadline_s)
        appended = time.perf_counter()
        position = 0
        while isinstance(found := scribe.log.read(position, 1 << 20), Run):
            position += len(found.view)
        read = time.perf_counter()

        assert position == sum(map(len, batches))
        record_property("append_per_s", round(BATCHES * BATCH / (appended - begun)))
        record_property("read_per_s", round(BATCHES * BATCH / (read - appended)))
