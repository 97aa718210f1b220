"""A client's end of a session: a thin handle over ``hu_channel.h``, which is the contract.

Knows no protocol; the native side does all that happens per datagram.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
from collections.abc import Sequence
from typing import Any

from hermes.errors import ConnectFailed, ConnectionLost, WouldBlock
from hermes.intercept import Interception
from hermes.native.envelopes import address_of
from hermes.native.outbox import EMPTY, SYSTEM
from hermes.url import Url
from hermes_udp import options as _options
from hermes_udp.native import ENDPOINT, REASONS, Counts, ffi, fields, lib
from hermes_udp.options import DialOptions
from hermes_udp.tap import Tap, TapThread

SALT = 2
"""Tells the faults of what clients send from those of what listeners send."""
NS_PER_MS = 1_000_000


class UdpChannel:
    """See :class:`hermes.transport.Channel` and :class:`hermes.transport.NativeChannel`."""

    def __init__(self, handle: Any, sock: socket.socket, tap: TapThread | None, peer: str) -> None:
        self._handle = handle
        self._sock = sock
        self._tap = tap
        self._peer = peer
        self._error = ffi.new("int *")
        self.medium = int(lib.hu_channel_medium(handle))
        """Where its ``struct hm_medium`` stands, for native code."""

    @property
    def stream_fd(self) -> int | None:
        """None: what moves here are datagrams."""
        return None

    def send(self, views: Sequence[memoryview | bytes]) -> int:
        """Take some of the bytes: how many, 0 if there is no room now."""
        taken = 0
        for view in views:
            size = len(view)
            count = int(lib.hu_channel_send(self._live(), address_of(view), size)) if size else 0
            if count < 0:
                raise self._lost("sending")
            taken += count
            if count < size:
                break
        return taken

    def receive_into(self, buffer: memoryview) -> int:
        """Fill ``buffer``: how many bytes, 0 at the end of input."""
        handle = self._live()
        place = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        count = int(lib.hu_channel_receive(handle, place, len(place), 0, 0, self._error))
        if count == EMPTY:
            raise WouldBlock("nothing has arrived")
        if count == SYSTEM:
            raise self._lost("receiving")
        return count

    def wait(self, *, readable: bool, writable: bool, timeout_ns: int) -> bool:
        """Wait until one of what was asked for holds; False if ``timeout_ns`` passed first."""
        return bool(lib.hu_channel_wait(self._live(), readable, writable, timeout_ns))

    def counters(self) -> dict[str, int]:
        """The session's, the socket's and the interceptor's."""
        counts = Counts()
        handle = self._live()
        lib.hu_channel_count(
            handle, counts.endpoint, counts.session, counts.sender, counts.receiver
        )
        found = {**fields(counts.endpoint, ENDPOINT), **counts.last()}
        found["rtt_us"] = lib.hu_channel_srtt(handle) // 1000
        found["datagram_bytes"] = lib.hu_channel_datagram(handle)
        return found

    def close(self) -> None:
        """End the session; what was sent and has not arrived is still repeated for a while."""
        handle, self._handle = self._handle, None
        if handle is not None:
            LINGERING.add(handle, self._sock, self._tap)

    def __del__(self) -> None:
        self.close()

    def _live(self) -> Any:
        if self._handle is None:
            raise ConnectionLost(f"the session with {self._peer} was closed here")
        return self._handle

    def _lost(self, doing: str) -> ConnectionLost:
        reason = REASONS.get(lib.hu_channel_reason(self._live()), "it was closed here")
        return ConnectionLost(f"the session with {self._peer} broke while {doing}: {reason}")


class Lingering:
    """Channels that are closed and still have something under way."""

    def __init__(self) -> None:
        self._closing: list[tuple[int, Any, socket.socket, TapThread | None]] = []
        self._pid = os.getpid()
        atexit.register(self.wait)

    def add(self, handle: Any, sock: socket.socket, tap: TapThread | None) -> None:
        """Close a channel."""
        if self._pid != os.getpid():  # a forked child has neither its threads nor a say in it
            return
        self.reap()
        done_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        lib.hu_channel_close(handle, done_fd)
        self._closing.append((done_fd, handle, sock, tap))
        self.reap()

    def reap(self, timeout_ms: int = 0) -> None:
        """Free those that are done."""
        for entry in list(self._closing):
            done_fd, handle, sock, tap = entry
            poller = select.poll()
            poller.register(done_fd, select.POLLIN)
            if poller.poll(timeout_ms):
                self._closing.remove(entry)
                lib.hu_channel_free(handle)
                if tap is not None:
                    tap.close()
                sock.close()
                os.close(done_fd)

    def wait(self) -> None:
        """Before the process ends: for all of them, within the time they linger."""
        if self._pid == os.getpid():
            self.reap(2 * lib.HU_LINGER // NS_PER_MS)


LINGERING = Lingering()
"""The one list of this process: who closes a channel does not wait for it."""


def dial(url: Url, options: DialOptions, timeout_ns: int) -> UdpChannel:
    """Set up a session with the first address of ``url`` that answers.

    Raises:
        InvalidUrl: the URL makes no sense.
        ConnectFailed: nobody answered, in time or at all.
    """
    spec = options.check(url)
    LINGERING.reap()
    problem = "no address to try"
    for family, address in _options.addresses(url, passive=False):
        try:
            sock = _options.connected(family, address, options)
        except OSError as error:
            problem = f"cannot be reached: {error}"
            continue
        found = _set_up(sock, address, options, spec, timeout_ns)
        if isinstance(found, UdpChannel):
            return found
        sock.close()
        problem = found
    raise ConnectFailed(f"{url}: {problem}")


def _set_up(
    sock: socket.socket,
    address: Any,
    options: DialOptions,
    spec: Interception | None,
    timeout_ns: int,
) -> UdpChannel | str:
    tap = None if spec is None else Tap(sock, spec, seed_salt=SALT)
    thread = None if tap is None else TapThread(tap)
    native = _options.native_options(
        sock, options, tap_fd=-1 if tap is None else tap.fd, listens=False, sessions=1
    )
    sizes = _options.sizes(options, address)
    native.datagram = sizes[0]
    handle = ffi.new("hu_channel **")
    status = lib.hu_channel_open(native, sizes, len(sizes), timeout_ns, handle)
    if status == 0:
        return UdpChannel(handle[0], sock, thread, _options.host_port(address))
    if thread is not None:
        thread.close()
    if status == lib.HU_DIAL_TIMEOUT:
        return (
            "did not answer in time: check that a broker listens there with udp, and that no "
            "firewall stands between"
        )
    if status == lib.HU_GONE:
        return "nobody listens there: start a broker (`hermes serve`), or check host and port"
    if status == lib.HU_REFUSED:
        return "the broker has as many sessions as it may, or is stopping"
    return "no memory or threads for a session"
