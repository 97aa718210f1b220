"""An agent over io_uring: one system call a pass for everything that all connections send, receive
and accept.

Input is received into buffers of the ring's, and stays armed: a busy connection costs no call of
its own.  Sends are prepared one after the other and submitted together; a socket takes what it has
room for at once, so the memory of a connection that does not read is never held by the kernel.
Knows nothing of what the bytes mean.

A connection whose messages come one at a time is served directly, as a plain socket would be: the
ring tells only that it is readable, and :meth:`hermes.spi.transport.Connection.serve` does the rest.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hermes.base.forks import end_socket
from hermes.net.listener import OUTPUT_MAX, Link, ServingAgent
from hermes.net.sockets import BULK
from hermes.net.tcp import unanswered
from hermes.spi.transport import Connection, Kernel, Peer
from hermes_uring._ring import ACCEPT, READABLE, RECEIVE, SEND, Ring

if TYPE_CHECKING:
    from hermes_uring._ring import Completion, Found

LONELY = 16
"""Inputs that come alone, one pass after the other, before a connection is served directly."""
PATIENCE = 1024
"""Inputs before that is tried again with a connection that could not be."""
AGAIN = frozenset({-errno.EAGAIN, -errno.EINTR})
"""What a send completes with when the socket had no room."""
ENDED = frozenset({-errno.ECANCELED, -errno.EINTR})
"""What an operation that stays armed ends with when nothing is wrong."""
OVER = ENDED | {-errno.ENOBUFS}
"""What a receive ends with although the connection goes on."""

_READ = select.POLLIN
_WRITE = select.POLLOUT


class _Link(Link):
    """A connection, with what is under way and what is owed."""

    __slots__ = ("busy", "direct", "fed", "input", "lonely", "more", "sending", "take", "waiting")

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        super().__init__(sock, connection)
        self.take = connection.data_received
        self.input = 0  # handle of the receive, or of the poll for input, that is under way
        self.direct = False  # it is a poll: the ring only tells that there is input
        self.lonely = 0  # inputs that came alone
        self.fed = 0  # number of the last turn that brought input
        self.busy = False  # it is no use to pull: sending, the socket is full, or it is over
        self.more = False  # pull again when it is not
        self.sending = 0  # bytes under way
        self.waiting = 0  # handle of the poll for room


class _Watched:
    """A descriptor of the loop's."""

    __slots__ = ("armed", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.armed = False


class RingAgent(ServingAgent[_Link]):
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
        self._send = ring.send
        self._sent: list[_Link] = []  # found while submitting
        self._others: list[Completion] = []  # likewise
        self._turn = 0  # counts the lists of completions worked off
        self._sated: list[_Link] = []  # had input when the buffers ran out: others come first
        self._prepared = False  # something waits to be submitted
        self._closing: list[socket.socket] = []  # once what names them has been submitted
        self._accepting = 0  # handle
        self._watched: list[_Watched] = []
        self._shared = False  # the loop waits on our descriptor, not in us
        self._elsewhere = select.epoll()  # looked at while one connection is served
        self._elsewhere.register(ring.fileno(), _READ)
        self._elsewhere_fd = self._elsewhere.fileno()
        self._accept_again()

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

    def poll(self, timeout_ns: int) -> int:
        """Serve what has completed, then submit what that led to; see
        :meth:`hermes.spi.transport.Agent.poll`."""
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
                try:
                    self._write(link)
                except Exception as error:
                    self._fault(link, error)
            work += len(owed)
        for connection in self._ready(self):
            link = connection.attachment
            try:
                self._write(link)
            except Exception as error:
                self._fault(link, error)
            work += 1
        if self._retry_ns or self._lingering:
            self._serve_timers()
        if self._prepared:
            self._submit()
        return work

    def counters(self) -> dict[str, int]:
        """As of tcp; then system calls that submitted, and how often the queue was full."""
        return {
            **super().counters(),
            "submissions": self._ring.enters,
            "queue_overruns": self._ring.overruns,
        }

    def _unfinished(self) -> bool:
        return bool(self._owed or self._sent or self._others or self._prepared)

    # The ring.

    def _look(self, timeout_ns: int) -> Found:
        """What has completed, after waiting for it at most ``timeout_ns``."""
        if timeout_ns:
            for watched in self._watched:
                if not watched.armed:
                    self._ring.poll(watched.fd, watched, _READ)
                    watched.armed = True
            return self._enter(self._wait_ns(timeout_ns))
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

    def _close_socket(self, sock: socket.socket) -> None:
        self._closing.append(sock)
        self._prepared = True

    def _close_sockets(self) -> None:
        for sock in self._closing:
            end_socket(sock)
        self._closing.clear()

    def _serve(self, completions: list[Completion], *, alone: bool) -> int:
        """Work off completions other than whole sends; returns how many were of peers."""
        work = len(completions)
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
                elif kind == SEND:
                    self._cut_short(link, result)
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
        link.input = 0
        if link.gone:
            return
        if alone and not link.busy:
            self._ring.signal(True)
            done = link.serve(link.medium, self._elsewhere_fd)
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
            try:
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
            except Exception as error:
                self._fault(link, error)

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
        self._note_stall(link)
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

    def _await_end(self, link: _Link) -> None:
        link.busy = True
        self._receive(link)

    def _forget(self, link: _Link) -> None:
        """End what is under way first, or its number may name another socket."""
        link.busy = True
        for handle in (link.input, link.waiting):
            if handle:
                self._ring.cancel(handle)
        super()._forget(link)

    def _own_descriptors(self) -> list[int]:
        return [self._listener.fileno(), self._ring.fileno(), self._elsewhere_fd]

    def _close_medium(self) -> None:
        self._sent.clear()
        self._others.clear()
        self._ring.close()
        self._close_sockets()
        self._elsewhere.close()


def _error(result: int) -> OSError:
    return OSError(-result, os.strerror(-result))
