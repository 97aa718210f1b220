"""Frames that pass between a client and the broker are looked at one by one, and not changed."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.wire import messages as m
from hermes.wire.codec import decode_control, encode_control
from hermes_udp.native import lib
from hermes_udp.sift import INWARD_SIZE, Inward, Outward
from tests.effort import effort
from tests.transports.udp_outward import sent
from tests.wire import reference as ref

MESSAGE = ref.message("a.b", bytes(300), 1)


class Recorder:
    """A judge who drops batches of subscription 2 and every Pong."""

    def __init__(self) -> None:
        self.inward = Inward(self)
        self.shown: list[object] = []
        self.covered: list[tuple[int, int, int]] = []

    def batch_passes(self, id: int) -> bool:
        return id != 2

    def handed_out(self, id: int, stream: int, through: int) -> None:
        self.covered.append((id, stream, through))

    def control_passes(self, kind: int, payload: bytes) -> bool:
        message = decode_control(kind, payload)
        self.shown.append(message)
        return not isinstance(message, m.Pong)


def received_through(recorder: Recorder, data: bytes, draw: random.Random) -> bytes:
    """Bytes that the client gets."""
    out, at = bytearray(), 0
    inward = recorder.inward
    while at < len(data):
        room = inward.room()
        size = min(draw.randint(1, 300), len(room), len(data) - at)
        room[:size] = data[at : at + size]
        inward.filled(size)
        at += size
        for _ in range(3):
            place = memoryview(bytearray(draw.randint(1, 300)))
            out += place[: inward.take(place)]
    while taken := inward.take(place := memoryview(bytearray(4096))):
        out += place[:taken]
    return bytes(out)


FRAMES = {
    "stream": encode_control(m.Stream(0, "default")),
    "pong": encode_control(m.Pong(7)),
    "gap": encode_control(m.Gap(1, 0, 1, 2, "retention")),
    "ack": encode_control(m.Ack(1, 9)),
    "ping": encode_control(m.Ping(9)),
    "subscribe": encode_control(m.Subscribe(3, "a.>")),
    "unsubscribe": encode_control(m.Unsubscribe(3)),
    "one": ref.batch(1, 0, 0, 3, MESSAGE),
    "two": ref.batch(2, 0, 0, 3, MESSAGE),
    "mark": ref.batch(1, 0, 3, 9),
}


@settings(max_examples=effort(40, 100), deadline=None)
@given(st.lists(st.sampled_from(sorted(FRAMES)), max_size=12), st.integers(0, 1 << 32))
def test_what_passes_is_unchanged(names: list[str], seed: int) -> None:
    """In whatever pieces: all but what the judge drops comes out as it came, and it sees its
    frames."""
    recorder = Recorder()
    data = b"".join(FRAMES[name] for name in names)

    out = received_through(recorder, data, random.Random(seed))

    assert out == b"".join(FRAMES[name] for name in names if name not in ("two", "pong"))
    assert recorder.inward.border
    shown = ("stream", "pong", "gap", "unsubscribe")
    assert len(recorder.shown) == sum(name in shown for name in names)
    through = {"one": 3, "mark": 9}
    assert recorder.covered == [(1, 0, through[name]) for name in names if name in through]


@settings(max_examples=effort(40, 100), deadline=None)
@given(st.lists(st.sampled_from(sorted(FRAMES)), max_size=12), st.integers(0, 1 << 32))
def test_what_begins_and_ends_subscriptions_is_noted(names: list[str], seed: int) -> None:
    """In whatever pieces: all the client says goes out as it is, and some of it is noted."""
    outward = Outward()
    data = b"".join(FRAMES[name] for name in names)

    out = sent(outward.handle, data, random.Random(seed))

    assert out == data
    noted = [FRAMES[name] for name in names if name in ("subscribe", "unsubscribe")]
    assert list(outward.read()) == noted


def test_nothing_is_put_into_a_batch() -> None:
    """A frame to be said while a batch passes goes out behind it."""
    outward = Outward()
    batch = FRAMES["one"]
    out = sent(outward.handle, batch[:-1])

    assert outward.say(FRAMES["ping"])
    out += sent(outward.handle, b"")
    assert out == batch[:-1]
    out += sent(outward.handle, batch[-1:])

    assert out == batch + FRAMES["ping"]


def test_the_end_of_what_was_taken_goes_nowhere() -> None:
    """Once: the broker has heard of it, and the same id may be used again."""
    outward = Outward()
    end = FRAMES["unsubscribe"]
    assert outward.take(end)

    out = sent(outward.handle, end + FRAMES["ping"] + end)

    assert out == end + FRAMES["ping"] + end  # ours, what is between, and the second
    assert list(outward.read()) == [end, end]
    assert outward.take(end)
    outward.forget(end)
    assert sent(outward.handle, end) == end + end


def test_what_was_just_ended_is_not_taken() -> None:
    """While there is something to hear, it may be that."""
    outward = Outward()
    end = FRAMES["unsubscribe"]
    sent(outward.handle, end)

    assert not outward.take(end)
    assert list(outward.read()) == [end]
    assert outward.take(end)


def test_notes_that_nobody_reads_are_bounded() -> None:
    """The answer says that there is no room for one; the end of what was taken waits instead."""
    outward = Outward()
    end = FRAMES["unsubscribe"]
    assert outward.take(end)
    assert sent(outward.handle, b"") == end
    many = FRAMES["subscribe"] * (lib.HU_NOTES_MAX // len(FRAMES["subscribe"]) + 1)
    many += encode_control(m.Unsubscribe(4)) * 3  # whatever room is left

    assert sent(outward.handle, many) == many
    assert sent(outward.handle, end) == b""
    heard = list(outward.read())

    assert heard.pop() is None
    assert FRAMES["subscribe"] in heard
    assert end not in heard


def test_what_is_said_is_bounded() -> None:
    """A caller that says more than goes out is told so, and what the client says still has room."""
    outward = Outward()
    ping = FRAMES["ping"]
    count = 0
    while outward.say(ping):
        count += 1

    assert count == lib.HU_SAID_MAX // len(ping)
    assert sent(outward.handle, FRAMES["subscribe"]) == ping * count + FRAMES["subscribe"]


def test_a_batch_larger_than_the_buffer_passes_in_parts() -> None:
    """A batch is never held until it is whole."""
    recorder = Recorder()
    large = ref.batch(1, 0, 0, 1, bytes(3 * INWARD_SIZE))

    out = bytearray()
    at = 0
    while at < len(large):
        room = recorder.inward.room()
        size = min(len(room), len(large) - at)
        room[:size] = large[at : at + size]
        recorder.inward.filled(size)
        at += size
        place = memoryview(bytearray(INWARD_SIZE))
        while taken := recorder.inward.take(place):
            out += place[:taken]

    assert out == large
    assert recorder.covered == [(1, 0, 1)]


def test_what_is_no_frame_passes_for_others_to_judge() -> None:
    """Bytes that begin no frame pass as they are, in both directions."""
    strange = b"GET / HTTP/1.1\r\n" * 20
    draw = random.Random(1)

    assert received_through(Recorder(), strange, draw) == strange
    assert sent(Outward().handle, strange, draw) == strange
