"""A subscriber's end of a group and a caster that a test plays, in simulated time."""

from __future__ import annotations

import struct
from typing import Any

from hermes_udp.native import GROUP, ffi, fields, lib

US = 1_000
MS = 1_000_000
START_NS = 1_000 * MS
DELAY_NS = 50 * US
PAYLOAD = 1200
CAST = 77
SESSION = 5
HISTORY = 1 << 16
LIVENESS_MS = 1000

Datagram = tuple[Any, bytes]
"""A decoded header, and what stands behind it."""


class Caster:
    """A sender to the group, of decoded datagrams."""

    def __init__(self, *, receivers: int = 1, cast: int = CAST, history: int = HISTORY) -> None:
        self.receivers = receivers
        self.id = cast
        self.history = history
        self.stream = b""
        self.join = self.oldest = self.end = 0

    def header(self, kind: int, **fields: int) -> Any:
        values = {"type": kind, "session": self.id, "stream": 1, "received": self.oldest, **fields}
        return ffi.new("hu_header *", values)

    def cast(self, count: int) -> list[Datagram]:
        """As many datagrams of new bytes."""
        found = []
        for _ in range(count):
            data = bytes([len(self.stream) // PAYLOAD & 0xFF]) * PAYLOAD
            found.append(self.data(self.end, data))
            self.stream += data
            self.end += PAYLOAD
        return found

    def data(self, position: int, data: bytes, **fields: int) -> Datagram:
        return self.header(lib.HU_DATA, position=position, **fields), data

    def repeat(self, position: int) -> Datagram:
        """A datagram once more."""
        data = self.stream[position : position + PAYLOAD]
        return self.data(position, data, flags=lib.HU_REPEAT)

    def beacon(self, pattern: bytes = b">") -> Datagram:
        """A beacon of where the stream stands now."""
        body = struct.pack(
            "<QQIIHHB3x",
            self.join,
            self.oldest,
            self.history,
            self.receivers,
            PAYLOAD + lib.HU_HEADER,
            0,
            len(pattern),
        )
        return self.header(lib.HU_BEACON, position=self.end), body + pattern


class Group:
    """A subscriber's end, its clock, and what it has called for."""

    def __init__(self, *, seed: int = 1, rtt_ns: int = 2 * DELAY_NS) -> None:
        self.now_ns = START_NS
        self.rtt_ns = rtt_ns
        self.handle = ffi.gc(lib.hu_group_new(LIVENESS_MS, seed, START_NS), lib.hu_group_free)
        self.arrivals: list[int] = []
        """When repeats will arrive, in a simulation of many."""
        self._out = ffi.new("uint8_t[]", lib.HU_STATUS_MAX)

    def take(self, datagram: Datagram) -> int:
        """A datagram arrives; the events."""
        header, body = datagram
        return int(lib.hu_group_input(self.handle, header, body, len(body), self.now_ns))

    def calls_at(self, when_ns: int) -> list[tuple[tuple[int, int], ...]]:
        """Ranges that it calls for then, of each datagram."""
        self.now_ns = max(self.now_ns, when_ns)
        found = []
        while size := lib.hu_group_emit(
            self.handle, SESSION, self.rtt_ns, self._out, lib.HU_STATUS_MAX, self.now_ns
        ):
            header = ffi.new("hu_header *")
            assert lib.hu_header_decode(self._out, size, header) == 0
            assert (header.type, header.stream, header.session) == (lib.HU_STATUS, 1, SESSION)
            assert header.received == self.received()
            body = bytes(ffi.buffer(self._out, size))[lib.HU_HEADER :]
            found.append(tuple(struct.iter_unpack("<QI", body)))
        return found

    def read(self) -> bytes:
        """All that stands in order."""
        place = ffi.new("hu_bytes *")
        lib.hu_group_bytes(self.handle, place)
        data = b"".join(bytes(ffi.buffer(place.data[i], place.size[i])) for i in range(2))
        lib.hu_group_consume(self.handle, len(data))
        return data

    def deadline(self) -> int:
        return int(lib.hu_group_deadline(self.handle))

    def received(self) -> int:
        return int(lib.hu_group_received(self.handle))

    def skip(self) -> bool:
        return bool(lib.hu_group_skip(self.handle))

    def tick(self) -> int:
        return int(lib.hu_group_tick(self.handle, self.now_ns))

    def reason(self) -> int:
        return int(lib.hu_group_reason(self.handle))

    @property
    def state(self) -> int:
        return int(lib.hu_group_state(self.handle))

    def counts(self) -> dict[str, int]:
        counters = ffi.new("hu_group_counters *")
        receiver = ffi.new("hu_receiver_counters *")
        lib.hu_group_count(self.handle, counters, receiver)
        return fields(counters, GROUP)
