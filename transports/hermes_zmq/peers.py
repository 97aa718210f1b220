"""The peers of one socket: how many have finished ZeroMQ's handshake, and which of them reads nothing.

libzmq's monitor tells of connections by their descriptor, of finished handshakes without one, so a
disconnected peer that is younger than a handshake may take is counted by what is certain: see
:meth:`Peers.disconnected`.  Descriptors belong to libzmq: one is only used after its inode was compared.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from hermes.base.platform import tcp_state, unsent_bytes
from hermes.net.addresses import host_port
from hermes_zmq.sockets import HANDSHAKE_MS

SETTLED_NS = HANDSHAKE_MS * 1_000_000 + 500_000_000
"""Age at which a connection that is there must have finished its handshake: libzmq would have closed
it."""
DEAD_NS = 10_000_000_000
"""Time without any acknowledgement from a machine, while bytes wait for one, after which it is taken
for gone."""
DEAD_RETRANSMITS = 3
"""Unanswered retransmissions or window probes that this takes as well."""


@dataclass(slots=True)
class _Peer:
    inode: int
    since_ns: int
    waiting: tuple[int, int] = (0, 0)
    """Bytes that the system holds for it, and bytes that it has acknowledged, when last looked at."""
    still_ns: int = 0
    """Since when neither has changed while bytes were waiting; 0: it reads."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A peer that bytes wait for and that takes none."""

    fd: int
    address: str
    still_ns: int
    """Since when, on the monotonic clock."""
    dead: bool
    """Its machine acknowledges nothing: it is gone, or unreachable."""


class Peers:
    """Accounts for the connections of one socket."""

    def __init__(self) -> None:
        self._young: dict[int, _Peer] = {}  # may not have finished the handshake
        self._settled: dict[int, _Peer] = {}
        self._finished = 0  # handshakes that were finished by some of the young

    def __len__(self) -> int:
        """Peers that have finished the handshake."""
        return len(self._settled) + min(self._finished, len(self._young))

    def accepted(self, fd: int, now_ns: int) -> None:
        """The system has given us a connection."""
        self._settled.pop(fd, None)
        try:
            inode = os.fstat(fd).st_ino
        except OSError:
            inode = 0  # closed since
        self._young[fd] = _Peer(inode, now_ns)

    def finished(self) -> None:
        """A peer has finished the handshake; the monitor does not say which."""
        self._finished = min(self._finished + 1, len(self._young))

    def disconnected(self, fd: int, now_ns: int) -> bool:
        """A connection is gone; returns whether it had finished the handshake.

        Exact unless peers that have and peers that have not were there at the same time, for less
        than a handshake may take; the number of peers is right again when the last of them is gone.
        """
        self._settle(now_ns)
        if self._settled.pop(fd, None) is not None:
            return True
        if self._young.pop(fd, None) is None:
            return False
        had = self._finished > len(self._young)  # all of the young had
        self._finished -= had
        return had

    def _settle(self, now_ns: int) -> None:
        """The young that are old enough have finished the handshake."""
        while self._young:
            fd, peer = next(iter(self._young.items()))  # the oldest
            if now_ns - peer.since_ns < SETTLED_NS:
                return
            self._settled[fd] = self._young.pop(fd)
            self._finished = max(0, self._finished - 1)

    def holders(self, now_ns: int) -> list[Holder]:
        """The peers that bytes wait for and that have taken none since the last call or longer."""
        found = []
        for fd, peer in [*self._settled.items(), *self._young.items()]:
            with _opened(fd, peer.inode) as sock:
                if sock is None:
                    continue
                queued, acked, dead = _look(sock)
                if not queued or (queued, acked) != peer.waiting:
                    peer.waiting, peer.still_ns = (queued, acked), now_ns if queued else 0
                    continue
                found.append(Holder(fd, _address(sock), peer.still_ns, dead))
        return found

    def look_away(self) -> None:
        """Nothing is held any more: a later look begins from nothing."""
        for peer in (*self._settled.values(), *self._young.values()):
            peer.waiting, peer.still_ns = (0, 0), 0

    def let_go(self, fd: int) -> None:
        """End a connection: libzmq finds it closed, and drops what waited for it."""
        peer = self._settled.get(fd) or self._young.get(fd)
        if peer is not None:
            with _opened(fd, peer.inode) as sock, contextlib.suppress(OSError):
                if sock is not None:
                    sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _opened(fd: int, inode: int) -> Iterator[socket.socket | None]:
    """The socket behind ``fd`` under a descriptor of our own; None: it is another one by now."""
    try:
        ours = os.dup(fd)
    except OSError:
        yield None
        return
    try:
        same = os.fstat(ours).st_ino == inode
        sock = socket.socket(fileno=ours) if same else None
    except OSError:
        same, sock = False, None
    try:
        yield sock
    finally:
        if sock is not None:
            sock.close()
        else:
            os.close(ours)


def _look(sock: socket.socket) -> tuple[int, int, bool]:
    """Bytes that wait in the system for the peer, bytes acknowledged by it, and whether its machine
    is gone."""
    queued = unsent_bytes(sock)
    state = None if sock.family == socket.AF_UNIX else tcp_state(sock)
    if state is None:
        return queued, 0, False
    unanswered = max(state.retransmits, state.probes) >= DEAD_RETRANSMITS
    dead = bool(queued) and unanswered and state.silence_ms * 1_000_000 >= DEAD_NS
    return queued, state.bytes_acknowledged, dead


def _address(sock: socket.socket) -> str:
    try:
        address = sock.getpeername()
    except OSError:
        return "a peer"
    return host_port(address) if isinstance(address, tuple) else "a local program"
