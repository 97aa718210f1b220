"""iceoryx2: shared memory, no broker; a full queue loses its oldest by default, or blocks.

Its subscribers poll; what a user does between two looks is the user's choice, here nothing.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.rivals.common import DRAIN_MAX, missing
from hermes.bench.contestant import Conditions, Measure
from hermes.bench.stage import Stage

PAYLOAD_MAX = 1 << 20
"""Bytes; memory is set aside for each sample in a queue."""
QUEUE = 256
"""Samples of a subscriber's queue."""


class User:
    """A node, and the service of a topic."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Error)
        self.node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        self.service = (
            self.node.service_builder(iox2.ServiceName.new(f"{where['prefix']}/{topic}"))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(not where["lossless"])
            .subscriber_max_buffer_size(QUEUE)
            .max_subscribers(64)
            .open_or_create()
        )

    def close(self) -> None:
        """Nothing stays behind."""
        del self.service, self.node


class Publisher(User):
    """Copies each payload into a sample that it has been lent."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        import iceoryx2 as iox2

        super().__init__(where, topic)
        builder = self.service.publisher_builder().initial_max_slice_len(PAYLOAD_MAX // QUEUE)
        builder = builder.allocation_strategy(iox2.AllocationStrategy.PowerOfTwo)
        strategy = iox2.BackpressureStrategy
        builder = builder.backpressure_strategy(
            strategy.RetryUntilDelivered if where["lossless"] else strategy.DiscardData
        )
        self._publisher = builder.create()

    def send(self, payload: bytes) -> None:
        """One sample."""
        size = len(payload)
        sample = self._publisher.loan_slice_uninit(size)
        ctypes.memmove(sample.payload_ptr, payload, size)
        sample.assume_init().send()

    def burst(self, payload: bytes, count: int) -> None:
        """There is no call for many."""
        for _ in range(count):
            self.send(payload)

    def flush(self) -> None:
        """Do nothing: what was sent is there."""

    def close(self) -> None:
        """End it."""
        del self._publisher
        super().close()


class Subscriber(User):
    """Polls."""

    def __init__(self, where: dict[str, Any], topic: str) -> None:
        super().__init__(where, topic)
        self._subscriber = self.service.subscriber_builder().create()

    def receive(self, timeout_s: float) -> bytes | None:
        """The next payload, copied: the sample goes back."""
        deadline = time.monotonic() + timeout_s
        receive = self._subscriber.receive
        while (sample := receive()) is None:
            if time.monotonic() > deadline:
                return None
        return ctypes.string_at(sample.payload_ptr, sample.header.number_of_elements)

    def drain(self, timeout_s: float) -> int:
        """Take what is there, one by one."""
        deadline = time.monotonic() + timeout_s
        receive = self._subscriber.receive
        while receive() is None:
            if time.monotonic() > deadline:
                return 0
        count = 1
        while count < DRAIN_MAX and receive() is not None:
            count += 1
        return count

    def close(self) -> None:
        """End it."""
        del self._subscriber
        super().close()


@dataclass(frozen=True, slots=True)
class Iceoryx:
    """iceoryx2 with one behaviour of a full queue."""

    name: str
    note: str
    lossless: bool
    apis: Mapping[Measure, str]

    def obstacle(self) -> str | None:
        """iceoryx2."""
        return missing(["iceoryx2"])

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """There is no broker: only a name."""
        return {"prefix": stage.place.name, "lossless": self.lossless}

    def publisher(self, where: dict[str, Any], topic: str) -> Publisher:
        """A user who sends."""
        return Publisher(where, topic)

    def subscriber(self, where: dict[str, Any], topic: str) -> Subscriber:
        """A user who receives."""
        return Subscriber(where, topic)


APIS: dict[Measure, str] = dict.fromkeys(
    ("throughput", "fanout", "latency", "round_trip"),
    "loan, copy, send; poll",  # type: ignore[arg-type]
)
OVERFLOW = Iceoryx("iceoryx2", "no broker; shared memory, overflow loses the oldest", False, APIS)
BLOCKING = Iceoryx("iceoryx2, block", "no broker; shared memory, full queues block", True, APIS)
DRIVERS = ("OVERFLOW", "BLOCKING")
