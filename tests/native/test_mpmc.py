"""MpmcRing: a queue of records between any number of threads."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hermes.errors import Closed, MessageTooLarge, UsageError
from hermes.native.rings import MpmcRing
from tests.effort import effort

if TYPE_CHECKING:
    from tests.native.conftest import RunC, Sanitizer


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
@pytest.mark.parametrize(("producers", "consumers"), [(4, 4), (1, 1), (1, 4), (4, 1)])
def test_threads_lose_nothing(
    run_c: RunC, sanitizer: Sanitizer, producers: int, consumers: int
) -> None:
    """Nothing is lost, nothing comes twice, and each producer's order is kept.

    Proven able to fail by test_a_weakened_release_is_noticed.
    """
    run_c("mpmc_race.c", str(producers), str(consumers), "20000", sanitizer=sanitizer)


@pytest.mark.parametrize("release", ["HM_WEAKEN_MPMC_PUSH", "HM_WEAKEN_MPMC_POP"])
def test_a_weakened_release_is_noticed(run_c: RunC, release: str) -> None:
    """With either release store made relaxed, ThreadSanitizer finds the data race.

    This is the proof that test_threads_lose_nothing can fail, run every time: the program, its
    arguments and the hardware are the same, so that the store's order is all that differs.
    """
    run_c(
        "mpmc_race.c",
        "4",
        "4",
        "20000",
        sanitizer="thread",
        defines=(release,),
        expect_failure=True,
    )


class Model(RuleBasedStateMachine):
    """Any sequence of calls does to the queue what it does to a deque of bounded length."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = MpmcRing(8, record_max=20)
        self.expected: deque[bytes] = deque()

    def teardown(self) -> None:
        self.ring.close()

    @rule(record=st.binary(max_size=20))
    def push(self, record: bytes) -> None:
        taken = self.ring.push(record)
        assert taken == (len(self.expected) < 8)
        if taken:
            self.expected.append(record)

    @rule(records=st.lists(st.binary(max_size=20), max_size=12))
    def push_many(self, records: list[bytes]) -> None:
        done = self.ring.push_many(records)
        assert done == min(len(records), 8 - len(self.expected))
        self.expected += records[:done]

    @rule()
    def pop(self) -> None:
        assert self.ring.pop() == (self.expected.popleft() if self.expected else None)

    @rule(limit=st.integers(0, 10))
    def drain(self, limit: int) -> None:
        records = self.ring.drain(limit)
        assert records == [self.expected.popleft() for _ in range(min(limit, len(self.expected)))]

    @invariant()
    def length_agrees(self) -> None:
        assert len(self.ring) == len(self.expected)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=effort(25, 60), stateful_step_count=60, deadline=None)


def test_a_record_over_its_slot_is_an_error() -> None:
    """Over record_max every call says so, and a batch with one such record pushes none."""
    with MpmcRing(4, record_max=3) as ring:
        with pytest.raises(MessageTooLarge, match="4 bytes; this ring takes 0 to 3"):
            ring.push(b"1234")
        with pytest.raises(MessageTooLarge):
            ring.push_many([b"1", b"1234"])

        assert len(ring) == 0


@pytest.mark.parametrize(
    ("capacity", "record_max"),
    [(0, 8), (1, 8), (3, 8), (-4, 8), (1 << 40, 8), (4, -1), (4, 1 << 25)],
)
def test_bounds_are_checked(capacity: int, record_max: int) -> None:
    """A capacity that is no power of two, or a number out of bounds, is the caller's error."""
    with pytest.raises(UsageError):
        MpmcRing(capacity, record_max=record_max)


def test_the_memory_of_all_slots_is_bounded() -> None:
    """Two numbers that are fine by themselves may still ask for too much."""
    with pytest.raises(UsageError):
        MpmcRing(1 << 24, record_max=1 << 24)


def test_closed_is_closed() -> None:
    """Every call after close() raises Closed, and close() can be repeated."""
    ring = MpmcRing(4, record_max=8)
    ring.close()
    ring.close()

    for call in (ring.pop, ring.drain, lambda: ring.push(b""), lambda: len(ring)):
        with pytest.raises(Closed):
            call()


def test_python_threads_share_it() -> None:
    """Four threads push and two pop: each record arrives once, each producer's in order."""
    per_producer = 2_000
    total = 4 * per_producer
    received: list[list[bytes]] = [[], []]

    with MpmcRing(64, record_max=16) as ring:

        def produce(producer: int) -> None:
            sent = 0
            while sent < per_producer:
                sent += ring.push(b"%d %d" % (producer, sent))

        def consume(mine: list[bytes]) -> None:
            while sum(map(len, received)) < total:
                mine += ring.drain()

        threads = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
        threads += [threading.Thread(target=consume, args=(mine,)) for mine in received]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)

    for mine in received:
        for producer in range(4):
            numbers = [int(r.split()[1]) for r in mine if r.startswith(b"%d " % producer)]
            assert numbers == sorted(numbers)
    expected = {b"%d %d" % (producer, n) for producer in range(4) for n in range(per_producer)}
    assert set(received[0] + received[1]) == expected
    assert sum(map(len, received)) == total
