"""A group's channel around a session: what is handed on, waited for and let go, without sockets."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

import pytest

from hermes.errors import ConnectionLost, WouldBlock
from hermes.native.outbox import EMPTY
from hermes.wire import messages as m
from hermes.wire.codec import encode_control
from hermes_udp.channel import UdpChannel
from hermes_udp.group import GroupChannel
from hermes_udp.groups import Group
from hermes_udp.native import ffi
from hermes_udp.options import DialOptions
from tests.wire import reference as ref

MINUTE_NS = 60_000_000_000
PING = encode_control(m.Ping(7))
LARGE = ref.batch(1, 0, 0, 1, ref.message("a", bytes(600_000), 1))


class Session:
    """A stand-in for a :class:`UdpChannel`: gives pieces, and takes as much as it has room."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = deque(pieces)
        self.later: list[bytes] = []  # comes while somebody waits
        self.room = 0
        self.sent = bytearray()
        self.waits = 0
        self.spun = 0
        self.error: str | None = None

    def send(self, views: Sequence[memoryview | bytes]) -> int:
        taken = b"".join(views)[: self.room]
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def receive_into(self, buffer: memoryview) -> int:
        place = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        if not self.pieces:
            if self.error:
                raise ConnectionLost(self.error)
            raise WouldBlock("nothing")
        piece = self.pieces.popleft()
        size = min(len(piece), len(place))
        buffer[:size] = piece[:size]
        if size < len(piece):
            self.pieces.appendleft(piece[size:])
        return size

    def wait(self, *, readable: bool, writable: bool, timeout_ns: int, spin_ns: int = 0) -> bool:
        self.waits += 1
        self.spun = max(self.spun, spin_ns)
        assert self.waits < 100, "it waits again and again"
        found = bool((readable and (self.pieces or self.error)) or (writable and self.room))
        if not found and not self.later:
            time.sleep(max(0, timeout_ns) / 1e9)
        self.pieces += self.later
        self.later.clear()
        return found

    def send_through(self, outward: object) -> None:
        pass

    def close(self) -> None:
        pass


def over(session: Session) -> GroupChannel:
    return GroupChannel(
        cast(UdpChannel, session), Group(socket.AF_INET, "239.1.2.3", 7601), DialOptions()
    )


def test_what_was_read_and_not_handed_on_is_not_waited_for() -> None:
    """Where one call hands on its share only, the next need not wait for the session."""
    session = Session(LARGE[:100_000], LARGE[100_000:])
    channel = over(session)
    buffer = bytearray(1 << 20)

    seen = 0
    while seen < len(LARGE):
        assert channel.wait(readable=True, writable=False, timeout_ns=0)
        seen += channel.receive_into(memoryview(buffer)[seen:])

    assert buffer[:seen] == LARGE
    assert not channel.wait(readable=True, writable=False, timeout_ns=0)


def test_what_must_wait_for_a_border_wakes_nobody() -> None:
    """Within a batch of the session's, a word of the channel's own is no input yet."""
    session = Session(LARGE[:1000])
    channel = over(session)
    buffer = memoryview(bytearray(1 << 20))
    assert channel.receive_into(buffer) == 1000
    channel._rows.down += PING

    assert not channel.wait(readable=True, writable=False, timeout_ns=0)
    session.pieces.append(LARGE[1000:])
    seen = 1000
    while seen < len(LARGE) + len(PING):
        assert channel.wait(readable=True, writable=False, timeout_ns=0)
        seen += channel.receive_into(buffer[seen:])

    assert buffer[:seen] == LARGE + PING


def test_a_reader_waits_as_long_as_it_was_told() -> None:
    """The channel does here what native code would do with a medium: it waits, reads, and hears of the end."""
    session = Session()
    channel = over(session)
    place = ffi.new("uint8_t[]", 1 << 20)

    assert channel.receive(place, 1024, MINUTE_NS, 1_000_000) == EMPTY
    session.later += [PING, LARGE]
    assert channel.receive(place, 1024, MINUTE_NS, -1) == 1024
    assert 0 < session.spun < MINUTE_NS
    assert bytes(ffi.buffer(place, len(PING))) == PING
    session.error = "it broke"
    seen = 1024
    while seen < len(PING) + len(LARGE):
        seen += channel.receive(place, 1 << 20, 0, -1)
    with pytest.raises(ConnectionLost, match="it broke"):
        channel.receive(place, 1024, 0, -1)


def test_who_reads_holds_up_nobody_who_writes() -> None:
    """While one thread waits for input, another may wait for room."""
    session = Session()
    session.room = 1
    channel = over(session)

    with channel._lock:
        assert channel.wait(readable=False, writable=True, timeout_ns=-1)
        assert channel.receive(ffi.new("uint8_t[8]"), 8, 0, 0) == EMPTY


def test_a_broken_one_keeps_no_buffers() -> None:
    """A reader that was told that it is lost has the memory back, traceback and all."""
    session = Session()
    session.error = "it broke"
    channel = over(session)
    buffer = bytearray(1024)

    for _ in range(2):
        with pytest.raises(ConnectionLost, match="it broke"):
            channel.receive_into(memoryview(buffer))

    buffer.append(1)  # BufferError while somebody refers to it
