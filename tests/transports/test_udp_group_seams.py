"""A caster, a subscriber's end of its group and the choice out of it together, in simulated time:
whatever is lost on the way, and however slowly it is read, all of it comes or is told as missing."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from hermes.native.decoder import decode
from hermes.native.frames import encode_batch
from hermes.wire import messages as m
from hermes.wire.codec import decode_control, encode_control
from hermes_udp.native import ffi, lib
from tests.transports.test_udp_select import message
from tests.transports.udp_cast import CAST, MS, Cast, Sent
from tests.transports.udp_group_sim import SESSION, Group

pytestmark = pytest.mark.slow

STREAMS = 3
HISTORY = 65536
RTT_NS = 100_000
UNKNOWN = (1 << 64) - 1


def batch(stream: int, after: int, through: int, found: bytes = b"") -> bytes:
    head = encode_batch(
        id=1, stream=stream, after=after, through=through, frames_size=len(found), timestamp_ns=5
    )
    return head + found


class Reader:
    """One subscription to the topic ``t``, served from a group."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.group = Group(rtt_ns=RTT_NS)
        self.select = ffi.gc(lib.hu_select_new(), lib.hu_select_free)
        self.begun: dict[int, int] = {}
        self.told: dict[int, int] = {}
        """How far the subscription has come in each stream, without a seam."""
        self.got: dict[int, set[int]] = {stream: set() for stream in range(STREAMS)}
        self.missing: dict[int, set[int]] = {stream: set() for stream in range(STREAMS)}
        self._out = bytearray()

    def entries(self) -> list[tuple[int, int]]:
        """Entries of the group's beacon for the streams; none before the first."""
        found = lib.hu_group_beacon(self.group.handle)
        if found == ffi.NULL:
            return []
        entries = lib.hu_group_entries(self.group.handle)
        return [(entries[i].index, entries[i].through) for i in range(found.streams)]

    def begin(self) -> None:
        entries = self.entries()
        for index, through in entries:
            assert lib.hu_select_stream(self.select, index, through) == 0
        row = lib.hu_select_add(self.select, 7, 0, b"t", 1)
        for index, through in entries:
            assert lib.hu_select_route(self.select, row, index, index, through) == 0
        self.begun, self.told = dict(entries), dict(entries)

    def read(self) -> None:
        """All that can be had now, as a channel has it."""
        if not self.begun:
            self.begin()
        while self.begun:
            event = self.walk()
            if event.what == lib.HU_SELECT_HOLE:
                self.hole(event.stream, event.first, event.last)
            elif event.what == lib.HU_SELECT_CONTROL_AT:
                frame = bytes(ffi.buffer(lib.hu_select_control(self.select), event.size))
                gap: Any = decode_control(frame[5], frame[32 : 32 + int(frame[24])])
                lib.hu_select_gap(self.select, gap.stream, gap.last)
            elif event.what == lib.HU_SELECT_MORE:
                if not self.group.skip():
                    return
                lib.hu_select_resync(self.select)
                for index, through in self.entries():
                    lib.hu_select_stream(self.select, index, UNKNOWN)
                    lib.hu_select_gap(self.select, index, through)
            else:
                assert event.what == lib.HU_SELECT_FULL

    def walk(self) -> Any:
        place, consumed = ffi.new("hu_bytes *"), ffi.new("uint64_t *")
        event, capacity = ffi.new("hu_select_event *"), self.rng.choice([60, 1000, 100_000])
        out = ffi.new("uint8_t[]", capacity)
        lib.hu_group_bytes(self.group.handle, place)
        size = lib.hu_select_walk(self.select, place, out, capacity, consumed, event)
        lib.hu_group_consume(self.group.handle, consumed[0])
        self._out += ffi.buffer(out, size)
        self.take()
        return event

    def take(self) -> None:
        """Look at the whole batches that were written."""
        while len(self._out) >= 56:
            (length,) = struct.unpack_from("<I", self._out, 24)
            size = 32 + (length + 7) // 8 * 8
            if len(self._out) < size:
                return
            _, stream, after, through = struct.unpack_from("<IIQQ", self._out, 32)
            assert after == self.told[stream]
            for header, topic, _ in decode(bytes(self._out[56:size])):
                assert topic == "t"
                assert after < header.sequence <= through
                after = header.sequence
                self.got[stream].add(after)
            self.told[stream] = through
            del self._out[:size]

    def hole(self, stream: int, first: int, last: int) -> None:
        assert not self._out, "a gap stands between batches"
        assert first == self.told[stream] + 1
        self.missing[stream].update(range(first, last + 1))
        self.told[stream] = last


class World:
    """A broker that casts, a subscriber, and a network that loses."""

    def __init__(self, seed: int, loss: float, *, unicast: bool) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.cast = Cast(history=HISTORY, unicast=unicast)
        self.reader = Reader(self.rng)
        self.through = [0] * STREAMS
        self.wanted: list[set[int]] = [set() for _ in range(STREAMS)]
        self.stalled = 0
        """Rounds for which nobody reads."""
        self._waiting = b""
        self._gap: m.Gap | None = None
        for stream in range(STREAMS):
            name = b"stream%d" % stream
            self.cast.name(stream, name)
            assert self.cast.feed(batch(stream, 0, 0)) == 56

    def publish(self) -> None:
        """The next batch, or gap, of some stream."""
        stream = self.rng.choice([0, 0, 1, 2])
        after = self.through[stream]
        if self.rng.random() < 0.03:
            self.through[stream] += self.rng.randint(1, 3)
            self._gap = m.Gap(1, stream, after + 1, self.through[stream], "retention")
            return
        found = b""
        for _ in range(self.rng.randint(0, 12)):
            self.through[stream] += 1
            topic = self.rng.choice("tu")
            found += message(topic, self.through[stream], self.rng.randint(0, 1500))
            if topic == "t":
                self.wanted[stream].add(self.through[stream])
        self._waiting = batch(stream, after, self.through[stream], found)

    @property
    def owes(self) -> bool:
        return bool(self._waiting) or self._gap is not None

    def feed(self) -> None:
        if self._waiting:
            self._waiting = self._waiting[self.cast.feed(self._waiting) :]
        elif self._gap is not None:
            lib.hu_caster_gap(self.cast.native, self._gap.stream, self._gap.last)
            if self.cast.append(encode_control(self._gap)) == 0:
                self._gap = None

    def lost(self) -> bool:
        return self.rng.random() < self.loss

    def hear(self, sent: Sent) -> None:
        fields = {"type": sent.type, "session": CAST, "stream": 1, "position": sent.position}
        fields |= {"received": sent.received, "flags": sent.flags}
        self.reader.group.take((ffi.new("hu_header *", fields), sent.data))

    def round(self, span_ns: int) -> None:
        """Some time passes; each party with something to do then does it."""
        group = self.reader.group
        self.cast.now_ns += span_ns
        group.now_ns = self.cast.now_ns
        self.feed()
        for sent in self.cast.flush():
            if not self.lost():
                self.hear(sent)
        for ranges in group.calls_at(group.now_ns):
            if not self.lost():
                self.cast.call(*ranges, caller=SESSION, rtt_ns=RTT_NS)
        if self.stalled:
            self.stalled -= 1
        else:
            self.reader.read()


@pytest.mark.parametrize("loss", [0, 0.05, 0.3])
@pytest.mark.parametrize("repair", ["multicast", "unicast"])
def test_all_of_it_comes_or_is_told_as_missing(repair: str, loss: float) -> None:
    """Under loss, gaps and a reader who rests for longer than the history lasts: coverage without a
    seam, and once it is quiet nothing is owed."""
    world = World(1, loss, unicast=repair == "unicast")
    for _ in range(1200):
        if not world.owes and world.rng.random() < 0.6:
            world.publish()
        if not world.stalled and world.rng.random() < 0.01:
            world.stalled = world.rng.choice([5, 100, 400])
        world.round(world.rng.choice([20_000, 100_000, 500_000]))
    world.stalled = 0
    for _ in range(300):
        world.round(1 * MS)

    reader = world.reader
    for stream, begun in reader.begun.items():
        wanted = {sequence for sequence in world.wanted[stream] if sequence > begun}
        assert reader.got[stream] <= wanted
        assert wanted - reader.got[stream] <= reader.missing[stream]
        assert not reader.got[stream] & reader.missing[stream]
    assert len(reader.begun) == STREAMS
    assert not world.owes
    assert reader.group.counts()["cuts"] > 0
