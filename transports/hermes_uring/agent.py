"""An agent over io_uring: one system call a pass for everything that all connections receive and
accept, and one for what many of them send.

Input is received into buffers of the ring's, and stays armed: a busy connection costs no call of
its own.  Small outputs of many connections are taken from them and submitted together, all of it in
native code (``sends.c``); bulk is written to its socket.  A socket takes what it has room for at once,
so the memory of a connection that does not read is never held by the kernel.  Knows nothing of what
the bytes mean.

A connection whose messages come one at a time is served directly, as a plain socket would be: an epoll
descriptor tells that it is readable, and :meth:`hermes.spi.transport.Connection.serve` does the rest.
While there is one, that descriptor is waited on, and the ring's is among those that it watches.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hermes.base.forks import end_socket
from hermes.net.sending import SendingAgent, SendingLink
from hermes.net.sockets import BULK
from hermes.net.tcp import unanswered
from hermes.spi.transport import Connection, Kernel, Peer
from hermes_uring._ring import ACCEPT, READABLE, RECEIVE, Ring

if TYPE_CHECKING:
    from hermes_uring._ring import Completion

LONELY = 16
"""Inputs that come alone, one pass after the other, before a connection is served directly."""
PATIENCE = 1024
"""Inputs before that is tried again with a connection that could not be."""
DIRECT = -1
"""In place of a receive's handle: the connection is served directly."""
ENDED = frozenset({-errno.ECANCELED, -errno.EINTR})
"""What an operation that stays armed ends with when nothing is wrong."""
OVER = ENDED | {-errno.ENOBUFS}
"""What a receive ends with although the connection goes on."""

_READ = select.POLLIN
_WRITE = select.POLLOUT


class _Link(SendingLink):
    """A connection, with what is under way."""

    __slots__ = ("direct", "fed", "input", "lonely", "take", "waiting")

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        super().__init__(sock, connection)
        self.take = connection.data_received
        self.input = 0  # handle of the receive that is under way, or DIRECT
        self.direct = False  # to be served directly
        self.lonely = 0  # inputs that came alone
        self.fed = 0  # number of the last turn that brought input
        self.waiting = 0  # handle of the poll for room


class _Watched:
    """A descriptor of the loop's."""

    __slots__ = ("armed", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.armed = False


class RingAgent(SendingAgent[_Link]):
    """Serves every peer of one listening socket; see :class:`hermes.spi.transport.Agent` for the
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
        path_bound_ns: int = 0,
    ) -> None:
        super().__init__(
            _Link,
            url=url,
            kernel=kernel,
            describe=describe,
            prepare=prepare,
            connections_max=connections_max,
            path_bound_ns=path_bound_ns,
            unanswered=unanswered,
        )
        self._listener = listener
        self._family = listener.family
        self._ring = ring
        self._enter = ring.enter
        self._found: list[Completion] = []  # while submitting
        self._turn = 0  # counts the lists of completions worked off
        self._sated: list[_Link] = []  # had input when the buffers ran out: others come first
        self._prepared = False  # something waits to be submitted
        self._closing: list[socket.socket] = []  # once what names them has been submitted
        self._accepting = 0  # handle
        self._watched: list[_Watched] = []
        self._shared = False  # the loop waits on our descriptor, not in us
        self._directs = 0  # connections that are served directly
        self._around = select.epoll()  # those, the ring, and what is watched
        self._around.register(ring.fileno(), _READ)
        self._around_fd = self._around.fileno()
        self._accept_again()

    def fileno(self) -> int:
        """Readable when something has completed, or one that is served directly has input; for the thread
        that polls."""
        if not self._shared:
            self._shared = True
            self._ring.signal(True)
            self._submit()
        return self._around_fd

    def watch(self, fd: int) -> None:
        """Let a waiting :meth:`poll` return when ``fd`` is readable."""
        self._watched.append(_Watched(fd))
        self._around.register(fd, _READ)

    def poll(self, timeout_ns: int) -> int:
        """Serve what has completed, then submit what that led to; see
        :meth:`hermes.spi.transport.Agent.poll`."""
        found = self._found
        if found:
            self._found = []
        else:
            found = self._look(timeout_ns)
        work = self._serve(found) if found else 0
        work += self._hand_over()
        if self._retry_ns or self._lingering:
            self._serve_timers()
        if self._prepared:
            self._submit()
        return work

    def counters(self) -> dict[str, int]:
        """As of tcp; then system calls that submitted, how often the queue was full, and sends that
        left with others."""
        return {
            **super().counters(),
            "submissions": self._ring.enters,
            "queue_overruns": self._ring.overruns,
            "sent_together": self._ring.together,
        }

    def _unfinished(self) -> bool:
        return bool(self._owed or self._found or self._prepared)

    # The ring.

    def _look(self, timeout_ns: int) -> list[Completion]:
        """What has completed, after waiting for it at most ``timeout_ns``."""
        if self._directs:
            return self._look_around(timeout_ns)
        if timeout_ns:
            for watched in self._watched:
                if not watched.armed:
                    self._ring.poll(watched.fd, watched, _READ)
                    watched.armed = True
            return self._enter(self._wait_ns(timeout_ns))
        if self._shared:
            self._ring.signal(True)
        return self._enter(0)

    def _look_around(self, timeout_ns: int) -> list[Completion]:
        """The same, and who has input of those that are served directly."""
        if timeout_ns:
            timeout_ns = self._wait_ns(timeout_ns)
        found: list[Completion] = []
        for fd, _ in self._around.poll(timeout_ns / 1e9 if timeout_ns >= 0 else -1):
            link = self._links.get(fd)
            if link is not None:
                found.append((link, READABLE, 0, None, False))
            elif fd == self._ring.fileno():
                self._ring.signal(True)
                found += self._enter(0)
        return found

    def _submit(self) -> None:
        """Have everything done that was prepared."""
        self._prepared = False
        self._found += self._enter(0)
        if self._closing:
            self._close_sockets()

    def _close_socket(self, sock: socket.socket) -> None:
        self._closing.append(sock)
        self._prepared = True

    def _close_sockets(self) -> None:
        for sock in self._closing:
            end_socket(sock)
        self._closing.clear()

    def _serve(self, completions: list[Completion]) -> int:
        """Work off completions; returns how many were of peers."""
        work = len(completions)
        alone = work == 1
        turn = self._turn = self._turn + 1
        lonely = None
        inputs = 0
        for link, kind, result, data, more in completions:
            try:
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
                else:
                    self._writable(link)
            except Exception as error:
                self._fault(link, error)
        if self._sated:
            sated, self._sated = self._sated, []
            for link in sated:
                try:
                    self._receive(link)
                except Exception as error:
                    self._fault(link, error)
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
        elif result not in ENDED and not self._stopped and self._accept_failed(_error(result)):
            return
        if not self._accepting and not self._stopped:
            self._accept_again()

    def _begin(self, link: _Link) -> None:
        link.attached = link.connection.attach(link.fd, self._ring.sends)
        self._receive(link)

    def _close_listener(self) -> None:
        if self._accepting:
            self._ring.cancel(self._accepting)
        self._close_socket(self._listener)

    # Reading.

    def _receive(self, link: _Link) -> None:
        """Have the ring watch for input, if it is wanted and not done already."""
        if link.input or link.ended or link.gone:
            return
        if link.connection.paused and not link.until_ns:
            return
        if link.direct:
            link.input = DIRECT
            self._around.register(link.fd, _READ)
            self._directs += 1
            if self._directs == 1:
                self._ring.signal(True)
        else:
            link.input = self._ring.receive(link.fd, link)
        self._prepared = True

    def _stop_receiving(self, link: _Link) -> None:
        """What has been received already still comes."""
        if link.input == DIRECT:
            link.input = 0
            self._around.unregister(link.fd)
            self._directs -= 1
            if not self._directs and not self._shared:
                self._ring.signal(False)
        elif link.input:
            self._ring.cancel(link.input)
            self._prepared = True

    def _received(self, link: _Link, result: int, data: memoryview | None, more: bool) -> None:
        """What is not just another piece of input."""
        if not more:
            link.input = 0
        if link.gone:
            return
        if link.until_ns:
            if result not in OVER and self._drop(link, max(0, result)):
                return
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
        if link.input != DIRECT:
            return  # it was lost, or is received from again, since it was seen to be readable
        link.direct = False
        link.lonely = 0
        if alone and not (link.stalled or link.owed or link.until_ns or link.ended):
            if link.serve(link.medium, self._around_fd) > 0:
                link.direct = True
                if not link.connection.paused:
                    return
            else:
                link.lonely = -PATIENCE
        self._stop_receiving(link)
        self._receive(link)

    # Writing.

    def _writable(self, link: _Link) -> None:
        link.waiting = 0
        link.stalled = False
        self._write(link)

    def _settle(self, link: _Link) -> None:
        """Everything is handed over: end the connection, or go on receiving."""
        if link.connection.closing:
            self._finish(link)
        elif not link.input:
            self._receive(link)

    def _await_room(self, link: _Link) -> None:
        link.waiting = self._ring.poll(link.fd, link, _WRITE)
        self._prepared = True

    # Ending.

    def _await_end(self, link: _Link) -> None:
        self._receive(link)

    def _forget(self, link: _Link) -> None:
        """End what is under way first, or its number may name another socket."""
        self._stop_receiving(link)
        if link.waiting:
            self._ring.cancel(link.waiting)
        super()._forget(link)

    def _own_descriptors(self) -> list[int]:
        return [self._listener.fileno(), self._ring.fileno(), self._around_fd]

    def _close_medium(self) -> None:
        self._found.clear()
        self._ring.close()
        self._close_sockets()
        self._around.close()


def _error(result: int) -> OSError:
    return OSError(-result, os.strerror(-result))
