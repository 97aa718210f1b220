"""A client's end of a session: a thin handle over ``hu_channel.h``, which is the contract.

Knows no protocol; the native side does all that happens per datagram.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from hermes.base.closing import AtExit, at_exit
from hermes.errors import ConnectFailed, ConnectionLost, WouldBlock
from hermes.native.envelopes import address_of
from hermes.native.outbox import EMPTY, SYSTEM
from hermes.net.addresses import addresses, host_port
from hermes.net.interception import Interception
from hermes.spi.url import Url
from hermes_udp import options as _options
from hermes_udp.native import ENDPOINT, REASONS, Counts, ffi, fields, lib
from hermes_udp.options import DialOptions
from hermes_udp.tap import Tap, TapThread

SALT = 2
"""Tells the faults of what clients send from those of what listeners send."""
NS_PER_MS = 1_000_000
PATIENCE_MS = 2 * lib.HU_LINGER // NS_PER_MS
"""How long one that was closed is waited for: it takes no longer."""
STEP_NS = 100 * NS_PER_MS
"""How long a dial keeps Python out at a time."""
PROBLEMS: dict[int, str] = {
    lib.HU_DIAL_TIMEOUT: "did not answer in time: check that a broker listens there with udp, and "
    "that no firewall stands between",
    lib.HU_GONE: "nobody listens there: start a broker (`hermes serve`), or check host and port",
    lib.HU_REFUSED: "the broker has as many sessions as it may, or is stopping",
}
"""Why there is no session, by number."""


class UdpChannel:
    """See :class:`hermes.spi.transport.Channel` and :class:`hermes.spi.transport.NativeChannel`."""

    _handle: Any = None
    """Until there is one: an interruption may come before."""
    _pid = 0

    def __init__(self, handle: Any, closing: Closing, peer: str) -> None:
        # Freed with the last reference: a thread may be about to call with it while another closes.
        self._pid = os.getpid()
        self._closing = closing
        self._handle = ffi.gc(handle, lib.hu_channel_free)
        self._peer = peer
        self._error = ffi.new("int *")
        self._outward: Any = None
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
        with ffi.from_buffer("uint8_t[]", buffer, require_writable=True) as place:
            count = int(lib.hu_channel_receive(handle, place, len(place), 0, 0, self._error))
        if count == EMPTY:
            raise WouldBlock("nothing has arrived")
        if count == SYSTEM:
            raise self._lost("receiving")
        return count

    def wait(self, *, readable: bool, writable: bool, timeout_ns: int, spin_ns: int = 0) -> bool:
        """Wait until one of what was asked for holds, ``spin_ns`` of it awake; False if
        ``timeout_ns`` passed first."""
        return bool(lib.hu_channel_wait(self._live(), readable, writable, spin_ns, timeout_ns))

    @property
    def watch_fd(self) -> int:
        """See :class:`hermes.spi.transport.WatchedChannel`."""
        found = int(lib.hu_channel_watch(self._live()))
        if found < 0:
            raise ConnectionLost(f"no descriptors to watch the session with {self._peer}")
        return found

    def send_through(self, outward: Any) -> None:
        """Have all that is sent pass a ``hu_outward`` of the caller's until :meth:`close`."""
        self._outward = outward
        lib.hu_channel_filter(self._live(), outward)

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
        if handle is not None and self._pid == os.getpid():  # a child has no say in its parent's
            LINGERING.add(handle, self._closing)

    def __del__(self) -> None:
        self.close()

    @property
    def handle(self) -> Any:
        """The native channel.

        Raises:
            ConnectionLost: it was closed.
        """
        return self._live()

    def _live(self) -> Any:
        if self._handle is None:
            raise ConnectionLost(f"the session with {self._peer} was closed here")
        return self._handle

    def _lost(self, doing: str) -> ConnectionLost:
        reason = REASONS.get(lib.hu_channel_reason(self._live()), "it was closed here")
        return ConnectionLost(f"the session with {self._peer} broke while {doing}: {reason}")


class Closing:
    """Resources that a channel releases when it closes; made before, so that closing needs nothing."""

    def __init__(self, sock: socket.socket, spec: Interception | None) -> None:
        """Takes over ``sock``, if it does not raise OSError: no descriptors are left."""
        self.sock = sock
        self.tap: TapThread | None = None
        with contextlib.ExitStack() as undo:
            self.done_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            undo.callback(os.close, self.done_fd)
            if spec is not None:
                self.tap = TapThread(Tap(sock, spec, seed_salt=SALT))
            undo.pop_all()

    @property
    def tap_fd(self) -> int:
        """Descriptor that the engine writes to instead of the socket; -1: it writes to the socket."""
        return -1 if self.tap is None else self.tap.fd

    def close(self) -> None:
        """Nobody uses any of it any more."""
        if self.tap is not None:
            self.tap.close()
        self.sock.close()
        os.close(self.done_fd)


class Lingering:
    """Channels that are closed and still have something under way.

    A thread sees them off, which is there only while there are any.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Any, Closing]] = []
        self._inherited: list[tuple[Any, Closing]] = []
        self._tended = threading.Lock()  # the thread holds it, or whoever is about to start it
        self._ending = False  # the program: there is no time for a thread any more
        at_exit(AtExit.CHANNELS, self.wait)
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def add(self, handle: Any, closing: Closing) -> None:
        """Close a channel."""
        lib.hu_channel_close(handle, closing.done_fd)
        self._entries.append((handle, closing))
        if self._ending:
            return  # ends with the process
        if self._tended.acquire(blocking=False):
            try:
                threading.Thread(target=self._tend, name="hermes-udp-closing", daemon=True).start()
            except RuntimeError:  # no room for a thread: who closes or dials next does it
                self._tended.release()
                self.reap()

    def reap(self, timeout_ms: int = 0) -> None:
        """Free those that are done, or are within ``timeout_ms`` altogether."""
        deadline = time.monotonic_ns() + timeout_ms * NS_PER_MS
        for entry in list(self._entries):
            closing = entry[1]
            poller = select.poll()
            poller.register(closing.done_fd, select.POLLIN)
            left = max(0, deadline - time.monotonic_ns())
            if poller.poll(-(-left // NS_PER_MS)) and self._claim(entry):
                closing.close()

    def wait(self) -> None:
        """Before the process ends: for all of them, within the time they linger."""
        self._ending = True
        self.reap(PATIENCE_MS)

    def _tend(self) -> None:
        while True:
            while self._entries:
                self.reap(PATIENCE_MS)
            self._tended.release()
            if not (self._entries and self._tended.acquire(blocking=False)):
                return

    def _claim(self, entry: tuple[Any, Closing]) -> bool:
        """True for one of all the threads that want to free it."""
        try:
            self._entries.remove(entry)
        except ValueError:
            return False
        return True

    def _leave_to_parent(self) -> None:
        """A forked child has neither the threads of these channels nor a say in them."""
        self._inherited += self._entries
        self._entries = []
        self._tended = threading.Lock()


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
    deadline = None if timeout_ns < 0 else time.monotonic_ns() + timeout_ns
    for family, address in addresses(url, passive=False):
        try:
            sock = _options.connected(family, address, options)
        except OSError as error:
            problem = f"cannot be reached: {error}"
            continue
        left = -1 if deadline is None else max(0, deadline - time.monotonic_ns())
        found = set_up(sock, address, options, spec, left)
        if isinstance(found, UdpChannel):
            return found
        problem = found
    raise ConnectFailed(f"{url}: {problem}")


def set_up(
    sock: socket.socket,
    address: Any,
    options: DialOptions,
    spec: Interception | None,
    timeout_ns: int,
) -> UdpChannel | str:
    """Takes over ``sock``; a text says why there is no session."""
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        try:
            closing = Closing(sock, spec)
        except OSError as error:
            return f"no descriptors for a session: {error}"
        handle = ffi.new("hu_channel **")
        undo.callback(_give_up, handle, closing)
        native = _options.native_options(
            sock, options, tap_fd=closing.tap_fd, listens=False, sessions=1
        )
        sizes = _options.sizes(options, address)
        native.datagram = sizes[0]
        status = _open(native, sizes, timeout_ns, handle)
        if status == 0:
            undo.pop_all()
            return UdpChannel(handle[0], closing, host_port(address))
    return PROBLEMS.get(status, "no memory, descriptors or threads for a session")


def _give_up(handle: Any, closing: Closing) -> None:
    if handle[0] == ffi.NULL:
        closing.close()
    else:  # an interruption came when it was open already
        LINGERING.add(ffi.gc(handle[0], lib.hu_channel_free), closing)


def _open(native: Any, sizes: list[int], timeout_ns: int, handle: Any) -> int:
    """Fills in ``handle``; what the native side says.

    In steps, so that an interruption is heard of soon: the dial is given up then.
    """
    made = lib.hu_dial_new(native, sizes, len(sizes), timeout_ns)
    if made == ffi.NULL:
        return int(lib.HU_DIAL_MEMORY)
    try:
        status = lib.HU_DIAL_GOING
        while status == lib.HU_DIAL_GOING:
            status = lib.hu_dial_step(made, STEP_NS)
        return int(status or lib.hu_channel_open(made, handle))
    finally:
        lib.hu_dial_free(made)
