"""The door for Hermes clients: the wire protocol's bytes in messages between ROUTER and DEALER.

A message of one part carries bytes; an empty one is its sender's last.  The first message of a
client has two parts, an empty one and a name: so the broker knows of a client before it has anything to
say.  ROUTER tells nobody that a peer is gone: the socket's monitor does, by the descriptor that the
peer's messages came from.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from typing import Any

import zmq

from hermes.errors import ConnectionLost, Refused
from hermes.net.tcp import NS_PER_S, unanswered
from hermes.spi.transport import Connection, Peer
from hermes_zmq.doors import Door, House
from hermes_zmq.options import DoorPlace
from hermes_zmq.sockets import PATH_BOUND_S, Socket, events

CHUNK = 256 * 1024
"""Bytes of a message that we make."""
CHUNKS_MAX = 16
"""Messages that may wait for each peer and direction: 4 MiB."""
READS_PER_PASS = 32
"""Messages received in one poll, so that the other doors have their turn."""
WRITES_PER_PASS = 8
"""Messages sent to one client in one poll."""
HELD_MAX = 64
"""Messages kept for connections that want no input now; with more, nobody's are received until
they do."""
LOOKS = 3
"""Times a pass looks for input and room in turn."""
BLOCKED_NS = 100_000_000
"""How late a client's room may be noticed in the rare case that its event was missed."""
END = b""
"""The last message of its sender."""
GREETING = (b"", b"hermes")
"""The first message of a client."""
PARTS_MAX = 16
"""Parts of a message: our clients make two at most. A peer that makes more than this is hung up on: libzmq
bounds a part, but not how many a message has."""


class Link:
    """One client."""

    __slots__ = (
        "address",
        "connection",
        "door",
        "ended",
        "fd",
        "held",
        "identity",
        "over",
        "said_end",
    )

    def __init__(self, door: RouterDoor, identity: bytes, fd: int) -> None:
        self.door = door
        self.identity = identity
        self.fd = fd
        self.connection: Connection | None = None
        self.address = "?"
        self.held: deque[bytes] = deque()  # came while the connection was paused
        self.ended = False  # the client has sent its last
        self.said_end = False  # so have we
        self.over = False  # the connection was told that its medium is gone

    def ready(self) -> RouterDoor:
        """The connection may have output; returns the door to poll."""
        self.door.owe(self)
        return self.door


class RouterDoor(Door):
    """Serves every Hermes client of one ROUTER socket."""

    def __init__(self, house: House, place: DoorPlace, router: Socket, address: str) -> None:
        super().__init__(house, place, router, address)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # full is an answer, not a reason to drop
        self.counts = dict.fromkeys(
            (
                "accepted",
                "refused",
                "crowded",
                "dead_paths",
                "stalls",
                "lost_peers",
                "refused_peers",
            ),
            0,
        )
        self._links: dict[bytes, Link] = {}
        self._by_fd: dict[int, Link] = {}
        self._owed: dict[Link, None] = {}  # may have output; in order
        self._blocked: dict[Link, None] = {}  # their sockets were full
        self._gone: list[Link] = []  # disconnected, but what they sent may not have been read
        self._held = 0

    @property
    def connections(self) -> int:
        """Clients served now."""
        return sum(not link.over for link in self._links.values())

    def owe(self, link: Link) -> None:
        """``link`` may have output."""
        if link not in self._blocked:
            self._owed[link] = None

    def poll(self) -> int:
        """Read, then write what has become possible."""
        work = 0
        if self.awake:
            events(self.socket)
            self._owed |= self._blocked
            self._blocked.clear()
            work += self._read()
        if self._owed:
            owed, self._owed = self._owed, {}
            for link in owed:
                work += self._write_guarded(link)
            self._look_around()
        if self._held:
            work += self._feed_held()
        # What took the descriptor's news has to look itself, and what had its share comes again.
        return work + int(self.awake or bool(self._owed))

    def peer_lost(self, fd: int) -> None:
        """A connection is gone: once everything it sent has been read, so is its link."""
        link = self._by_fd.pop(fd, None)
        if link is not None:
            self._gone.append(link)
            self.awake = True

    def watch_paths(self) -> None:
        """Hang up on clients whose machines have answered nothing for long: libzmq would go on for as
        long as the system tries, and its own heartbeats would end clients that do not read."""
        for link in list(self._links.values()):
            if link.fd >= 0 and not link.over and _unanswered(link.fd):
                self.counts["dead_paths"] += 1

    def close(self) -> None:
        """Close every connection, then the socket."""
        for link in list(self._links.values()):
            self._lose(link, None)
        super().close()

    def timer(self, now_ns: int) -> None:
        """See to blocked clients once more."""
        self.due_ns = 0
        self.awake = True

    def _look_around(self) -> None:
        """A send takes the event of input from the descriptor, asking for input takes that of room: do
        both until neither has any.

        A send looks at events only now and then, so the last one has hardly taken any; should it
        have, the timer makes good for it.
        """
        for _ in range(LOOKS):
            if events(self.socket) & zmq.POLLIN:
                self.awake = True
            if not self._blocked:
                return
            blocked, self._blocked = self._blocked, {}
            for link in blocked:
                self._write_guarded(link)
        if self._blocked and not self.due_ns:
            self.due_ns = time.monotonic_ns() + BLOCKED_NS

    # Reading.

    def _read(self) -> int:
        gone, self._gone = self._gone, []
        count = 0
        for _ in range(READS_PER_PASS):
            if self._held >= HELD_MAX:
                self.awake = False
                self._gone[:0] = gone
                return count
            try:
                identity, *parts = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                if events(self.socket) & zmq.POLLIN:
                    continue
                self.awake = False
                break
            count += 1
            link = self._links.get(identity.bytes)
            try:
                link = link or self._admit(identity.bytes, parts)
                self._take(link, parts)
            except Exception as error:
                self._fault(link, error)
        if self.awake:
            self._gone[:0] = gone  # not all has been read
            return count + 1
        for link in gone:
            try:
                self._lose(link, ConnectionLost("the peer is gone"))
            except Exception as error:
                self._fault(link, error)
        return count + len(gone)

    def _take(self, link: Link, parts: list[zmq.Frame]) -> None:
        """One message of a client."""
        if len(parts) > PARTS_MAX:
            self._crowded(link, len(parts))
        elif len(parts) != len(GREETING) or len(parts[0].buffer):
            for part in parts:
                self._received(link, part)

    def _fault(self, link: Link | None, error: Exception) -> None:
        """An unexpected error in serving one client ends that client."""
        address = "a client" if link is None else f"the client {link.address}"
        self.house.faults.caught(f"{self.name}: serving {address}", error)
        if link is None:
            return
        try:
            self._say_end(link)
            self._lose(link, error)
        except Exception as again:
            self.house.faults.caught(f"{self.name}: ending {address}", again)
            link.over = True

    def _admit(self, identity: bytes, parts: list[zmq.Frame]) -> Link:
        self.watch_peers()  # or an earlier peer's end would be taken for this one's
        frame = parts[0] if parts else None
        link = Link(self, identity, _descriptor(frame))
        before = self._by_fd.get(link.fd)
        if before is not None:
            self._gone.append(before)
        self._links[identity] = link
        if link.fd >= 0:
            self._by_fd[link.fd] = link
        try:
            if self.connections > self.house.options.connections or self.stopping:
                raise Refused("the listener has as many connections as it may", code="limit")
            if link.fd < 0:
                raise Refused("libzmq does not say which connection this is", code="limit")
            peer = _peer(self, frame)
            link.address = peer.address
            link.connection = self.house.kernel.connect(self.house.owner, peer)
            link.connection.attachment = link
            self.counts["accepted"] += 1
        except Refused:
            self.counts["refused"] += 1
            link.over = True
            self._say_end(link)
        return link

    def _crowded(self, link: Link, parts: int) -> None:
        """Hang up on who does not speak as a Hermes client does."""
        if not link.over:
            self.counts["crowded"] += 1
            self._say_end(link)
            self._lose(link, None)
            self.say("a client was hung up on: a message of more than %d parts", PARTS_MAX)

    def _received(self, link: Link, part: Any) -> None:
        if link.over or link.ended or link.connection is None:
            return
        data = part.buffer
        if link.held or link.connection.paused:
            link.held.append(bytes(data))
            self._held += 1
        else:
            self._feed(link, data)

    def _feed(self, link: Link, data: Any) -> None:
        assert link.connection is not None
        if len(data):
            link.connection.data_received(memoryview(data))
        else:
            link.ended = True
            link.connection.eof_received()

    def _feed_held(self) -> int:
        """Deliver what was kept for connections that want input again; returns an amount of work."""
        work = 0
        for link in list(self._links.values()):
            connection = link.connection
            try:
                while link.held and connection is not None and not connection.paused:
                    self._held -= 1
                    self._feed(link, link.held.popleft())
                    work += 1
            except Exception as error:
                self._fault(link, error)
        if self._held < HELD_MAX and work:
            self.awake = True
        return work

    # Writing.

    def _write_guarded(self, link: Link) -> int:
        try:
            return self._write(link)
        except Exception as error:
            self._fault(link, error)
            return 1

    def _write(self, link: Link) -> int:
        connection = link.connection
        if link.over or connection is None:
            return 0
        for count in range(WRITES_PER_PASS):
            views = connection.output(CHUNK)
            if not views:
                if connection.closing:
                    self._say_end(link)
                    self._lose(link, None)
                return count
            chunk, size = _chunk(views)
            if not self._send(link, chunk):
                return count
            connection.advance(size)
            connection.release(size)
        self._owed[link] = None
        return WRITES_PER_PASS

    def _send(self, link: Link, chunk: bytes) -> bool:
        try:
            self.socket.send_multipart((link.identity, chunk), zmq.DONTWAIT, copy=True)
        except zmq.Again:
            self.counts["stalls"] += 1
            self._blocked[link] = None
            return False
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._lose(link, ConnectionLost("the peer is gone"))
            return False
        return True

    def _say_end(self, link: Link) -> None:
        if not link.said_end:
            link.said_end = True
            self._send(link, END)

    def _lose(self, link: Link, error: Exception | None) -> None:
        """End the link; it is forgotten once its peer is gone, so that it does not come back."""
        if not link.over:
            link.over = True
            if link.connection is not None:
                link.connection.connection_lost(error)
        self._held -= len(link.held)
        link.held.clear()
        self._blocked.pop(link, None)
        if error is not None and self._links.get(link.identity) is link:
            del self._links[link.identity]
            if self._by_fd.get(link.fd) is link:
                del self._by_fd[link.fd]


def _chunk(views: Any) -> tuple[bytes, int]:
    """About :data:`CHUNK` bytes of ``views`` in one piece, and how many."""
    taken, size = [], 0
    for view in views:
        part = view[: CHUNK - size]
        taken.append(part)
        size += len(part)
        if size >= CHUNK:
            break
    return b"".join(taken), size


def _descriptor(frame: zmq.Frame | None) -> int:
    """The descriptor that a message came from; -1: libzmq does not say."""
    try:
        return -1 if frame is None else int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _unanswered(fd: int) -> bool:
    """Whether the peer of a socket of libzmq's has answered nothing for long; if so, its end is left
    to libzmq, which meets it at once."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:  # gone meanwhile
        return False
    try:
        found = unanswered(sock, PATH_BOUND_S * NS_PER_S)
        if found:
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    finally:
        sock.detach()
    return found


def _peer(door: RouterDoor, frame: zmq.Frame | None) -> Peer:
    address, user = "?", None
    if frame is not None:
        address = _property(frame, "Peer-Address") or "?"
        if door.house.options.curve:  # without keys this is what the peer says of itself
            user = _property(frame, "User-Id") or None
    local = door.house.scheme == "zmq+ipc"
    return Peer(door.house.scheme, address, local, user)


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        found = frame.get(name)
    except zmq.ZMQError:
        return ""
    return str(found)
