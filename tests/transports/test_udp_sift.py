"""What passes between a client and the broker is looked at frame by frame, and not changed."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.native.frames import MessageType
from hermes.wire import messages as m
from hermes.wire.codec import decode_control, encode_control
from hermes_udp.sift import INWARD_SIZE, Inward, Outward
from tests.wire import reference as ref

MESSAGE = ref.message("a.b", bytes(300), 1)


class Recorder:
    """A judge who drops batches of subscription 2 and every Pong, and answers nothing himself."""

    def __init__(self) -> None:
        self.outward = Outward(self)
        self.inward = Inward(self)
        self.shown: list[object] = []
        self.covered: list[tuple[int, int, int]] = []

    def said(self, kind: int, frame: bytes) -> None:
        self.shown.append(MessageType(kind))
        self.outward.say(frame)

    def batch_passes(self, id: int) -> bool:
        return id != 2

    def handed_out(self, id: int, stream: int, through: int) -> None:
        self.covered.append((id, stream, through))

    def control_passes(self, kind: int, payload: bytes) -> bool:
        message = decode_control(kind, payload)
        self.shown.append(message)
        return not isinstance(message, m.Pong)


def sent_through(recorder: Recorder, data: bytes, draw: random.Random) -> bytes:
    """What comes out at the broker's end, in pieces of any size."""
    out, at = bytearray(), 0
    outward = recorder.outward
    while at < len(data):
        view = memoryview(data)[at : at + draw.randint(1, 300)]
        while view:
            out += outward.queue
            outward.queue.clear()
            if outward.passing:
                size = draw.randint(1, min(len(view), outward.passing))
                out += view[:size]
                outward.passed(size)
            else:
                size = outward.collect(view)
            at += size
            view = view[size:]
    return bytes(out + outward.queue)


def received_through(recorder: Recorder, data: bytes, draw: random.Random) -> bytes:
    """What the client gets."""
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
    "one": ref.batch(1, 0, 0, 3, MESSAGE),
    "two": ref.batch(2, 0, 0, 3, MESSAGE),
    "mark": ref.batch(1, 0, 3, 9),
}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(FRAMES)), max_size=12), st.integers(0, 1 << 32))
def test_what_passes_is_unchanged(names: list[str], seed: int) -> None:
    """In whatever pieces: all but what the judge drops comes out as it came, and he sees his
    frames."""
    recorder = Recorder()
    data = b"".join(FRAMES[name] for name in names)

    out = received_through(recorder, data, random.Random(seed))

    assert out == b"".join(FRAMES[name] for name in names if name not in ("two", "pong"))
    assert recorder.inward.border
    assert len(recorder.shown) == sum(name in ("stream", "pong", "gap") for name in names)
    through = {"one": 3, "mark": 9}
    assert recorder.covered == [(1, 0, through[name]) for name in names if name in through]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(FRAMES)), max_size=12), st.integers(0, 1 << 32))
def test_the_clients_control_frames_are_shown(names: list[str], seed: int) -> None:
    """In whatever pieces: batches pass, control frames go where the judge lets them."""
    recorder = Recorder()
    data = b"".join(FRAMES[name] for name in names)

    out = sent_through(recorder, data, random.Random(seed))

    batches = ("one", "two", "mark")
    assert out == data
    assert len(recorder.shown) == sum(name not in batches for name in names)


def test_nothing_is_put_into_a_batch() -> None:
    """What is to be said while a batch passes goes out behind it."""
    recorder = Recorder()
    outward = recorder.outward
    ping = FRAMES["ping"]
    batch = memoryview(FRAMES["one"])
    taken = outward.collect(batch)
    head = bytes(outward.queue)
    outward.queue.clear()

    outward.say(ping)
    assert not outward.queue
    outward.passed(outward.passing - 1)
    assert not outward.queue
    outward.passed(1)

    assert head == batch[:taken]
    assert outward.queue == ping


def test_a_batch_larger_than_the_buffer_passes_in_parts() -> None:
    """It is never held until it is whole."""
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
    assert sent_through(Recorder(), strange, draw) == strange
