"""A client of a multicast group: an ordinary session with its caster, and the group beside it.

A client that dials the group joins it for a beacon, and sets up a session with the address that the beacon
came from.  All that the client says goes there, and all answers come from there; the group brings the
messages of those subscriptions that :mod:`hermes_udp.takeover` has found to be served by it.  It is
joined for as long as there may be such.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from hermes.errors import ConnectFailed, ConnectionLost, InvalidUrl, WouldBlock
from hermes.native.outbox import EMPTY
from hermes.net.addresses import host_port, refuse_path
from hermes.spi.url import Url
from hermes_udp import channel as _channel
from hermes_udp import options as _options
from hermes_udp.channel import UdpChannel
from hermes_udp.groups import Group, joined
from hermes_udp.native import GROUP, RECEIVER, ffi, fields, lib
from hermes_udp.options import DialOptions
from hermes_udp.sift import Inward
from hermes_udp.takeover import TakeOver

UNICAST_SHARE = 65536
"""Bytes returned from the session before it is the group's turn."""
ROUNDS = 8
"""Turns within one call."""
WALK_MIN = 4096
"""Bytes of room for the group behind something else: where there is less, a message may be cut."""
HOLD_NS = 20_000_000
"""How long subscriptions that the group serves wait for another's unicast to come as far."""
REST_NS = 200_000_000
"""How long they do not after that: holding up is a tenth of the time at most."""
HELD_SHARE = 2
"""While it serves none, the group is held until this part of its window is full."""
NEVER = 1 << 62
"""A time that does not come."""
CASTERS_MAX = 64
"""Groups of which it is known who cast to them last."""
LOG = logging.getLogger("hermes.udp")
_STOPS = frozenset({lib.HU_SELECT_MORE, lib.HU_SELECT_FULL})
"""Events that end a walk without anything to be done about them."""


class Casters:
    """Casters whose beacons were believed last: a group that is cast to by another may have another log.

    Any thread may use it.
    """

    def __init__(self) -> None:
        self._last: dict[Group, Any] = {}
        self._lock = threading.Lock()

    def compare(self, url: Url, group: Group, caster: Any) -> None:
        """Tell of it if another casts to the group than before."""
        with self._lock:
            before = self._last.pop(group, caster)
            while len(self._last) >= CASTERS_MAX:
                del self._last[next(iter(self._last))]
            self._last[group] = caster
        if before != caster:
            LOG.warning(
                "%s: %s casts to the group now, and %s did before: the broker was restarted, or two "
                "cast to one group, which would each need a group of its own",
                url,
                host_port(caster),
                host_port(before),
            )


_casters = Casters()
"""The one of this process: a new transport is made for each connection."""


def dial(url: Url, group: Group, options: DialOptions, timeout_ns: int) -> GroupChannel:
    """Find the caster of the group, which ``url`` names, and set up a session with it.

    Raises:
        InvalidUrl: the URL makes no sense, or there is no such interface.
        ConnectFailed: no beacon came in time, or its sender did not answer.
    """
    spec = options.check(url)
    refuse_path(url)
    _channel.LINGERING.reap()
    deadline = None if timeout_ns < 0 else time.monotonic_ns() + timeout_ns
    try:
        sock = joined(group, options)
    except OSError as error:
        raise InvalidUrl(
            f"{url}: cannot join the group: {error}; interface=... names the interface by one of its "
            "addresses or, for IPv6, by its name: `ip addr` lists them"
        ) from error
    with sock:
        caster = _await_beacon(sock, deadline)
    if caster is None:
        raise ConnectFailed(
            f"{url}: no beacon came from the group: check that a broker casts to it (`hermes serve "
            "--transport` with this URL), and that interface=... names the interface it comes by"
        )
    _casters.compare(url, group, caster)
    try:
        sock = _options.connected(group.family, caster, options)
    except OSError as error:
        raise ConnectFailed(f"{url}: {host_port(caster)} cannot be reached: {error}") from error
    left = -1 if deadline is None else max(0, deadline - time.monotonic_ns())
    found = _channel.set_up(sock, caster, options, spec, left)
    if not isinstance(found, UdpChannel):
        raise ConnectFailed(f"{url}, cast from {host_port(caster)}: {found}")
    return GroupChannel(found, group, options)


def _await_beacon(sock: socket.socket, deadline: int | None) -> Any:
    """Return the address that the first sound beacon comes from; None: none came in time."""
    header, beacon = ffi.new("hu_header *"), ffi.new("hu_beacon *")
    entries = ffi.new("hu_beacon_entry[]", lib.HU_BEACON_STREAMS)
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    while True:
        left = None if deadline is None else (deadline - time.monotonic_ns()) / 1e6
        if left is not None and left <= 0:
            return None
        if not poller.poll(left):
            continue
        try:
            data, address = sock.recvfrom(lib.HU_DATAGRAM_MAX)
        except OSError:  # a datagram whose checksum was wrong, say
            continue
        if lib.hu_header_decode(data, len(data), header) < 0 or header.type != lib.HU_BEACON:
            continue
        body = data[lib.HU_HEADER :]
        if lib.hu_beacon_decode(header, body, len(body), beacon, entries) == 0:
            return address


class GroupChannel:
    """See :class:`hermes.spi.transport.Channel` and :class:`hermes.spi.transport.ReadingChannel`.  Any thread
    may call; one at a time reads."""

    def __init__(self, unicast: UdpChannel, group: Group, options: DialOptions) -> None:
        self._unicast = unicast
        self._group = group
        self._options = options
        self._lock = threading.Lock()
        self._rows = TakeOver()
        unicast.send_through(self._rows.outward.handle)
        self._in = Inward(self._rows)
        self._sock: socket.socket | None = None
        self._event = ffi.new("hu_select_event *")
        self._beacon = ffi.new("hu_beacon *")
        self._entries = ffi.new("hu_beacon_entry[]", lib.HU_BEACON_STREAMS)
        self._pid = os.getpid()
        self._waits = False
        """Whether the group is to wait for some subscription's unicast."""
        self._held = False
        self._hold_since = 0
        self._rest_until = 0
        self._more = False
        """Whether the last read left something."""
        self._steady = False
        """Whether there is nothing to do but to select from the group, until something is said."""
        self._ended = False
        self._error: str | None = None
        """Why it broke: a text, because an exception would keep the buffers of its traceback."""

    @property
    def stream_fd(self) -> int | None:
        """None: what moves here are datagrams."""
        return None

    @property
    def medium(self) -> int:
        """Where its ``struct hm_medium`` stands, for native code: the session's, which lets what goes
        out pass through our filter.  Reading is :meth:`receive`'s."""
        return self._unicast.medium

    def send(self, views: Sequence[memoryview | bytes]) -> int:
        """Take some of the bytes: how many, 0 if there is no room now."""
        return self._unicast.send(views)

    # ---- in ----

    def receive_into(self, buffer: memoryview) -> int:
        """Fill ``buffer``: how many bytes, 0 at the end of input."""
        with self._lock:
            written = self._fill(memoryview(buffer))
            if written or self._is_over():
                return written
        raise WouldBlock("nothing has arrived")

    def receive(self, address: Any, capacity: int, spin_ns: int, timeout_ns: int) -> int:
        """See :class:`hermes.spi.transport.ReadingChannel`."""
        begun = now = time.monotonic_ns()
        until = NEVER if timeout_ns < 0 else begun + timeout_ns
        if not self._lock.acquire(timeout=-1 if timeout_ns < 0 else timeout_ns / 1e9):
            return EMPTY
        try:
            out = memoryview(ffi.buffer(address, capacity))
            while True:
                spin = max(0, begun + spin_ns - now)
                if self._steady and (size := self._pull(address, capacity, spin, until - now)):
                    return size
                size = self._fill(out)
                if size or self._is_over():
                    return size
                now = time.monotonic_ns()
                if now >= until:
                    return EMPTY
                if not self._steady:
                    self._await_input(max(0, begun + spin_ns - now), until - now)
                    now = time.monotonic_ns()
        finally:
            self._lock.release()

    def _is_over(self) -> bool:
        """Whether the input has ended.

        Raises:
            ConnectionLost: it broke.
        """
        if self._error is not None:
            raise ConnectionLost(self._error)
        return self._ended

    def _await_input(self, spin_ns: int, left_ns: int) -> None:
        if self._waits and self._rows.taken:  # it is to end, whatever comes
            left_ns = min(left_ns, HOLD_NS)
        self._unicast.wait(readable=True, writable=False, timeout_ns=left_ns, spin_ns=spin_ns)

    def _pull(self, address: Any, capacity: int, spin_ns: int, left_ns: int) -> int:
        """Wait for what the group has, while nothing else is to be done."""
        rows, event = self._rows, self._event
        size: int = lib.hu_channel_pull(
            self._unicast.handle, rows.select, address, capacity, spin_ns, left_ns, event
        )
        if event.what not in _STOPS:
            rows.happened(event)
        self._more = event.what != lib.HU_SELECT_MORE
        self._steady = not rows.down
        return size

    def _fill(self, out: memoryview) -> int:
        written = before = 0
        self._rows.hear()
        for _ in range(ROUNDS):
            before = written
            if not self._rows.pending:
                written += self._give(out[written : written + UNICAST_SHARE])
            if self._whole and self._error is None:
                self._tend()
                if written == 0 or len(out) - written >= WALK_MIN:
                    written += self._walk(out[written:])
            if written == len(out) or (written == before and not self._rows.down):
                break
        self._more = written == len(out) or written > before
        if self._rows.select is not None and self._error is None:
            self._hold(self._waits or not self._whole)
            self._steady = self._whole and not self._held and self._rows.steady
        else:
            self._steady = False
        return written

    def _hold(self, held: bool) -> None:
        """Have the group not wake a waiting thread, for nothing of it can be returned now."""
        if held != self._held:
            self._held = held
            lib.hu_channel_hold(self._unicast.handle, held)

    @property
    def _whole(self) -> bool:
        """Whether the client has whole frames, but for one of the group's."""
        return self._in.border and not self._rows.down

    def _give(self, out: memoryview) -> int:
        """Write what the client is told here, and then what comes by unicast."""
        written = 0
        if self._in.border and self._rows.down:
            written = min(len(out), len(self._rows.down))
            out[:written] = self._rows.down[:written]
            del self._rows.down[:written]
        while written < len(out) and (self._whole or not self._in.border):
            written += self._in.take(out[written:])
            if written == len(out) or not self._read():
                break
        return written

    def _read(self) -> bool:
        """Read from the session; False: nothing was there."""
        if self._ended or self._error is not None:
            return False
        try:
            size = self._unicast.receive_into(self._in.room())
        except WouldBlock:
            return False
        except ConnectionLost as error:
            self._error = str(error)
            return False
        self._in.filled(size)
        self._rows.hear()  # before anything of what they have begun is handed on
        self._ended = size == 0
        return size > 0

    def _walk(self, out: memoryview) -> int:
        """Write what the group has for the client."""
        written = 0
        rows, event = self._rows, self._event
        if rows.select is None or self._held:
            return 0
        handle = self._unicast.handle
        with ffi.from_buffer("uint8_t[]", out, require_writable=True) as place:
            while written < len(out) and not rows.down:
                size = len(out) - written
                written += lib.hu_channel_select(handle, rows.select, place + written, size, event)
                if event.what in _STOPS:
                    break
                rows.happened(event)
        return written

    # ---- the group ----

    def _tend(self) -> None:
        """Join or leave the group, take over what can be, and hold the group or let it go on."""
        rows = self._rows
        if not rows.wants_group:
            self._leave()
            return
        if self._sock is None and not self._join():
            return
        handle = self._unicast.handle
        if rows.select is None:
            state = lib.hu_channel_group(handle, self._beacon, self._entries)
            if state == lib.HU_GROUP_WAITING:
                return
            rows.begin(self._beacon, self._entries)
        self._waits = self._may_hold(rows.advance())
        self._hold(self._waits)

    def _may_hold(self, near: bool) -> bool:
        """Whether to hold the group, so that a subscription's unicast comes as far."""
        if not near:
            return False
        now = time.monotonic_ns()
        if not self._rows.taken:
            window = self._beacon.history
            return bool(lib.hu_channel_held(self._unicast.handle) < window // HELD_SHARE)
        if self._waits and now >= self._hold_since + HOLD_NS:
            self._rest_until = now + REST_NS
        if now < self._rest_until:
            return False
        if not self._waits:
            self._hold_since = now
        return True

    def _join(self) -> bool:
        handle = self._unicast.handle
        try:
            sock = joined(self._group, self._options)
        except OSError as error:
            self._error = f"cannot join the group {host_port(self._group.name)}: {error}"
            return False
        seed = int.from_bytes(os.urandom(7))
        if lib.hu_channel_join(handle, sock.fileno(), seed) < 0:
            sock.close()
            self._error = "no memory for a multicast group"
            return False
        self._sock = sock
        return True

    def _leave(self) -> None:
        if self._sock is not None:
            lib.hu_channel_leave(self._unicast.handle)
            self._sock.close()
            self._sock = None
            self._waits = self._held = self._steady = False
            self._rows.end()

    # ---- waiting and ending ----

    def wait(self, *, readable: bool, writable: bool, timeout_ns: int) -> bool:
        """Wait until one of what was asked for holds; False if ``timeout_ns`` passed first."""
        until = NEVER if timeout_ns < 0 else time.monotonic_ns() + timeout_ns
        while True:
            holding = False
            if self._lock.acquire(blocking=False):  # else somebody reads, and sees to it
                try:
                    if readable and self._has_input:
                        return True
                    holding = self._waits and self._rows.taken > 0
                finally:
                    self._lock.release()
            left = max(0, until - time.monotonic_ns())
            wait = min(left, HOLD_NS) if holding else left
            if self._unicast.wait(readable=readable, writable=writable, timeout_ns=wait):
                return True
            if holding:
                with self._lock:
                    if self._whole:
                        self._tend()
            if not left:
                return False

    @property
    def _has_input(self) -> bool:
        """Whether reading brings something, whatever arrives."""
        owes = self._rows.owes and self._in.border
        return bool(self._more or owes or self._error or self._ended)

    def counters(self) -> dict[str, int]:
        """The session's and the group's."""
        handle = self._unicast.handle
        group, receiver = ffi.new("hu_group_counters *"), ffi.new("hu_receiver_counters *")
        lib.hu_channel_count_group(handle, group, receiver)
        return {
            **self._unicast.counters(),
            **fields(group, GROUP, "group_"),
            **fields(receiver, RECEIVER, "group_in_"),
            "group_subscriptions": self._rows.taken,
        }

    def close(self) -> None:
        """Leave the group and end the session, as :meth:`UdpChannel.close` does."""
        if self._pid == os.getpid():
            with contextlib.suppress(ConnectionLost):
                self._leave()
        elif self._sock is not None:  # a child has no say in its parent's
            self._sock.close()
        self._unicast.close()

    def __del__(self) -> None:
        self.close()
