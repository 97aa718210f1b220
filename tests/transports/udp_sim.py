"""Two ends of a udp session joined by a simulated network, in simulated time.

Datagrams take ``delay_ns`` and may be lost by a rule; the clock jumps to the next arrival or
deadline, so that every number is the same each time.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hermes_udp.native import Counts, ffi, lib

US = 1_000
MS = 1_000_000
START_NS = 1_000 * MS
DELAY_NS = 50 * US
DATAGRAM = 1248
PAYLOAD = DATAGRAM - lib.HU_HEADER
"""1200 bytes of stream in a datagram; a status has room for 100 ranges."""

LOST: int = lib.HU_LOST


@dataclass(frozen=True, slots=True)
class Datagram:
    """One that was sent."""

    sender: str
    """``a`` or ``b``."""
    type: int
    position: int
    size: int
    flags: int
    ranges: tuple[tuple[int, int], ...]
    sent_ns: int

    @property
    def is_data(self) -> bool:
        return bool(self.type == lib.HU_DATA)

    @property
    def is_nack(self) -> bool:
        return bool(self.ranges)

    @property
    def is_repeat(self) -> bool:
        return self.is_data and bool(self.flags & lib.HU_REPEAT)


class End:
    """One end: a session, what its application has sent and got."""

    def __init__(self, name: str, **options: Any) -> None:
        native = ffi.new("hu_session_options *")
        values = {
            "id": 7,
            "window": 1 << 20,
            "copy_size": 1 << 20,
            "datagram": DATAGRAM,
            "peer_window": 1 << 20,
            "liveness_ms": 10_000,
            "patience_ms": 10_000,
        } | options
        for key, value in values.items():
            setattr(native, key, value)
        self.name = name
        self.session = ffi.gc(lib.hu_session_new(native, START_NS), lib.hu_session_free)
        self.sender = lib.hu_session_sender(self.session)
        self.receiver = lib.hu_session_receiver(self.session)
        self.got = bytearray()
        self.events = 0
        self.reading = True
        self._held: list[bytes] = []

    def push(self, data: bytes, *, copy: bool = False) -> int:
        """Send, by reference unless ``copy``."""
        self._held.append(data)
        return int(lib.hu_session_push(self.session, data, len(data), copy))

    def read(self) -> None:
        place = ffi.new("const uint8_t **")
        while self.reading and (size := lib.hu_receiver_readable(self.receiver, place)):
            self.got += ffi.buffer(place[0], size)
            lib.hu_session_consume(self.session, size)

    def counts(self) -> dict[str, int]:
        return Counts().of_session(self.session)


class Net:
    """The network and the clock."""

    def __init__(
        self,
        *,
        loses: Callable[[Datagram], bool] = lambda datagram: False,
        delay: Callable[[Datagram], int] = lambda datagram: DELAY_NS,
        a: dict[str, Any] | None = None,
        b: dict[str, Any] | None = None,
    ) -> None:
        self.now_ns = START_NS
        self.a = End("a", **(a or {}))
        self.b = End("b", **(b or {}))
        self.sent: list[Datagram] = []
        self.loses = loses
        self.delay = delay
        self._train = ffi.gc(lib.hu_train_new(), lib.hu_train_free)
        self._out = ffi.new("uint8_t[]", lib.HU_DATAGRAM_MAX)
        self._wire: list[tuple[int, int, End, bytes]] = []
        self._numbers = itertools.count()

    def warm_up(self) -> None:
        """Measure a round trip, and forget what was sent for it."""
        self.a.push(bytes(8))
        self.run(lambda: len(self.b.got) == 8 and self.acked(self.a))
        self.b.got.clear()
        self.sent.clear()

    def acked(self, end: End) -> bool:
        return bool(lib.hu_sender_acked(end.sender) == lib.hu_sender_end(end.sender))

    def emit(self, end: End) -> None:
        """Put what ``end`` has to say on the wire."""
        while count := lib.hu_session_emit(end.session, self._train, self.now_ns):
            for i in range(count):
                size = lib.hu_train_copy(self._train, i, self._out)
                self._carry(end, bytes(ffi.buffer(self._out, size)))

    def _carry(self, end: End, data: bytes) -> None:
        header = ffi.new("hu_header *")
        assert lib.hu_header_decode(data, len(data), header) == 0
        body = data[lib.HU_HEADER :]
        ranges = ()
        if header.type == lib.HU_STATUS:
            ranges = tuple(
                (
                    int.from_bytes(body[at : at + 8], "little"),
                    int.from_bytes(body[at + 8 : at + 12], "little"),
                )
                for at in range(0, len(body), lib.HU_RANGE)
            )
        datagram = Datagram(
            end.name, header.type, header.position, len(body), header.flags, ranges, self.now_ns
        )
        self.sent.append(datagram)
        if not self.loses(datagram):
            other = self.b if end is self.a else self.a
            due = self.now_ns + self.delay(datagram)
            heapq.heappush(self._wire, (due, next(self._numbers), other, data))

    def deliver(self, end: End, data: bytes) -> int:
        """Hand a datagram to ``end``; the events."""
        header = ffi.new("hu_header *")
        assert lib.hu_header_decode(data, len(data), header) == 0
        body = ffi.from_buffer("uint8_t[]", data) + lib.HU_HEADER
        events: int = lib.hu_session_input(
            end.session, header, body, len(data) - lib.HU_HEADER, self.now_ns
        )
        end.events |= events
        return events

    def step(self, at_most_ns: int | None = None) -> None:
        """Everything that happens now, then on to the next time that something does, or to
        ``at_most_ns``."""
        for end in (self.a, self.b):
            self.emit(end)
        due = min(
            self._wire[0][0] if self._wire else 1 << 63,
            *(lib.hu_session_deadline(end.session, self.now_ns) for end in (self.a, self.b)),
            at_most_ns or 1 << 63,
        )
        self.now_ns = max(self.now_ns, due)
        for end in (self.a, self.b):
            end.events |= lib.hu_session_tick(end.session, self.now_ns)
        while self._wire and self._wire[0][0] <= self.now_ns:
            _, _, end, data = heapq.heappop(self._wire)
            self.deliver(end, data)
        for end in (self.a, self.b):
            end.read()

    def run(self, until: Callable[[], object], *, limit_ns: int = 100_000 * MS) -> None:
        """Steps until a condition holds, which it must within simulated time."""
        end = self.now_ns + limit_ns
        while not until():
            assert self.now_ns < end, "it did not come to be"
            self.step()

    def nacks(self) -> list[tuple[tuple[int, int], ...]]:
        """The ranges of every status that called for some."""
        return [datagram.ranges for datagram in self.sent if datagram.is_nack]

    def repeats(self) -> list[tuple[int, int]]:
        """Position and size of every datagram that was sent again."""
        return [(d.position, d.size) for d in self.sent if d.is_repeat]


def lose_first(*positions: int) -> Callable[[Datagram], bool]:
    """Loses the first transmission of the data at ``positions``, from ``a``."""
    left = set(positions)

    def loses(datagram: Datagram) -> bool:
        if datagram.sender == "a" and datagram.is_data and datagram.position in left:
            left.remove(datagram.position)
            return True
        return False

    return loses
