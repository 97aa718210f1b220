"""Base class of listeners over connected sockets: admission of peers, counters, pauses after
accepting failed, and orderly close.

Part of the SPI: an agent over connected sockets derives from :class:`ServingAgent` and brings how
bytes go in and out.  Knows nothing of what the bytes mean, nor how it is told that they are there.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hermes.base.faults import Faults
from hermes.base.forks import close_in_children, end_socket
from hermes.errors import Refused
from hermes.spi.transport import Connection, Kernel, Medium, Peer

LOG = logging.getLogger("hermes.spi.transport")

OUTPUT_MIN = 65536
"""Bytes pulled for a connection that has just stalled: what a stalled subscriber keeps alive."""
OUTPUT_MAX = 1048576
"""Bytes pulled for a connection that takes all it is given: enough to make the system call's price
small."""
ACCEPT_RETRY_NS = 100_000_000
"""Pause after accepting failed, for want of descriptors or memory as a rule: others may have closed
some by then."""
RESERVED = 64
"""Descriptors that connections leave to the log, which opens two for every segment: without them it
could take nothing more."""
RESERVED_PART = 4
"""Or this part of all, if that is less."""
TELL_NS = 60_000_000_000
"""How often it is said at most that descriptors are short."""
LINGER_NS = 2_000_000_000
"""How long input is read and dropped after the last output, so that closing does not reset the
connection before the peer has read it."""
LINGER_BYTES = 64 * 1024 * 1024
"""Bytes dropped meanwhile, at most."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept when the process or the machine has no room for another connection."""
LOOKS_PER_BOUND = 4
"""Looks at each connection's path within the time it may be silent."""
NS_PER_S = 1_000_000_000
PASSING = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH}
)
"""Errors of accept when only that one peer is gone."""


def descriptors_max() -> int:
    """The first descriptor that no connection may have: those behind are for the log's files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 30
    return soft - min(RESERVED, soft // RESERVED_PART)


class Link:
    """One connection as its agent sees it: the socket, and how far its end has come."""

    __slots__ = (
        "connection",
        "dropped",
        "ended",
        "fd",
        "gone",
        "limit",
        "medium",
        "serve",
        "sock",
        "until_ns",
    )

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.connection = connection
        self.medium = Medium(self.fd)
        self.serve = connection.serve
        self.limit = OUTPUT_MIN  # bytes to pull at once
        self.ended = False  # the peer has sent its last byte
        self.until_ns = 0  # not 0: the connection is over, input is dropped until then
        self.dropped = 0
        self.gone = False  # forgotten: whoever still holds it leaves it alone


L = TypeVar("L", bound=Link)


class ServingAgent(ABC, Generic[L]):
    """The part of a :class:`hermes.spi.transport.Agent` that is the same for every medium.

    ``link`` makes what stands for a connection, which finds it as its ``attachment``; ``describe``
    says who a peer is, ``prepare`` sets the options of an accepted socket.  ``unanswered`` tells
    whether the peer's machine has answered nothing for ``path_bound_ns``; 0: nobody asks.
    """

    def __init__(
        self,
        link: Callable[[socket.socket, Connection], L],
        *,
        url: str,
        kernel: Kernel,
        describe: Callable[[socket.socket, Any], Peer],
        prepare: Callable[[socket.socket], None],
        connections_max: int,
        path_bound_ns: int = 0,
        unanswered: Callable[[socket.socket, int], bool] | None = None,
    ) -> None:
        self._link = link
        self._path_bound_ns = path_bound_ns
        self._unanswered = unanswered
        self._unseen: list[L] = []  # whose paths have not been looked at in this turn
        self._url = url
        self._kernel = kernel
        self._ready = kernel.ready
        self._describe = describe
        self._prepare = prepare
        self._connections_max = connections_max
        self._links: dict[int, L] = {}  # by descriptor
        self._owed: list[L] = []  # output is left that this pass had no room for
        self._lingering: deque[L] = deque()  # by deadline
        self._retry_ns = 0  # not 0: accepting pauses until then
        self._stopped = False
        self._closed = False
        self._told_ns = -TELL_NS
        self._short = False  # it was told that descriptors are short
        self._faults = Faults(LOG)
        self._counters = dict.fromkeys(
            (
                "accepted",
                "refused",
                "accept_pauses",
                "connections_lost",
                "dead_paths",
                "stalls",
                "lingered",
            ),
            0,
        )
        close_in_children(self)

    # What differs.

    @abstractmethod
    def _accept_again(self) -> None:
        """Accept, after a pause."""

    @abstractmethod
    def _close_listener(self) -> None:
        """Accept no more, ever."""

    @abstractmethod
    def _begin(self, link: L) -> None:
        """Serve a connection from now on."""

    @abstractmethod
    def _await_end(self, link: L) -> None:
        """Have what the peer still sends come in, to be dropped (:meth:`_drop`)."""

    @abstractmethod
    def _close_socket(self, sock: socket.socket) -> None:
        """Close it, as soon as nothing under way names its descriptor."""

    @abstractmethod
    def _close_medium(self) -> None:
        """The agent is closed, and all its connections are: give up what is its own."""

    def _own_descriptors(self) -> list[int]:
        """The listener's and the medium's, which a forked child must not keep."""
        return []

    def abandon(self) -> list[int]:
        """Every descriptor; see :class:`hermes.base.forks.Owner`."""
        if self._closed:
            return []
        self._closed = self._stopped = True
        return [*self._links, *self._own_descriptors()]

    def _unfinished(self) -> bool:
        """Whether the next pass has work already."""
        return bool(self._owed)

    # What the loop asks.

    @property
    def url(self) -> str:
        """Where it listens, port 0 replaced by the port the OS chose."""
        return self._url

    @property
    def doors(self) -> dict[str, str]:
        """None: the listener's own address is all there is."""
        return {}

    def deadline_ns(self) -> int | None:
        """When accepting is tried again, or a lingering socket is given up."""
        if self._unfinished():
            return 0
        due = self._retry_ns
        if self._lingering and (not due or self._lingering[0].until_ns < due):
            due = self._lingering[0].until_ns
        return due or None

    def stop_accepting(self) -> None:
        """Close the listener; those who are connected are served on."""
        if not self._stopped:
            self._stopped = True
            self._retry_ns = 0
            self._close_listener()

    def counters(self) -> dict[str, int]:
        """Accepts, refusals, pauses for want of descriptors, losses, stalls, sockets that
        lingered, unexpected errors in serving one peer."""
        return {**self._counters, "faults": self._faults.count, "connections": len(self._links)}

    def watch_paths(self) -> None:
        """Lose the connections whose paths are dead; see :class:`hermes.spi.transport.PathWatcher`.

        Each is looked at a few times within the bound, a share of them at a time.
        """
        if not self._path_bound_ns or self._unanswered is None:
            return
        if not self._unseen:
            self._unseen = list(self._links.values())
        looks = max(1, LOOKS_PER_BOUND * NS_PER_S * len(self._links) // self._path_bound_ns)
        for _ in range(min(looks + 1, len(self._unseen))):
            link = self._unseen.pop()
            if link.gone or link.until_ns or not self._unanswered(link.sock, self._path_bound_ns):
                continue
            self._counters["dead_paths"] += 1
            with contextlib.suppress(OSError):
                link.sock.shutdown(socket.SHUT_RDWR)  # ends what the system does with it meanwhile
            self._lose(link, TimeoutError("the peer's machine has answered nothing for long"))

    def close(self) -> None:
        """Close every socket at once."""
        if self._closed:
            return
        self._closed = True
        self.stop_accepting()
        for link in self._links.values():
            if not link.until_ns:
                self._tell_lost(link, None)
            link.gone = True
            self._close_socket(link.sock)
        self._links.clear()
        self._lingering.clear()
        self._owed.clear()
        self._close_medium()

    # Accepting.

    def _admit(self, sock: socket.socket, address: Any = None) -> None:
        """Connect a peer with the broker, or turn it away.  Without an ``address`` the socket is
        asked for it."""
        link = None
        try:
            if self._stopped or len(self._links) >= self._connections_max:
                raise Refused("the listener has as many connections as it may", code="limit")
            if sock.fileno() >= descriptors_max():
                self._spare_descriptors()
                raise Refused("the process needs its last descriptors itself", code="limit")
            sock.setblocking(False)
            self._prepare(sock)
            peer = self._describe(sock, sock.getpeername() if address is None else address)
            connection = self._kernel.connect(self, peer)
            link = connection.attachment = self._link(sock, connection)
            self._links[link.fd] = link
            self._counters["accepted"] += 1
            if self._short:
                self._short = False
                LOG.warning("%s takes connections again", self._url)
            self._begin(link)
        except Exception as error:
            if link is not None:
                self._fault(link, error)
                return
            if not isinstance(error, Refused | OSError):
                self._faults.caught(f"{self._url}: accepting a peer", error)
            self._counters["refused"] += 1
            end_socket(sock)

    def _spare_descriptors(self) -> None:
        """Say, once in a while, that descriptors have run short."""
        now_ns = time.monotonic_ns()
        self._counters["accept_pauses"] += 1
        if now_ns < self._told_ns + TELL_NS:
            return
        self._told_ns = now_ns
        self._short = True
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        LOG.warning(
            "%s turns connections away: the process has all but %d of the %d descriptors that it may "
            "have, which the log needs; raise `ulimit -n` (LimitNOFILE= of a service)",
            self._url,
            soft - descriptors_max(),
            soft,
        )

    def _accept_failed(self, error: OSError) -> bool:
        """True if accepting is to pause, for want of room or for a reason that is not known here;
        False if only that one peer is gone."""
        if error.errno in PASSING:
            return False
        if error.errno not in EXHAUSTED:
            self._faults.caught(f"{self._url}: accepting a peer", error)
        self._counters["accept_pauses"] += 1
        self._retry_ns = time.monotonic_ns() + ACCEPT_RETRY_NS
        return True

    # Writing.

    def _note_stall(self, link: L) -> None:
        """The medium was full: pull less at once."""
        link.limit = max(OUTPUT_MIN, link.limit // 2)
        self._counters["stalls"] += 1

    # Ending.

    def _finish(self, link: L) -> None:
        """The last byte is handed over: send FIN, then drop input until the peer's, or the
        deadline."""
        self._tell_lost(link, None)
        try:
            link.sock.shutdown(socket.SHUT_WR)
        except OSError:
            link.ended = True
        if link.ended:
            self._forget(link)
            return
        link.until_ns = time.monotonic_ns() + LINGER_NS
        self._lingering.append(link)
        self._counters["lingered"] += 1
        self._await_end(link)

    def _drop(self, link: L, count: int) -> bool:
        """``count`` bytes came after the end, 0: the peer's; True if that is all."""
        link.dropped += count
        if count and link.dropped <= LINGER_BYTES:
            return False
        self._lingering.remove(link)
        self._forget(link)
        return True

    def _lose(self, link: L, error: Exception | None) -> None:
        self._counters["connections_lost"] += 1
        self._tell_lost(link, error)
        self._forget(link)

    def _tell_lost(self, link: L, error: Exception | None) -> None:
        try:
            link.connection.connection_lost(error)
        except Exception as fault:
            self._faults.caught(f"{self._url}: ending a connection", fault)

    def _fault(self, link: L, error: Exception) -> None:
        """``error`` came out of serving one peer, and nothing else may: end that peer, so that the
        others are served on.

        Every loop over peers calls this for what it catches.
        """
        self._faults.caught(f"{self._url}: serving a peer", error)
        if not isinstance(link, Link) or link.gone:
            return  # nothing of a peer's, or ended already
        if not link.until_ns:
            self._lose(link, error)
            return
        if link in self._lingering:
            self._lingering.remove(link)
        self._forget(link)

    def _forget(self, link: L) -> None:
        link.gone = True
        del self._links[link.fd]
        self._close_socket(link.sock)
        if self._retry_ns:  # there may be room again
            self._accept_again()

    # Time.

    def _wait_ns(self, timeout_ns: int) -> int:
        """How long to wait: no longer than until the agent's own next timer; -1: no end."""
        due = self.deadline_ns()
        if due is None:
            return timeout_ns
        left = max(0, due - time.monotonic_ns())
        return left if timeout_ns < 0 else min(timeout_ns, left)

    def _serve_timers(self) -> None:
        now = time.monotonic_ns()
        if self._retry_ns and now >= self._retry_ns:
            self._accept_again()
        while self._lingering and self._lingering[0].until_ns <= now:
            link = self._lingering.popleft()
            try:
                self._forget(link)
            except Exception as error:
                self._fault(link, error)
