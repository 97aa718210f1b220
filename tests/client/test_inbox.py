"""Receive buffers: used again when nobody looks at them, and never before."""

from __future__ import annotations

import os

import pytest

import hermes
from hermes.client.inbox import BUFFER, Inbox

np = pytest.importorskip("numpy")


def fill(inbox: Inbox, data: bytes) -> None:
    """As if ``data`` had been read."""
    inbox.buffer[inbox.end : inbox.end + len(data)] = data
    inbox.end += len(data)


def test_a_buffer_nobody_looks_at_is_used_again():
    """Everything taken, nothing kept: the next read goes to the start of the same buffer."""
    inbox = Inbox()
    was = inbox.address
    fill(inbox, b"x" * 1000)
    inbox.start = 1000

    inbox.make_room(32)

    assert (inbox.start, inbox.end) == (0, 0)
    assert inbox.address == was


@pytest.mark.parametrize("keep", [memoryview, lambda b: np.frombuffer(b, np.uint8)[5:]])
def test_a_buffer_somebody_looks_at_is_left_alone(keep):  # type: ignore[no-untyped-def]
    """A view, or an array over it, keeps what it shows through any number of further reads."""
    inbox = Inbox()
    fill(inbox, b"k" * BUFFER)
    kept = keep(inbox.buffer)
    inbox.start = BUFFER
    for _ in range(20):
        inbox.make_room(32)
        fill(inbox, b"n" * inbox.room)
        inbox.start = inbox.end

    assert bytes(kept) == b"k" * len(kept)
    was = inbox.address
    del kept
    inbox.make_room(32)
    fill(inbox, b"n" * inbox.room)
    inbox.start = inbox.end
    inbox.make_room(32)
    assert was is not None


def test_the_start_of_a_frame_moves_with_its_rest():
    """Half a frame at a buffer's end is brought to where its other half has room."""
    inbox = Inbox()
    fill(inbox, os.urandom(BUFFER))
    inbox.start = BUFFER - 100
    half = bytes(inbox.buffer[-100:])
    view = memoryview(inbox.buffer)

    inbox.make_room(BUFFER)

    assert bytes(inbox.buffer[inbox.start : inbox.end]) == half
    assert view.nbytes == BUFFER
    assert inbox.room >= BUFFER - 100


def test_a_frame_larger_than_a_buffer_finds_room():
    """A buffer of its own is made for what does not fit any."""
    inbox = Inbox()
    fill(inbox, b"half")

    inbox.make_room(5 * BUFFER)

    assert bytes(inbox.buffer[inbox.start : inbox.end]) == b"half"
    assert inbox.room >= 5 * BUFFER - 4


def test_retired_buffers_come_back():
    """A buffer whose last view is gone serves again, instead of new memory."""
    inbox = Inbox()
    first = id(inbox.buffer)
    view = memoryview(inbox.buffer)
    fill(inbox, b"x" * BUFFER)
    inbox.start = BUFFER
    inbox.make_room(32)
    assert id(inbox.buffer) != first
    second = memoryview(inbox.buffer)
    del view

    fill(inbox, b"x" * BUFFER)
    inbox.start = BUFFER
    inbox.make_room(32)

    assert id(inbox.buffer) == first
    assert second.nbytes == BUFFER


def test_kept_batches_stay_as_they_were(client: hermes.Client, other: hermes.Client):
    """Batches that are kept while many megabytes follow still show their own messages."""
    subscription = client.subscribe("md.a")
    publisher = other.publisher("md.a", linger=0.001)
    rows = np.repeat(np.arange(40_000, dtype="<u4")[:, None], 64, axis=1)
    publisher.send_rows(rows)
    kept, count = [], 0
    for batch in subscription.batches(timeout=60):
        kept.append((batch, batch.sequences[0], batch.rows("(64,)<u4")))
        count += len(batch)
        if count == len(rows):
            break

    for batch, first, found in kept:
        assert batch.sequences[0] == first
        assert (found[:, 0] == batch.sequences - 1).all()
        assert [m.sequence for m in batch.messages()] == batch.sequences.tolist()
