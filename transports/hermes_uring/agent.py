"""An agent over io_uring: one system call a pass for everything that all connections send, receive
and accept.

Input is received into buffers of the ring's, and stays armed: a busy connection costs no call of
its own.  Sends are prepared one after the other and submitted together; a socket takes what it has
room for at once, so the memory of a connection that does not read is never held by the kernel.
Knows nothing of what the bytes mean.

A connection whose messages come one at a time is served directly, as a plain socket would be: the
ring tells only that it is readable, and :meth:`hermes.transport.Connection.express` does the rest.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hermes.errors import Refused
from hermes.streamsockets import (
    ACCEPT_RETRY_NS,
    BULK,
    EXHAUSTED,
    LINGER_BYTES,
    LINGER_NS,
    OUTPUT_MAX,
    OUTPUT_MIN,
    PASSING,
)
from hermes.transport import Connection, Kernel, Peer
from hermes_uring._ring import ACCEPT, READABLE, RECEIVE, SEND, Ring

if TYPE_CHECKING:
    from hermes_uring._ring import Completion, Found

LONELY = 16
"""Inputs that come alone, one pass after the other, before a connection is served directly."""
PATIENCE = 1024
"""Inputs before that is tried again with a connection that could not be."""
AGAIN = frozenset({-errno.EAGAIN, -errno.EINTR})
"""What a send completes with when the socket had no room."""
OVER = frozenset({-errno.ECANCELED, -errno.ENOBUFS, -errno.EINTR})
"""What a receive ends with although the connection goes on."""

_READ = select.POLLIN
_WRITE = select.POLLOUT


class _Link:
    """One connection as the agent sees it: the socket, what is under way, and what is owed."""

    __slots__ = (
        "busy",
        "connection",
        "direct",
        "dropped",
        "ended",
        "express",
        "fd",
        "fed",
        "gone",
        "input",
        "limit",
        "lonely",
        "more",
        "sending",
        "sock",
        "take",
        "until_ns",
        "waiting",
    )

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.connection = connection
        self.take = connection.data_received
        self.express = connection.express
        self.input = 0  # handle of the receive, or of the poll for input, that is under way
        self.direct = False  # it is a poll: the ring only tells that there is input
        self.lonely = 0  # inputs that came alone
        self.fed = 0  # number of the last turn that brought input
        self.ended = False  # the peer has sent its last byte
        self.busy = False  # it is no use to pull: sending, the socket is full, or it is over
        self.more = False  # pull again when it is not
        self.sending = 0  # bytes under way
        self.waiting = 0  # handle of the poll for room
        self.limit = OUTPUT_MIN
        self.until_ns = 0  # not 0: the connection is over, input is dropped until then
        self.dropped = 0
        self.gone = False  # forgotten: completions that still come are ignored


class _Watched:
    """A descriptor of the loop's."""

    __slots__ = ("armed", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.armed = False


class RingAgent:
    """Serves every peer of one listening socket; see :class:`hermes.transport.Agent` for the
    contract.

    ``describe`` says who a peer is, ``prepare`` sets the options of an accepted socket.
    """

    def __init__(
        self,
        listener: socket.socket,
        ring: Ring,
        *,
        url: str,
        kernel: Kernel,
        describe: Callable[[socket.socket, Any], Peer],
        prepare: Callable[[socket.socket], None],
        connections_max: int,
    ) -> None:
        self._listener = listener
        self._family = listener.family
        self._ring = ring
        self._enter = ring.enter
        self._send = ring.send
        self._url = url
        self._kernel = kernel
        self._ready = kernel.ready
        self._describe = describe
        self._prepare = prepare
        self._connections_max = connections_max
        self._links: set[_Link] = set()
        self._sent: list[_Link] = []  # found while submitting
        self._others: list[Completion] = []  # likewise
        self._turn = 0  # counts the lists of completions worked off
        self._sated: list[_Link] = []  # had input when the buffers ran out: others come first
        self._prepared = False  # something waits to be submitted
        self._owed: list[_Link] = []  # the ring had no room for their output
        self._closing: list[socket.socket] = []  # once what names them has been submitted
        self._lingering: deque[_Link] = deque()  # by deadline
        self._accepting = 0  # handle
        self._retry_ns = 0
        self._watched: list[_Watched] = []
        self._shared = False  # the loop waits on our descriptor, not in us
        self._stopped = False
        self._closed = False
        self._counters = dict.fromkeys(
            ("accepted", "refused", "accept_pauses", "connections_lost", "stalls", "lingered"), 0
        )
        self._elsewhere = select.epoll()  # what an express looks at meanwhile
        self._elsewhere.register(ring.fileno(), _READ)
        self._elsewhere_fd = self._elsewhere.fileno()
        self._accept_again()

    @property
    def url(self) -> str:
        """Where it listens, port 0 replaced by the port the OS chose."""
        return self._url

    @property
    def doors(self) -> dict[str, str]:
        """None: the listener's own address is all there is."""
        return {}

    def fileno(self) -> int:
        """The descriptor the ring tells of completions by; for the thread that polls."""
        if not self._shared:
            self._shared = True
            self._ring.signal(True)
            self._submit()
        return self._ring.fileno()

    def watch(self, fd: int) -> None:
        """Let a waiting :meth:`poll` return when ``fd`` is readable."""
        self._watched.append(_Watched(fd))
        self._elsewhere.register(fd, _READ)

    def deadline_ns(self) -> int | None:
        """When accepting is tried again, or a lingering socket is given up."""
        if self._owed or self._sent or self._others or self._prepared:
            return 0
        due = self._retry_ns
        if self._lingering and (not due or self._lingering[0].until_ns < due):
            due = self._lingering[0].until_ns
        return due or None

    def poll(self, timeout_ns: int) -> int:
        """Serve what has completed, then submit what that led to; see
        :meth:`hermes.transport.Agent.poll`."""
        sent, others = self._sent, self._others
        if sent or others:
            self._sent, self._others = [], []
        else:
            sent, others = self._look(timeout_ns)
        work = len(sent)
        if sent:
            self._confirm(sent)
        if others:
            work += self._serve(others, alone=not sent and len(others) == 1)
        if self._owed:
            owed, self._owed = self._owed, []
            for link in owed:
                self._write(link)
            work += len(owed)
        for connection in self._ready(self):
            self._write(connection.attachment)
            work += 1
        if self._retry_ns or self._lingering:
            self._serve_timers()
        if self._prepared:
            self._submit()
        return work

    def stop_accepting(self) -> None:
        """Close the listener; those who are connected keep being served."""
        if not self._stopped:
            self._stopped = True
            self._retry_ns = 0
            if self._accepting:
                self._ring.cancel(self._accepting)
            self._closing.append(self._listener)
            self._prepared = True

    def counters(self) -> dict[str, int]:
        """As of tcp; then system calls that submitted, and how often the queue was full."""
        return {
            **self._counters,
            "connections": len(self._links),
            "submissions": self._ring.enters,
            "queue_overruns": self._ring.overruns,
        }

    def close(self) -> None:
        """Close every socket at once."""
        if self._closed:
            return
        self._closed = True
        self.stop_accepting()
        for link in self._links:
            if not link.until_ns:
                link.connection.connection_lost(None)
            link.gone = True
            self._closing.append(link.sock)
        self._links.clear()
        self._lingering.clear()
        self._owed.clear()
        self._sent.clear()
        self._others.clear()
        self._ring.close()
        self._close_sockets()
        self._elsewhere.close()

    # The ring.

    def _look(self, timeout_ns: int) -> Found:
        """What has completed, after waiting for it at most ``timeout_ns``."""
        if timeout_ns:
            for watched in self._watched:
                if not watched.armed:
                    self._ring.poll(watched.fd, watched, _READ)
                    watched.armed = True
            return self._enter(self._timeout(timeout_ns))
        if self._shared:
            self._ring.signal(True)
        return self._enter(0)

    def _submit(self) -> None:
        """Have everything done that was prepared."""
        self._prepared = False
        sent, others = self._enter(0)
        self._sent += sent
        self._others += others
        if self._closing:
            self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in self._closing:
            sock.close()
        self._closing.clear()

    def _serve(self, completions: list[Completion], *, alone: bool) -> int:
        """Work off completions other than whole sends; returns how many were of peers."""
        work = len(completions)
        turn = self._turn = self._turn + 1
        lonely = None
        inputs = 0
        for link, kind, result, data, more in completions:
            if kind == RECEIVE:
                if data is not None and more and not link.until_ns and not link.gone:
                    inputs += 1
                    link.fed = turn
                    if result < BULK:
                        lonely = link
                    link.take(data)
                    if link.connection.paused:
                        self._stop_receiving(link)
                else:
                    self._received(link, result, data, more)
            elif kind == READABLE:
                if link.__class__ is _Watched:
                    link.armed = False
                    work -= 1
                else:
                    inputs += 1
                    self._readable(link, alone=alone)
            elif kind == ACCEPT:
                self._accepted(result, more)
            elif kind == SEND:
                self._cut_short(link, result)
            else:
                self._writable(link)
        if self._sated:
            for link in self._sated:
                self._receive(link)
            self._sated.clear()
        if lonely is not None:
            self._note_lonely(lonely, completions if inputs > 1 else None)
        return work

    # Accepting.

    def _accept_again(self) -> None:
        self._retry_ns = 0
        if self._accepting:
            return
        self._accepting = self._ring.accept(self._listener.fileno(), None)
        self._prepared = True

    def _accepted(self, result: int, more: bool) -> None:
        if not more:
            self._accepting = 0
        if result >= 0:
            self._admit(socket.socket(self._family, socket.SOCK_STREAM, 0, result))
        elif -result in EXHAUSTED:
            self._counters["accept_pauses"] += 1
            self._retry_ns = time.monotonic_ns() + ACCEPT_RETRY_NS
            return
        elif -result not in PASSING and result not in OVER and not self._stopped:
            raise OSError(-result, os.strerror(-result))
        if not self._accepting and not self._stopped:
            self._accept_again()

    def _admit(self, sock: socket.socket) -> None:
        try:
            if self._stopped or len(self._links) >= self._connections_max:
                raise Refused("the listener has as many connections as it may", code="limit")
            self._prepare(sock)
            connection = self._kernel.connect(self, self._describe(sock, sock.getpeername()))
        except (Refused, OSError):
            self._counters["refused"] += 1
            sock.close()
            return
        link = connection.attachment = _Link(sock, connection)
        self._links.add(link)
        self._counters["accepted"] += 1
        self._receive(link)

    # Reading.

    def _receive(self, link: _Link) -> None:
        """Have the ring watch for input, if it is wanted and not done already."""
        if link.input or link.ended or link.gone:
            return
        if link.connection.paused and not link.until_ns:
            return
        if link.direct:
            link.input = self._ring.poll(link.fd, link, _READ)
        else:
            link.input = self._ring.receive(link.fd, link)
        self._prepared = True

    def _stop_receiving(self, link: _Link) -> None:
        """What has been received already still comes."""
        if link.input:
            self._ring.cancel(link.input)
            self._prepared = True

    def _received(self, link: _Link, result: int, data: memoryview | None, more: bool) -> None:
        """What is not just another piece of input."""
        if not more:
            link.input = 0
        if link.gone:
            return
        if link.until_ns:
            self._dropped(link, result)
        elif data is not None:
            link.take(data)
        elif result == 0:
            link.ended = True
            link.connection.eof_received()
            self._write(link)
        elif result not in OVER:
            self._lose(link, _error(result))
        elif link.fed == self._turn:
            self._sated.append(link)
            return
        self._receive(link)

    def _dropped(self, link: _Link, result: int) -> None:
        link.dropped += max(0, result)
        ended = result <= 0 and result not in OVER
        if ended or link.dropped > LINGER_BYTES:
            self._lingering.remove(link)
            self._forget(link)

    # Serving directly.

    def _note_lonely(self, link: _Link, crowd: list[Completion] | None) -> None:
        """An input came alone, or in a crowd."""
        if crowd is not None:
            for other, kind, _, _, _ in crowd:
                if kind == RECEIVE:
                    other.lonely = 0
            return
        link.lonely += 1
        if link.lonely >= LONELY and not link.direct and not link.until_ns:
            link.direct = True
            self._stop_receiving(link)

    def _readable(self, link: _Link, *, alone: bool) -> None:
        """Have everything done in one call if nothing else is to be done, else receive as usual."""
        link.input = 0
        if link.gone:
            return
        if alone and not link.busy:
            self._ring.signal(True)
            done = link.express(link.fd, self._elsewhere_fd)
            if not self._shared:
                self._ring.signal(False)
            link.direct = done > 0
            link.lonely = 0 if done > 0 else -PATIENCE
        else:
            link.direct = False
            link.lonely = 0
        self._receive(link)

    # Writing.

    def _write(self, link: _Link) -> None:
        """Prepare to hand over what the connection has."""
        if link.busy:
            link.more = True
            return
        views = link.connection.output(link.limit)
        if not views:
            self._settle(link)
            return
        try:
            size = self._send(link.fd, link, views)
        except OSError:
            self._owed.append(link)
            return
        if size < 0:
            size = -size
            link.more = True
        link.sending = size
        link.busy = self._prepared = True

    def _confirm(self, sent: list[_Link]) -> None:
        """All that was prepared for these has been taken."""
        for link in sent:
            if link.gone:
                continue
            link.busy = False
            size = link.sending
            connection = link.connection
            connection.advance(size)
            connection.release(size)
            if size >= link.limit:
                link.limit = min(OUTPUT_MAX, 2 * link.limit)
            elif not link.more:
                if connection.closing or not link.input:
                    self._settle(link)
                continue
            link.more = False
            self._write(link)

    def _cut_short(self, link: _Link, result: int) -> None:
        """The socket took a part, or nothing: go on when it has room."""
        if link.gone:
            return
        if result < 0 and result not in AGAIN:
            self._lose(link, _error(result))
            return
        if result > 0:
            link.connection.advance(result)
            link.connection.release(result)
        link.more = True
        link.limit = max(OUTPUT_MIN, link.limit // 2)
        self._counters["stalls"] += 1
        link.waiting = self._ring.poll(link.fd, link, _WRITE)
        self._prepared = True

    def _writable(self, link: _Link) -> None:
        link.waiting = 0
        if not link.gone:
            link.busy = False
            self._write(link)

    def _settle(self, link: _Link) -> None:
        """Everything is handed over: end the connection, or go on receiving."""
        if link.connection.closing:
            self._finish(link)
        elif not link.input:
            self._receive(link)

    # Ending.

    def _finish(self, link: _Link) -> None:
        """The last byte is handed over: send FIN, then drop input until the peer's, or the
        deadline."""
        link.connection.connection_lost(None)
        link.busy = True
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
        self._receive(link)

    def _lose(self, link: _Link, error: Exception) -> None:
        self._counters["connections_lost"] += 1
        link.connection.connection_lost(error)
        self._forget(link)

    def _forget(self, link: _Link) -> None:
        """End what is under way, then close: not before, or its number may name another socket."""
        link.gone = link.busy = True
        self._links.discard(link)
        for handle in (link.input, link.waiting):
            if handle:
                self._ring.cancel(handle)
        self._closing.append(link.sock)
        self._prepared = True
        if self._retry_ns:
            self._accept_again()

    # Time.

    def _timeout(self, timeout_ns: int) -> int:
        """Nanoseconds to wait, no longer than until the agent's own next timer."""
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
            self._forget(self._lingering.popleft())


def _error(result: int) -> OSError:
    return OSError(-result, os.strerror(-result))
