"""Outboxes against a model, flushers against a socket; threads in C under sanitizers."""

from __future__ import annotations

import array
import errno
import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hermes.errors import InvalidConfig, UsageError
from hermes.native import outbox as native
from hermes.native.api import REFUSED, Message, Reader, envelope
from hermes.native.outbox import Flusher, Outbox, lengths_of
from tests.effort import effort

if TYPE_CHECKING:
    from tests.native.conftest import RunC, Sanitizer

PASSES_MAX = 10
MESSAGE_MAX = 1 << 24
BATCH_MAX = MESSAGE_MAX + (1 << 20)
CONTROL_MAX = 1 << 20
FRAME = 56  # bytes of a message with a 4-byte topic and a payload of 9 to 16 bytes
FAR = 1 << 62


def messages_in(batch: tuple[bytes, memoryview]) -> list[Message]:
    """The messages of a batch as an outbox gives it, checked against its envelope."""
    header, frames = batch
    whole = header + bytes(frames)
    reader = Reader(MESSAGE_MAX)
    size, after, through, *_, kind = envelope(whole, 0, len(whole), CONTROL_MAX, BATCH_MAX)
    assert (kind, size) == (2, len(whole))
    found = reader.messages(whole, len(header), size, "default", after, through)
    assert isinstance(found, list)
    assert [m.sequence for m in found] == list(range(after + 1, through + 1))
    return found


def receive_messages(sock: socket.socket, count: int, timeout: float = 5.0) -> list[Message]:
    """The next ``count`` messages that arrive, through whole batches."""
    sock.settimeout(timeout)
    reader, data, found = Reader(MESSAGE_MAX), b"", []
    while len(found) < count:
        data += sock.recv(1 << 20)
        while True:
            size, after, through, *_, kind = envelope(data, 0, len(data), CONTROL_MAX, BATCH_MAX)
            if kind != 2:
                break
            got = reader.messages(data, 56, size, "default", after, through)
            assert isinstance(got, list)
            found += got
            data = data[size:]
    assert not data
    return found


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def flusher() -> Iterator[Flusher]:
    made = Flusher()
    yield made
    made.close()


class OutboxAgainstList(RuleBasedStateMachine):
    """However it is put, sent, acknowledged and rewound: it behaves like a list of payloads."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(capacity=native.CAPACITY_MIN, id=3, first_sequence=10)
        self.kept: list[bytes] = []  # put and not acknowledged
        self.acked = 9
        self.sent = 9
        self.offered = 9

    @property
    def put_through(self) -> int:
        return self.acked + len(self.kept)

    @rule(size=st.one_of(st.integers(0, 300), st.integers(0, 40_000)), count=st.integers(1, 40))
    def put(self, size: int, count: int) -> None:
        for _ in range(count):
            payload = b"%d" % self.put_through + b"x" * size
            result = self.outbox.put(b"md.a", payload)
            if result == native.FULL:
                assert self.kept, "an outbox with nothing in it takes any message that can fit"
                return
            self.kept.append(payload)
            assert result == self.put_through

    @rule(sizes=st.lists(st.integers(0, 5_000), min_size=1, max_size=60))
    def put_many(self, sizes: list[int]) -> None:
        payloads = [bytes([i]) * size for i, size in enumerate(sizes)]
        taken = self.outbox.send_many(b"md.a", b"".join(payloads), lengths_of(payloads)).count
        if taken == native.FULL:
            assert self.kept
            return
        assert 0 < taken <= len(payloads)
        self.kept += payloads[:taken]

    @rule(limit=st.sampled_from([1, 1_000, 100_000]))
    def send(self, limit: int) -> None:
        batch = self.outbox.batch(limit, 1)
        if batch is None:
            assert self.sent == self.put_through
            return
        found = messages_in(batch)
        first = self.sent - self.acked
        assert [m.payload for m in found] == self.kept[first : first + len(found)]
        assert len(batch[1]) <= limit or len(found) == 1
        self.sent = found[-1].sequence
        self.offered = max(self.offered, self.sent)
        self.outbox.sent()

    @precondition(lambda self: self.sent > self.acked)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        through = data.draw(st.integers(self.acked, self.sent))
        assert self.outbox.ack(through)
        del self.kept[: through - self.acked]
        self.acked = through

    @rule()
    def rewind(self) -> None:
        self.outbox.rewind()
        self.sent = self.acked

    @invariant()
    def agrees(self) -> None:
        assert self.outbox.status() == (self.put_through, self.sent, self.acked)
        assert self.outbox.offered == self.offered
        assert self.outbox.queued_bytes == sum(
            40 + (len(payload) + 7) // 8 * 8 for payload in self.kept
        )


TestOutboxAgainstList = OutboxAgainstList.TestCase
TestOutboxAgainstList.settings = settings(max_examples=effort(25, 60), deadline=None)


def test_an_ack_of_what_was_never_sent_is_refused():
    """A sequence that no batch carried cannot be acknowledged: the peer is wrong."""
    outbox = Outbox(id=1)
    outbox.put(b"md.a", b"x")

    assert not outbox.ack(1)
    outbox.batch(100, 1)
    assert outbox.ack(1)


def test_what_was_once_sent_stays_known_while_it_is_sent_again():
    """A connection that breaks while messages are sent again does not make those behind them unknown:
    the peer may have had all of them, and may acknowledge them."""
    outbox = Outbox(id=1)
    for _ in range(3):
        outbox.put(b"md.a", b"x")
    outbox.batch(1000, 1)
    outbox.sent()

    outbox.rewind()
    outbox.batch(1, 1)  # the first alone

    assert outbox.offered == 3
    assert outbox.ack(3)


def test_memory_follows_what_is_unacknowledged():
    """After an outbox was full and everything was acknowledged, most of its memory is gone."""
    outbox = Outbox(capacity=1 << 26, id=1)
    while outbox.put(b"md.a", b"x" * 4096) > 0:
        pass
    full = outbox.memory_bytes

    while outbox.batch(1 << 20, 1) is not None:
        outbox.sent()
    outbox.ack(outbox.status().put)

    assert full >= 1 << 26
    assert outbox.memory_bytes <= 5 << 20


def test_a_message_over_the_limit_or_the_capacity_is_refused():
    """A message that can never be taken is told apart from one that has no room now."""
    outbox = Outbox(capacity=native.CAPACITY_MIN, id=1)

    assert outbox.put(b"md.a", b"x" * native.CAPACITY_MIN) == native.TOO_LARGE
    outbox.limit(100)
    assert outbox.put(b"md.a", b"x" * 101) == native.TOO_LARGE
    assert outbox.put(b"md.a", b"x" * 100) == 1


def test_a_closed_outbox_takes_nothing():
    """After close() every way in says so."""
    outbox = Outbox(id=1)
    outbox.close()

    assert outbox.put(b"md.a", b"") == native.CLOSED
    assert outbox.sender(b"md.a").send(b"") == REFUSED + native.CLOSED
    assert outbox.send_many(b"md.a", b"x", array.array("I", [1])).count == native.CLOSED


def test_lengths_must_add_up():
    """Lengths that do not cover the joined buffer exactly are refused, nothing is put."""
    outbox = Outbox(id=1)

    taken = outbox.send_many(b"md.a", b"abc", array.array("I", [1, 1]))

    assert taken.count < 0
    assert outbox.status().put == 0


def test_too_small_a_capacity_is_an_error():
    """An outbox that could hold no four chunks is refused with the bound in the message."""
    with pytest.raises(InvalidConfig, match="65536"):
        Outbox(capacity=1000, id=1)


def test_rows_with_a_stride_become_messages():
    """Rows are taken out of a wider buffer at their stride, the last one without a gap."""
    outbox = Outbox(id=1)
    rows = b"aaaa--bbbb--cccc"

    taken = outbox.send_rows(b"md.a", rows, row_size=4, stride=6)

    assert taken.count == 3
    batch = outbox.batch(1 << 20, 1)
    assert batch is not None
    assert [m.payload for m in messages_in(batch)] == [b"aaaa", b"bbbb", b"cccc"]


def test_without_linger_a_message_is_on_the_wire_when_send_returns(
    pair: tuple[socket.socket, socket.socket], flusher: Flusher
):
    """send() without a linger writes at once, control frames that were queued before go first."""
    ours, theirs = pair
    outbox = Outbox(id=1)
    flusher.attach(ours.fileno(), 1 << 20)
    flusher.add(outbox, 0)

    assert outbox.sender(b"md.a").send(b"hello") == 1

    theirs.setblocking(False)
    assert theirs.recv(1 << 16).endswith(b"hello\0\0\0")
    assert outbox.status() == (1, 1, 0)


def test_a_full_socket_is_reported_and_loses_nothing(
    pair: tuple[socket.socket, socket.socket], flusher: Flusher
):
    """When the socket takes no more, send() says so; draining later delivers all."""
    ours, theirs = pair
    outbox = Outbox(id=1)
    flusher.attach(ours.fileno(), 1 << 16)
    flusher.add(outbox, 0)
    sender = outbox.sender(b"md.a")
    count = 0
    while (result := sender.send(b"x" * 5000)) > 0:
        count += 1

    assert result == -(count + 1), "taken, but not on the wire"
    assert flusher.drain() == 0
    reading = threading.Thread(
        target=lambda: received.extend(receive_messages(theirs, count + 1)), daemon=True
    )
    received: list[Message] = []
    reading.start()
    deadline = time.monotonic() + 60
    while flusher.drain() == 0 and time.monotonic() < deadline:
        reading.join(0.001)
    reading.join(60)
    assert [m.sequence for m in received] == list(range(1, count + 2))


@pytest.mark.timing
def test_a_lingering_message_goes_out_by_itself_in_time(
    pair: tuple[socket.socket, socket.socket], flusher: Flusher
):
    """A message with nothing behind it is on the wire when its linger has passed."""
    ours, theirs = pair
    outbox = Outbox(id=1)
    flusher.attach(ours.fileno(), 1 << 20)
    flusher.add(outbox, 50_000_000)
    sender = outbox.sender(b"md.a")
    theirs.settimeout(60)
    waits = []
    for _round in range(5):
        begun = time.monotonic()
        assert sender.send(b"tail") > 0
        theirs.recv(1 << 16)
        waits.append(time.monotonic() - begun)

    # A busy machine makes any of them longer, and one shorter: if it comes to the clock late.  The
    # C test has the mechanism alone.
    assert max(waits) > 0.045
    assert min(waits) < 0.5


def test_the_status_is_of_its_own_call(monkeypatch: pytest.MonkeyPatch):
    """A thread that reads the status at the same time leaves another's answer as it was."""
    outbox = Outbox(id=1)
    outbox.put(b"md.a", b"x")
    lib = native.lib

    class Raced:
        """The status, read by another thread too, which was told before and looks later."""

        def hm_outbox_status(self, handle: object, put: object, sent: object, acked: object):  # type: ignore[no-untyped-def]
            lib.hm_outbox_status(handle, put, sent, acked)
            monkeypatch.setattr(native, "lib", Late())
            assert outbox.status() == (0, 0, 0)

    class Late:
        """Bytes that stood there before the message."""

        def hm_outbox_status(self, _handle: object, put: list[int], *others: list[int]) -> None:
            put[0] = others[0][0] = others[1][0] = 0

    monkeypatch.setattr(native, "lib", Raced())

    assert outbox.status() == (1, 0, 0)


def test_the_shortest_linger_leaves_with_its_outbox(
    pair: tuple[socket.socket, socket.socket], flusher: Flusher
):
    """A linger counts for others as long as its outbox is there: then they linger as they were told."""
    ours, theirs = pair
    patient, hasty = Outbox(id=1), Outbox(id=2)
    flusher.attach(ours.fileno(), 1 << 20)
    flusher.add(patient, 60_000_000_000)
    flusher.add(hasty, 1000)
    theirs.settimeout(60)
    hasty.sender(b"md.a").send(b"now")
    assert [m.payload for m in receive_messages(theirs, 1)] == [b"now"]

    flusher.remove(hasty)
    for _ in range(PASSES_MAX):  # a pass that was under way may still take what is sent next
        patient.sender(b"md.a").send(b"much later")
        try:
            receive_messages(theirs, 1, timeout=0.2)
        except TimeoutError:
            break
    else:
        pytest.fail("it goes out at once, every time")
    assert flusher.drain() == 1
    assert [m.payload for m in receive_messages(theirs, 1)] == [b"much later"]


def test_much_of_a_lingering_outbox_goes_out_at_once(
    pair: tuple[socket.socket, socket.socket], flusher: Flusher
):
    """A lingering outbox that has a system call's worth unsent does not wait for its linger."""
    ours, theirs = pair
    outbox = Outbox(id=1)
    flusher.attach(ours.fileno(), 1 << 20)
    flusher.add(outbox, 30_000_000_000)
    sender = outbox.sender(b"md.a")

    for _ in range(30):
        sender.send(b"x" * 4000)

    theirs.setblocking(False)
    assert len(theirs.recv(1 << 20)) > 4000


def test_a_broken_socket_is_recorded(pair: tuple[socket.socket, socket.socket], flusher: Flusher):
    """A peer that is gone is reported by drain() and send(), with the reason."""
    ours, theirs = pair
    outbox = Outbox(id=1)
    flusher.attach(ours.fileno(), 1 << 20)
    flusher.add(outbox, 0)
    theirs.close()

    assert outbox.sender(b"md.a").send(b"x") == -1
    assert flusher.drain() == native.SYSTEM
    assert flusher.error == os.strerror(errno.EPIPE)


def test_after_a_reconnect_the_unacknowledged_goes_out_again(
    pair: tuple[socket.socket, socket.socket], flusher: Flusher
):
    """Detach, attach, resume: exactly what was not acknowledged is sent again, in order."""
    ours, theirs = pair
    outbox = Outbox(id=1)
    flusher.attach(ours.fileno(), 1 << 20)
    flusher.add(outbox, 0)
    sender = outbox.sender(b"md.a")
    for i in range(10):
        sender.send(b"%d" % i)
    receive_messages(theirs, 10)
    outbox.ack(4)

    flusher.detach()
    flusher.attach(ours.fileno(), 1 << 20)
    assert sender.send(b"10") < 0, "paused until resumed"
    assert flusher.resume(outbox)
    assert flusher.drain() == 1

    assert [m.sequence for m in receive_messages(theirs, 7)] == list(range(5, 12))


def test_a_removed_outbox_leaves_no_half_batch(
    pair: tuple[socket.socket, socket.socket], flusher: Flusher
):
    """An outbox that goes while its batch is half written: the peer still gets that batch whole."""
    ours, theirs = pair
    first, second = Outbox(id=1), Outbox(id=2)
    flusher.attach(ours.fileno(), 1 << 24)
    flusher.add(first, 0)
    flusher.add(second, 0)
    assert first.sender(b"md.a").send(b"x" * 8_000_000) == -1
    flusher.remove(first)
    del first
    gc.collect()
    second.sender(b"md.b").send(b"y")

    received: list[Message] = []
    reading = threading.Thread(target=lambda: received.extend(receive_messages(theirs, 2)))
    reading.start()
    while reading.is_alive():
        flusher.drain()
        reading.join(0.001)
    assert [len(m.payload) for m in received] == [8_000_000, 1]


def test_a_linger_over_a_minute_is_a_mistake(flusher: Flusher):
    """A linger given in the wrong unit is refused."""
    with pytest.raises(UsageError):
        flusher.add(Outbox(id=1), 10**15)


def test_a_forked_child_can_drop_what_it_inherited(
    pair: tuple[socket.socket, socket.socket], flusher: Flusher
):
    """In a child, freeing the flusher and its outboxes neither hangs nor writes."""
    ours, theirs = pair
    outbox = Outbox(id=1)
    flusher.attach(ours.fileno(), 1 << 20)
    flusher.add(outbox, 1_000_000_000)
    outbox.sender(b"md.a").send(b"x")
    child = os.fork()
    if child == 0:
        try:
            flusher.close()
            del outbox
            gc.collect()
            os._exit(0)
        finally:
            os._exit(1)

    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert len(receive_messages(theirs, 1)) == 1


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_cursors_order_what_threads_do_to_memory(run_c: RunC, sanitizer: Sanitizer):
    """Two putters, a writer and an acknowledger need nothing but the outbox's own ordering.

    Proven under ThreadSanitizer by weakening each release in turn: (A), (E) and the guard's were
    reported at once; (C) together with that of ``offered``, which orders the same.  (B) is covered
    by (A), and (D) only saves an allocation.
    """
    run_c("outbox_cursors.c", "20000", sanitizer=sanitizer)


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
@pytest.mark.parametrize("linger_us", [0, 500])
def test_threads_lose_nothing(run_c: RunC, sanitizer: Sanitizer, linger_us: int):
    """A putter, a flusher and an acknowledger that reconnects lose nothing, in order."""
    run_c("outbox_threads.c", "20000", str(linger_us), "7", sanitizer=sanitizer)
