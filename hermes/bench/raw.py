"""Python handles of the C controls: one call a pass, with the GIL released.

What they do is in the headers of ``hermes/bench/native``; sockets and mappings are made here.
"""

from __future__ import annotations

import mmap
import os
import socket
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hermes.bench._controls import ffi, lib
from hermes.errors import SystemFault

NS_PER_S = 1_000_000_000
READ_BYTES: int = lib.HM_RELAY_BYTES
SINKS_MAX: int = lib.HM_RELAY_SINKS
DATAGRAM_MAX: int = lib.HM_ECHO_SIZE_MAX

BUFFER_BYTES = 4 << 20
"""Buffers of a UDP socket, as far as the system grants them: a reader that is late by ms loses nothing."""

NO_MEMORY, TIMED_OUT = -4, -24
"""From hm_error.h."""


def _check(result: int, what: str) -> None:
    if result == NO_MEMORY:
        raise MemoryError(what)
    if result < 0:
        text = "took too long" if result == TIMED_OUT else f"failed ({result})"
        raise SystemFault(f"{what} {text}")


class Patience:
    """How a pass waits: it tries for ``spin_ns`` (-1: for ever) before it sleeps, and gives up
    after ``idle_s`` without anything."""

    def __init__(self, spin_ns: int, idle_s: float) -> None:
        self.idle_ns = int(idle_s * NS_PER_S)
        self.handle = ffi.new("hm_patience *", {"spin_ns": spin_ns, "idle_ns": self.idle_ns})


class Tally:
    """Messages that arrived in a pass, and how long each took if that was asked for."""

    def __init__(self, count: int = 0) -> None:
        self.handle = ffi.new("hm_tally *")
        self._latencies = array("q", bytes(8 * count))
        self.out = ffi.from_buffer("int64_t[]", self._latencies, require_writable=True)

    @property
    def delivered(self) -> int:
        """Messages."""
        return int(self.handle.delivered)

    @property
    def last_ns(self) -> int:
        """When the last of them was there."""
        return int(self.handle.last_ns)

    @property
    def latencies(self) -> array[int]:
        """ns of each."""
        return self._latencies[: self.delivered]


def _schedule(start_ns: int, rate: float) -> Any:
    return ffi.new("hm_schedule *", {"start_ns": start_ns, "interval_ns": NS_PER_S / rate})


class Stream:
    """A connected stream socket: an end of the relay."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connected

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self.socket.fileno()

    def relay(
        self, sinks: Sequence[Stream], patience: Patience, read_bytes: int = READ_BYTES
    ) -> None:
        """Copy what comes to every sink, until it ends."""
        fds = ffi.new("int[]", [sink.fd for sink in sinks])
        done = lib.hm_relay_run(self.fd, fds, len(sinks), read_bytes, patience.handle)
        _check(done, "the relay")

    def load(self, size: int, count: int, patience: Patience, write_bytes: int = READ_BYTES) -> int:
        """Write ``count`` messages, many a call; returns when it began, ns."""
        start = ffi.new("uint64_t *")
        done = lib.hm_relay_load(self.fd, size, count, write_bytes, patience.handle, start)
        _check(done, "the load")
        return int(start[0])

    def drain(self, size: int, count: int, patience: Patience) -> Tally:
        """Read up to ``count`` messages."""
        tally = Tally()
        done = lib.hm_relay_drain(self.fd, size, count, patience.handle, tally.handle)
        _check(done, "the sink")
        return tally

    def pace(self, size: int, count: int, start_ns: int, rate: float, patience: Patience) -> int:
        """Write ``count`` messages on schedule; returns how late the latest went out, ns."""
        late = ffi.new("uint64_t *")
        schedule = _schedule(start_ns, rate)
        done = lib.hm_relay_pace(self.fd, size, count, schedule, patience.handle, late)
        _check(done, "the source")
        return int(late[0])

    def hear(self, size: int, count: int, patience: Patience) -> Tally:
        """Read up to ``count`` paced messages."""
        tally = Tally(count)
        done = lib.hm_relay_hear(self.fd, size, count, patience.handle, tally.out, tally.handle)
        _check(done, "the sink")
        return tally

    def pingpong(self, size: int, count: int, patience: Patience) -> Tally:
        """Write a message and read it again, ``count`` times."""
        tally = Tally(count)
        done = lib.hm_relay_pingpong(self.fd, size, count, patience.handle, tally.out, tally.handle)
        _check(done, "the round trip")
        return tally


class Datagrams:
    """A UDP socket: the echo, or connected to it."""

    def __init__(self, made: socket.socket) -> None:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self.socket = made

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self.socket.fileno()

    def echo(self, size: int, copies: int, patience: Patience) -> None:
        """Send everything back, ``copies`` times, until an empty datagram comes."""
        _check(lib.hm_echo_run(self.fd, size, copies, patience.handle), "the echo")

    def flood(
        self, size: int, count: int, window: int, copies: int, patience: Patience
    ) -> tuple[int, Tally]:
        """``count`` datagrams, ``window`` under way; returns when it began, and what came back."""
        tally, start = Tally(), ffi.new("uint64_t *")
        done = lib.hm_echo_flood(
            self.fd, size, count, window, copies, patience.handle, start, tally.handle
        )
        _check(done, "the flood")
        return int(start[0]), tally

    def pace(
        self, size: int, count: int, start_ns: int, rate: float, patience: Patience
    ) -> tuple[int, Tally]:
        """``count`` datagrams on schedule; returns how late the latest went, and what came back."""
        tally, late = Tally(count), ffi.new("uint64_t *")
        done = lib.hm_echo_pace(
            self.fd,
            size,
            count,
            _schedule(start_ns, rate),
            patience.handle,
            tally.out,
            tally.handle,
            late,
        )
        _check(done, "the paced datagrams")
        return int(late[0]), tally

    def pingpong(self, size: int, count: int, patience: Patience) -> Tally:
        """A datagram there and back, ``count`` times."""
        tally = Tally(count)
        done = lib.hm_echo_pingpong(self.fd, size, count, patience.handle, tally.out, tally.handle)
        _check(done, "the round trip")
        return tally


class Ring:
    """Slots in a file that two processes map."""

    def __init__(self, path: Path, size: int) -> None:
        """Map ``path``, which is made if it is not there."""
        length = int(lib.hm_slots_bytes(size))
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(fd).st_size < length:
                os.ftruncate(fd, length)
            self._map = mmap.mmap(fd, length)
        finally:
            os.close(fd)
        self._size = size
        self.memory = ffi.from_buffer(self._map)

    @property
    def handle(self) -> Any:
        """For C."""
        return ffi.cast("void *", self.memory)

    def drain(self, count: int, patience: Patience) -> Tally:
        """Take up to ``count`` messages."""
        tally = Tally()
        done = lib.hm_slots_drain(self.handle, self._size, count, patience.idle_ns, tally.handle)
        _check(done, "the ring")
        return tally

    def pace(self, count: int, start_ns: int, rate: float, patience: Patience) -> int:
        """Put ``count`` messages on schedule; returns how late the latest went, ns."""
        late = ffi.new("uint64_t *")
        schedule = _schedule(start_ns, rate)
        done = lib.hm_slots_pace(self.handle, self._size, count, schedule, patience.idle_ns, late)
        _check(done, "the ring")
        return int(late[0])

    def hear(self, count: int, patience: Patience) -> Tally:
        """Take up to ``count`` paced messages."""
        tally = Tally(count)
        done = lib.hm_slots_hear(
            self.handle, self._size, count, patience.idle_ns, tally.out, tally.handle
        )
        _check(done, "the ring")
        return tally

    def pingpong(self, back: Ring, count: int, patience: Patience) -> Tally:
        """Put a message here and take it from ``back``, ``count`` times."""
        tally = Tally(count)
        done = lib.hm_slots_pingpong(
            self.handle, back.handle, self._size, count, patience.idle_ns, tally.out, tally.handle
        )
        _check(done, "the ring")
        return tally

    def answer(self, back: Ring, count: int, patience: Patience) -> None:
        """The other side of it."""
        done = lib.hm_slots_answer(self.handle, back.handle, self._size, count, patience.idle_ns)
        _check(done, "the ring")

    def close(self) -> None:
        """Unmap it."""
        ffi.release(self.memory)
        self._map.close()


def load(rings: Sequence[Ring], size: int, count: int, patience: Patience) -> int:
    """Put ``count`` messages into each ring; returns when it began, ns."""
    handles, start = ffi.new("void *[]", [ring.handle for ring in rings]), ffi.new("uint64_t *")
    done = lib.hm_slots_load(handles, len(rings), size, count, patience.idle_ns, start)
    _check(done, "the ring")
    return int(start[0])


def core_round_trip_ns(core_a: int, core_b: int, rounds: int) -> list[int]:
    """ns that a cache line takes from core to core and back, each time."""
    took = array("q", bytes(8 * rounds))
    out = ffi.from_buffer("int64_t[]", took, require_writable=True)
    _check(lib.hm_cores_round_trip(core_a, core_b, rounds, out), "the other core")
    return took.tolist()


def clock() -> tuple[int, float]:
    """The smallest step of CLOCK_MONOTONIC that was seen, and what reading it costs, ns."""
    step, read = ffi.new("uint64_t *"), ffi.new("double *")
    lib.hm_cores_clock(step, read)
    return int(step[0]), float(read[0])
