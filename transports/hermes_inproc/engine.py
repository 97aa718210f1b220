"""Both ends of ``inproc://name``: socket pairs, handed over through a table of this process's
listeners.

A pair of connected sockets, not queues of objects: the bytes, the back-pressure and the code on
both sides are those of every other stream socket, so what works here works over TCP.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections import deque
from typing import Annotated, Any

import msgspec

from hermes.base.forks import close_in_children, end_socket
from hermes.base.platform import EventDescriptor
from hermes.errors import AddressInUse, ConnectFailed, InvalidUrl
from hermes.net.sockets import SocketAgent, SocketChannel, no_room
from hermes.spi.transport import API_VERSION, Agent, Capabilities, Channel, Kernel, Peer
from hermes.spi.url import Url, refuse_user

PENDING_MAX = 1024
"""Connections that wait to be accepted, as a TCP listener's backlog."""


class ListenOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a listener's URL."""

    connections: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Connections served at a time; further ones are closed at once."""


class DialOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client's URL has no options."""


class Names:
    """Listeners by name: any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._doors: dict[str, Door] = {}
        self._numbers = itertools.count(1)
        self._pid = os.getpid()

    def open(self, name: str) -> Door:
        """Take ``name``, or one of our choice if it is empty.

        Raises AddressInUse, or SystemFault if there is no descriptor left.
        """
        with self._lock:
            if self._pid != os.getpid():  # a forked child starts without its parent's listeners
                self._doors.clear()
                self._pid = os.getpid()
            while not name:
                number = str(next(self._numbers))
                name = "" if number in self._doors else number
            if name in self._doors:
                raise AddressInUse(
                    f"inproc://{name}: another broker of this process listens under this name: "
                    "choose another"
                )
            try:
                door = self._doors[name] = Door(name, self)
            except OSError as error:
                raise no_room(f"inproc://{name}", error) from error
            return door

    def close(self, door: Door) -> None:
        """Give the name back."""
        with self._lock:
            if self._doors.get(door.name) is door:
                del self._doors[door.name]

    def knock(self, name: str) -> socket.socket:
        """A connected socket whose other end waits to be accepted.  Raises ConnectFailed."""
        with self._lock:
            door = self._doors.get(name) if self._pid == os.getpid() else None
            if door is not None:
                return door.enter()
            has = ", ".join(sorted(self._doors)) or "none"
        raise ConnectFailed(
            f"nobody listens at inproc://{name} in this process (names in use: {has}): "
            f"start hermes.Broker(listeners=['inproc://{name}']) first"
        )


class Door:
    """One name's waiting peers; has the shape of a listening socket."""

    def __init__(self, name: str, names: Names) -> None:
        self.name = name
        self._names = names
        self._lock = threading.Lock()
        self._waiting: deque[socket.socket] = deque()
        self._event = EventDescriptor()
        self._closed = False
        close_in_children(self)

    def fileno(self) -> int:
        """Readable while somebody waits."""
        return self._event.fileno()

    def enter(self) -> socket.socket:
        """Make a pair, queue one end for the broker and return the other."""
        with self._lock:
            if self._closed or len(self._waiting) >= PENDING_MAX:
                raise ConnectFailed(
                    f"inproc://{self.name} takes no connections now: its broker is stopping or "
                    "stuck"
                )
            try:
                ours, theirs = socket.socketpair()
            except OSError as error:
                raise ConnectFailed(str(no_room(f"inproc://{self.name}", error))) from error
            self._waiting.append(theirs)
            self._event.set()
            return ours

    def accept(self) -> tuple[socket.socket, Any]:
        """The next peer; BlockingIOError if nobody waits."""
        with self._lock:
            if not self._waiting:
                self._event.clear()
                raise BlockingIOError
            return self._waiting.popleft(), "inproc"

    def close(self) -> None:
        """Give the name back and turn away who waits."""
        self._names.close(self)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._event.close()
            while self._waiting:
                end_socket(self._waiting.popleft())

    def abandon(self) -> list[int]:
        """The sockets that wait, and the event."""
        return [*(sock.fileno() for sock in self._waiting), *self._event.descriptors()]


NAMES = Names()
"""The one table of this process: what makes a name mean the same to everybody in it."""


class InprocTransport:
    """See :class:`hermes.spi.transport.Transport` for the contract."""

    capabilities = Capabilities(processes=False, peer_credentials=True, native_fd=True)
    api_version = API_VERSION
    listen_options = ListenOptions
    dial_options = DialOptions

    def __init__(self, names: Names = NAMES) -> None:
        self._names = names

    def probe(self) -> str | None:
        """None: every system has pairs of sockets."""
        return None

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        """Take the URL's name, or ``0``-like names of our choice if it has none."""
        options = url.options(ListenOptions)
        _check(url)
        refuse_user(url)
        door = self._names.open("" if url.host == "0" else url.host)
        return SocketAgent(
            door,
            url=f"inproc://{door.name}",
            kernel=kernel,
            describe=lambda sock, address: Peer(
                transport="inproc", address=f"pid {os.getpid()}", local=True
            ),
            connections_max=options.connections,
        )

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        """Connect to the broker of this process that has the URL's name."""
        url.options(DialOptions)
        _check(url)
        return SocketChannel(self._names.knock(url.host))


def _check(url: Url) -> None:
    if url.path or url.port is not None:
        raise InvalidUrl(f"{url}: expected inproc://name, without port or path")
