"""SpscRing: records from one thread or process to another, neither trusting the other."""

from __future__ import annotations

import gc
import mmap
import os
import resource
import stat
import struct
import subprocess
import sys
import threading
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hermes.errors import Closed, MalformedInput, MessageTooLarge, SystemFault, UsageError
from hermes.native.rings import SpscRing
from tests.effort import effort

if TYPE_CHECKING:
    from tests.native.conftest import RunC, Sanitizer

VERSION, HEADER, CAPACITY, TAIL, HEAD, DATA = 8, 12, 16, 128, 256, 4096  # offsets in a mapping
PADDING = 1 << 32  # in a record's header word

# In C: two threads or processes, under the sanitizers.


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_two_threads_lose_nothing(run_c: RunC, sanitizer: Sanitizer) -> None:
    """Records that one thread pushes, by any call, the other pops, by any call: whole, in order, once.

    Proven able to fail by test_a_weakened_release_is_noticed.
    """
    assert run_c("spsc_race.c", "threads", "100000", sanitizer=sanitizer) == "100000 records\n"


def test_two_processes_lose_nothing(run_c: RunC, tmp_path: Path) -> None:
    """The same between two processes that map a file by its path."""
    output = run_c("spsc_race.c", "processes", "100000", tmp_path / "ring")

    assert output == "100000 records\n"


@pytest.mark.parametrize("release", ["HM_WEAKEN_SPSC_TAIL", "HM_WEAKEN_SPSC_HEAD"])
def test_a_weakened_release_is_noticed(run_c: RunC, release: str) -> None:
    """With either release store made relaxed, ThreadSanitizer finds the data race.

    This is the proof that test_two_threads_lose_nothing can fail, run every time: the program, its
    arguments and the hardware are the same, so that the store's order is all that differs.
    """
    run_c(
        "spsc_race.c",
        "threads",
        "100000",
        sanitizer="thread",
        defines=(release,),
        expect_failure=True,
    )


# Through Python, one thread.


class Model(RuleBasedStateMachine):
    """Any sequence of calls does to the ring what it does to a deque with a bound in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = SpscRing(256)
        self.expected: deque[bytes] = deque()
        self.claimed: memoryview | None = None

    def teardown(self) -> None:
        self.ring.close()

    def refused(self, size: int) -> None:
        """A refusal is right only if neither record nor the most padding fits."""
        padding_max = 128
        assert self.ring.used + 8 + -(-size // 8) * 8 + padding_max > self.ring.capacity

    @rule(record=st.binary(max_size=120))
    def push(self, record: bytes) -> None:
        self.claimed = None
        if self.ring.push(record):
            self.expected.append(record)
        else:
            self.refused(len(record))

    @rule(records=st.lists(st.binary(max_size=60), max_size=8))
    def push_many(self, records: list[bytes]) -> None:
        if records:
            self.claimed = None
        done = self.ring.push_many(records)
        self.expected += records[:done]
        if done < len(records):
            self.refused(len(records[done]))

    @rule(size=st.integers(0, 120))
    def claim(self, size: int) -> None:
        view = self.ring.claim(size)
        if view is None:
            self.refused(size)
        else:
            self.claimed = view

    @precondition(lambda self: self.claimed is not None)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        assert self.claimed is not None
        record = data.draw(st.binary(max_size=len(self.claimed)))
        self.claimed[: len(record)] = record
        self.ring.commit(len(record))
        self.claimed = None
        self.expected.append(record)

    @rule()
    def pop(self) -> None:
        record = self.ring.pop()
        assert record == (self.expected.popleft() if self.expected else None)

    @rule(limit=st.integers(0, 300))
    def drain(self, limit: int) -> None:
        for record in self.ring.drain(limit):
            assert record == self.expected.popleft()

    @rule(limit=st.integers(1, 5), give_back=st.booleans())
    def peek_many(self, limit: int, give_back: bool) -> None:
        views = self.ring.peek_many(limit)
        assert [*map(bytes, views)] == [*self.expected][: len(views)]
        if give_back:
            self.ring.release()
            for _ in views:
                self.expected.popleft()

    @invariant()
    def used_is_bounded(self) -> None:
        assert 0 <= self.ring.used <= self.ring.capacity
        assert (self.ring.used == 0) == (not self.expected)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=effort(25, 60), stateful_step_count=60, deadline=None)


@given(sizes=st.lists(st.integers(0, 504), min_size=1, max_size=40))
def test_every_size_survives_wrapping(sizes: list[int]) -> None:
    """A record of any size up to record_max fits an empty ring, wherever the cursors stand."""
    with SpscRing(1024) as ring:
        for size in sizes:
            assert ring.push(b"x" * size)
            assert ring.pop() == b"x" * size


def test_full_is_an_answer_and_writes_nothing() -> None:
    """A full ring says False, keeps what it has, and takes more once there is room."""
    with SpscRing(64) as ring:
        assert [ring.push(b"12345678") for _ in range(5)] == [True] * 4 + [False]
        assert ring.claim(1) is None
        assert ring.push_many([b"a"]) == 0
        assert ring.pop() == b"12345678"
        assert ring.push(b"new")

        assert ring.drain() == [b"12345678"] * 3 + [b"new"]


def test_push_many_takes_what_fits() -> None:
    """The first records of a batch that does not fit wholly are taken; their number is told."""
    with SpscRing(64) as ring:
        assert ring.push_many([b"12345678"] * 9) == 4
        assert ring.drain(3) == [b"12345678"] * 3


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc")])
def test_any_buffer_can_be_pushed(data: bytearray | memoryview) -> None:
    """An object with a buffer is copied from it."""
    with SpscRing(64) as ring:
        ring.push(data)

        assert ring.pop() == b"abc"


def test_a_record_that_can_never_fit_is_an_error() -> None:
    """Over record_max, every call says so instead of "full"."""
    with SpscRing(64) as ring:
        for call in (
            ring.push,
            lambda data: ring.claim(len(data)),
            lambda data: ring.push_many([data]),
        ):
            with pytest.raises(MessageTooLarge, match="25 bytes; this ring takes 0 to 24"):
                call(b"x" * 25)


@pytest.mark.parametrize("size", [None, 0, 5])
def test_commit_needs_a_claim(size: int | None) -> None:
    """A commit without a claim, or of more than was claimed, is refused."""
    with SpscRing(64) as ring:
        with pytest.raises(UsageError, match="without a claim"):
            ring.commit(size)
        ring.claim(4)
        with pytest.raises(UsageError, match="without a claim"):
            ring.commit(5)


@pytest.mark.parametrize("capacity", [-64, 0, 63, 65, 96, 1 << 31, 1 << 80])
def test_capacity_is_a_bounded_power_of_two(capacity: int) -> None:
    """Everything else is the caller's error."""
    with pytest.raises(UsageError, match="power of two"):
        SpscRing(capacity)


def test_a_view_outlives_the_ring() -> None:
    """Memory that a view names stays mapped after close() and after the ring is gone."""
    ring = SpscRing(4096)
    ring.push(b"still here")
    view = ring.peek()
    ring.close()
    del ring
    gc.collect()

    assert view is not None
    assert bytes(view) == b"still here"


def test_closed_is_closed() -> None:
    """Every call after close() raises Closed, and close() can be repeated."""
    ring = SpscRing(64)
    ring.close()
    ring.close()

    for call in (
        ring.pop,
        ring.peek,
        ring.release,
        ring.drain,
        lambda: ring.push(b""),
        lambda: ring.used,
    ):
        with pytest.raises(Closed):
            call()


def test_two_python_threads() -> None:
    """A consumer thread gets what a producer thread pushes, in order."""
    count = 20_000
    received: list[bytes] = []

    with SpscRing(4096) as ring:

        def consume() -> None:
            while len(received) < count:
                received.extend(ring.drain())

        consumer = threading.Thread(target=consume)
        consumer.start()
        sent = 0
        while sent < count:
            sent += ring.push(b"%d" % sent)
        consumer.join(timeout=60)

    assert received == [b"%d" % number for number in range(count)]


# In a file.


def test_the_file_is_private_and_new(tmp_path: Path) -> None:
    """create() makes a file of mode 0600, and refuses one that exists."""
    path = tmp_path / "ring"
    with SpscRing.create(path, 4096):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size == 4096 + 4096
        with pytest.raises(FileExistsError):
            SpscRing.create(path, 4096)


def test_a_failed_create_leaves_no_file(tmp_path: Path) -> None:
    """A capacity that is refused leaves nothing behind."""
    with pytest.raises(UsageError):
        SpscRing.create(tmp_path / "ring", 100)

    assert [*tmp_path.iterdir()] == []


CHILD = """
import sys
from hermes.native.rings import SpscRing

with SpscRing.open(sys.argv[1]) as ring:
    sent = 0
    while sent < int(sys.argv[2]):
        sent += ring.push(b"%d" % sent)
"""


def test_another_process_opens_it_by_path(tmp_path: Path) -> None:
    """Records that a child process pushes into the file arrive here in order."""
    path, count = tmp_path / "ring", 20_000
    received: list[bytes] = []
    with SpscRing.create(path, 4096) as ring:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(count)])
        with child:
            while len(received) < count and child.poll() in (None, 0):
                received += ring.drain()

    assert child.returncode == 0
    assert received == [b"%d" % number for number in range(count)]


def test_roles_are_taken_over_where_they_were_left(tmp_path: Path) -> None:
    """A process that opens the ring again goes on behind what was pushed and popped before."""
    path = tmp_path / "ring"
    with SpscRing.create(path, 64) as first:
        first.push_many([b"one", b"two"])
        first.pop()

    with SpscRing.open(path) as second:
        assert second.push(b"three")
        assert second.drain() == [b"two", b"three"]


def test_a_memfd_serves_as_well() -> None:
    """A ring can be made in and opened from a descriptor that has no path."""
    fd = os.memfd_create("ring")
    try:
        with SpscRing.create_fd(fd, 64) as one, SpscRing.open_fd(fd) as other:
            one.push(b"across")

            assert other.pop() == b"across"
    finally:
        os.close(fd)


def test_a_full_disk_is_said_at_once(tmp_path: Path) -> None:
    """A file that cannot have its bytes is refused when it is made, not by a signal later."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(SystemFault):
            SpscRing.create(tmp_path / "ring", 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


# Hostile shared memory: an error, the ring's own state as before, no byte outside.


def poke(path: Path, offset: int, form: str, value: int) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        struct.pack_into(form, memory, offset, value)


@pytest.mark.parametrize(
    ("offset", "form", "value", "text"),
    [
        (0, "<Q", 0, "HRMS"),
        (VERSION, "<I", 2, "version"),
        (HEADER, "<I", 64, "length"),
        (CAPACITY, "<Q", 128, "length"),
        (CAPACITY, "<Q", 2**63, "length"),
        (TAIL, "<Q", 72, "length"),
        (TAIL, "<Q", 4, "length"),
        (HEAD, "<Q", 8, "length"),
        (HEAD, "<Q", 2**64 - 4, "length"),
    ],
)
def test_a_bad_header_is_refused(
    tmp_path: Path, offset: int, form: str, value: int, text: str
) -> None:
    """open() refuses a header in which any field is wrong."""
    path = tmp_path / "ring"
    SpscRing.create(path, 64).close()
    poke(path, offset, form, value)

    with pytest.raises(MalformedInput, match=text):
        SpscRing.open(path)


@pytest.mark.parametrize("size", [0, 1, 4096, 4096 + 63, 4096 + 65, 4096 + 96])
def test_a_file_of_the_wrong_size_is_refused(tmp_path: Path, size: int) -> None:
    """open() refuses what is cut short or has been grown."""
    path = tmp_path / "ring"
    SpscRing.create(path, 64).close()
    os.truncate(path, size)

    with pytest.raises(MalformedInput):
        SpscRing.open(path)


@pytest.mark.parametrize("tail", [72, 4, 2**64 - 8, 2**63])
def test_a_bad_tail_is_an_error_for_the_consumer(tmp_path: Path, tail: int) -> None:
    """A tail out of reach or out of step raises, and a good one is believed again."""
    path = tmp_path / "ring"
    with SpscRing.create(path, 64) as producer, SpscRing.open(path) as consumer:
        producer.push(b"good")
        poke(path, TAIL, "<Q", tail)

        for call in (consumer.pop, consumer.drain, consumer.peek):
            with pytest.raises(MalformedInput):
                call()
        poke(path, TAIL, "<Q", 16)

        assert consumer.pop() == b"good"


@pytest.mark.parametrize("head", [72, 4, 2**64 - 8, 2**63])
def test_a_bad_head_is_an_error_for_the_producer(tmp_path: Path, head: int) -> None:
    """A head in front of the tail, too far behind it or out of step raises once it is looked at."""
    path = tmp_path / "ring"
    with SpscRing.create(path, 64) as producer:
        producer.push_many([b"12345678"] * 4)
        poke(path, HEAD, "<Q", head)

        for call in (
            lambda: producer.push(b""),
            lambda: producer.claim(0),
            lambda: producer.push_many([b""]),
        ):
            with pytest.raises(MalformedInput):
                call()
        poke(path, HEAD, "<Q", 64)

        assert producer.push(b"again")


@pytest.mark.parametrize(
    "header",
    [
        17,  # over what is published
        57,  # over the end of the data area
        2**32 - 1,  # overflows 32 bits when rounded
        2 << 32,  # no such kind
        PADDING | 8,  # padding that does not end at the end
        PADDING | (2**32 - 1),
    ],
)
def test_a_bad_record_is_an_error(tmp_path: Path, header: int) -> None:
    """A length or kind that cannot be raises and moves nothing: mended, the record is there."""
    path = tmp_path / "ring"
    with SpscRing.create(path, 64) as producer, SpscRing.open(path) as consumer:
        producer.push(b"good and long")
        poke(path, DATA, "<Q", header)

        for call in (consumer.pop, consumer.drain, consumer.peek):
            with pytest.raises(MalformedInput):
                call()
        poke(path, DATA, "<Q", len(b"good and long"))

        assert consumer.pop() == b"good and long"


def test_sound_records_come_before_a_bad_one(tmp_path: Path) -> None:
    """A batch ends in front of the damage; the next call reports it."""
    path = tmp_path / "ring"
    with SpscRing.create(path, 256) as producer, SpscRing.open(path) as consumer:
        producer.push_many([b"one", b"two", b"three"])
        poke(path, DATA + 32, "<Q", 3 << 32)

        assert consumer.drain() == [b"one", b"two"]
        with pytest.raises(MalformedInput):
            consumer.drain()


@given(noise=st.binary(min_size=64, max_size=64), tail=st.integers(0, 8).map(lambda n: n * 8))
def test_noise_in_the_data_area_never_reaches_outside(noise: bytes, tail: int) -> None:
    """With any bytes in the data area, the consumer gets records within it, or an error."""
    fd = os.memfd_create("ring")
    with closing(SpscRing.create_fd(fd, 64)), mmap.mmap(fd, 0) as memory:
        memory[DATA:] = noise
        struct.pack_into("<Q", memory, TAIL, tail)
        with SpscRing.open_fd(fd) as consumer:
            try:
                views = consumer.peek_many()
                assert sum(8 + len(view) for view in views) <= tail
            except MalformedInput:
                pass
    os.close(fd)
