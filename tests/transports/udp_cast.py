"""A caster in simulated time: what it is fed, what it sends, and when."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hermes.native import Encoder, encode_batch
from hermes_udp.native import ffi, lib

US = 1_000
MS = 1_000_000
START_NS = 1_000 * MS
DATAGRAM = 1248
PAYLOAD = DATAGRAM - lib.HU_HEADER
"""1200 bytes of stream in a datagram."""
HISTORY = 1 << 20
RATE = 125_000_000
ALL: int = lib.HU_CAST_ALL
CAST = 0xCA57
FRAMES_AT = 56
"""Offset at which the frames of a batch begin."""


def batch(through: int, size: int, *, after: int | None = None, stream: int = 0) -> bytes:
    """A batch of the broker's with one message, of ``size`` bytes in all, or without any."""
    if size == FRAMES_AT:
        return encode_batch(
            id=1, stream=stream, after=through if after is None else after, through=through,
            frames_size=0,
        )  # fmt: skip
    encoder = Encoder()
    room = size - FRAMES_AT - 32 - 8
    encoder.encode(b"\xa5" * room, topic="t", sequence=through, timestamp_ns=1)
    frames = bytes(encoder.view)
    header = encode_batch(
        id=1, stream=stream, after=through - 1 if after is None else after, through=through,
        frames_size=len(frames),
    )  # fmt: skip
    assert len(header) + len(frames) == size, "give a size that frames can have"
    return header + frames


@dataclass(frozen=True, slots=True)
class Sent:
    """A datagram that was sent."""

    at_ns: int
    target: int
    type: int
    position: int
    data: bytes
    flags: int
    received: int

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def is_data(self) -> bool:
        return bool(self.type == lib.HU_DATA)

    @property
    def is_beacon(self) -> bool:
        return bool(self.type == lib.HU_BEACON)

    @property
    def is_repeat(self) -> bool:
        return self.is_data and bool(self.flags & lib.HU_REPEAT)


class Cast:
    """A caster, a clock, and everything that was sent."""

    def __init__(self, **options: Any) -> None:
        pattern = options.pop("pattern", b">")
        values = {
            "id": CAST,
            "rate": RATE,
            "history": HISTORY,
            "datagram": DATAGRAM,
            "unicast": 0,
            "pattern_size": len(pattern),
        } | options
        native = ffi.new("hu_caster_options *", values)
        ffi.memmove(native.pattern, pattern, len(pattern))
        self.now_ns = START_NS
        self.native = ffi.gc(lib.hu_caster_new(native, START_NS), lib.hu_caster_free)
        self.sent: list[Sent] = []
        self.stream = bytearray()
        """All that was taken."""
        self.trains: list[int] = []
        self.takes: Callable[[Sent], bool] = lambda sent: True
        """Whether the socket takes a datagram; it refuses all behind one that it does not."""
        self.receivers = 1
        self._train = ffi.gc(lib.hu_train_new(), lib.hu_train_free)
        self._out = ffi.new("uint8_t[]", lib.HU_DATAGRAM_MAX)
        self._control = ffi.new("uint32_t *")
        self._target = ffi.new("uint64_t *")

    # Feeding.

    def feed(self, data: bytes) -> int:
        """How many bytes were taken, or why none."""
        taken = lib.hu_caster_feed(self.native, data, len(data), self._control)
        if taken > 0:
            self.stream += data[:taken]
        return int(taken)

    @property
    def control(self) -> int:
        """The type of the frame at which the last feed stopped."""
        return int(self._control[0])

    def append(self, data: bytes) -> int:
        status = lib.hu_caster_append(self.native, data, len(data))
        if status == 0:
            self.stream += data
        return int(status)

    def name(self, index: int, name: bytes) -> None:
        lib.hu_caster_name(self.native, index, name, len(name))

    def call(self, *ranges: tuple[int, int], caller: int = 1, rtt_ns: int = 0) -> None:
        """A receiver misses ranges."""
        body = b"".join(struct.pack("<QI", *missing) for missing in ranges)
        lib.hu_caster_status(self.native, caller, body, len(body), rtt_ns, self.now_ns)

    # Sending.

    def flush(self) -> list[Sent]:
        """All that can leave now, and does."""
        begun = len(self.sent)
        while True:
            count = lib.hu_caster_emit(
                self.native, self._train, self.receivers, self.now_ns, self._target
            )
            if not count:
                return self.sent[begun:]
            self.trains.append(count)
            for i in range(count):
                sent = self._datagram(i)
                if not self.takes(sent):
                    lib.hu_caster_unsend(self.native, self._train, i)
                    return self.sent[begun:]
                self.sent.append(sent)

    def _datagram(self, index: int) -> Sent:
        size = lib.hu_train_copy(self._train, index, self._out)
        header = ffi.new("hu_header *")
        assert lib.hu_header_decode(self._out, size, header) == 0
        assert header.session == CAST
        assert header.stream == lib.HU_GROUP_STREAM
        data = bytes(ffi.buffer(self._out + lib.HU_HEADER, size - lib.HU_HEADER))
        target = int(self._target[0])
        return Sent(
            self.now_ns, target, header.type, header.position, data, header.flags, header.received
        )

    @property
    def deadline_ns(self) -> int:
        """When it has something to send; the present if it has it now."""
        return max(self.now_ns, int(lib.hu_caster_deadline(self.native)))

    def run(self, span_ns: int) -> list[Sent]:
        """Datagrams sent in so much time, at the times it asks for."""
        begun, end = len(self.sent), self.now_ns + span_ns
        self.flush()
        while (due := self.deadline_ns) <= end:
            self.now_ns = due
            before = len(self.sent)
            self.flush()
            assert len(self.sent) > before, "it asked for a time at which it had nothing to send"
        self.now_ns = end
        return self.sent[begun:]

    def cast(self, data: bytes) -> None:
        """Feed all of it, and have all of it sent."""
        while data:
            data = data[self.feed(data) :]
            while lib.hu_caster_sent(self.native) < lib.hu_caster_end(self.native):
                self.now_ns = self.deadline_ns
                self.flush()

    def counts(self) -> dict[str, int]:
        counters = ffi.new("hu_caster_counters *")
        lib.hu_caster_count(self.native, counters)
        return {name: int(getattr(counters, name)) for name, _ in ffi.typeof(counters[0]).fields}

    @property
    def end(self) -> int:
        return int(lib.hu_caster_end(self.native))

    @property
    def oldest(self) -> int:
        return int(lib.hu_caster_oldest(self.native))

    def repeats(self) -> list[tuple[int, int]]:
        """Position and size of every datagram that was sent again."""
        return [(sent.position, sent.size) for sent in self.sent if sent.is_repeat]
