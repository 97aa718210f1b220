"""Agent and channel for transports over stream sockets: an agent that serves many peers, and a
channel for a client's end.

Part of the SPI: a transport over any socket of type ``SOCK_STREAM`` is a few lines, which make
sockets and say who the peer is.  Knows nothing of what the bytes mean, nor which address family
carries them.

The agent waits with a selector of the standard library, without an object per event where that is
epoll's (:mod:`hermes.base.selector`): this is the path every message takes.
"""

from __future__ import annotations

import contextlib
import errno
import select
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hermes.base.forks import close_in_children, end_socket
from hermes.base.interrupts import let_pass
from hermes.base.rlimits import behind
from hermes.base.selector import (
    BROKEN,
    READABLE,
    WRITABLE,
    descriptor_of,
    ready_of,
    rewatch,
    unwatch,
)
from hermes.errors import (
    ConnectFailed,
    ConnectionLost,
    SystemFault,
    WouldBlock,
)
from hermes.net.listener import EXHAUSTED
from hermes.net.sending import IOV_MAX, SendingAgent, SendingLink
from hermes.spi.transport import Connection, Kernel, Peer

ACCEPTS_PER_PASS = 64
"""Peers accepted in one poll, so that a storm of connects does not hold up those who are
connected."""
READS_PER_PASS = 4
"""Buffers filled from one connection in one poll, so that one sender does not hold up the
others."""
EVENTS_PER_PASS = 512
"""Ready descriptors looked at in one poll; the others come first next time."""
BULK = 65536
"""Bytes read at once from which a peer counts as sending in bulk."""
DISCARD_SIZE = 65536
"""Bytes dropped per read."""
NS_PER_MS = 1_000_000

_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE


class Acceptor(Protocol):
    """Where peers come from; a listening, non-blocking socket has this shape."""

    def fileno(self) -> int:
        """Readable when :meth:`accept` would return."""

    def accept(self) -> tuple[socket.socket, Any]:
        """The next peer's socket and address; :exc:`BlockingIOError` if there is none."""

    def close(self) -> None:
        """Stop listening."""


class _Link(SendingLink):
    """A connection, with the socket's bound method and what it is watched for."""

    __slots__ = ("events", "receive", "small")

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        super().__init__(sock, connection)
        self.receive = sock.recv_into
        self.small = True  # it does not send in bulk
        self.events = _READ


class SocketAgent(SendingAgent[_Link]):
    """Serves every peer of one acceptor; see :class:`hermes.spi.transport.Agent` for the contract.

    ``describe`` says who a peer is, ``prepare`` sets the options of an accepted socket; the last two
    are :class:`~hermes.net.listener.ServingAgent`'s.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        *,
        url: str,
        kernel: Kernel,
        describe: Callable[[socket.socket, Any], Peer],
        prepare: Callable[[socket.socket], None] = lambda sock: None,
        connections_max: int = 10_000,
        path_bound_ns: int = 0,
        unanswered: Callable[[socket.socket, int], bool] | None = None,
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
        self._acceptor = acceptor
        try:
            self._selector = selectors.DefaultSelector()
        except OSError as error:
            acceptor.close()
            raise no_room(url, error) from error
        self._listening = acceptor.fileno()
        self._accepting = False
        self._discard = memoryview(bytearray(DISCARD_SIZE))
        self._selector_fd = descriptor_of(self._selector)
        self._wait = ready_of(self._selector)
        self._accept_again()

    def fileno(self) -> int:
        """The selector's descriptor: readable whenever a socket is."""
        return self._selector_fd

    def watch(self, fd: int) -> None:
        """Let a waiting :meth:`poll` return when ``fd`` is readable."""
        self._selector.register(fd, _READ)

    def poll(self, timeout_ns: int) -> int:
        """Accept, read, then write what has become ready; see
        :meth:`hermes.spi.transport.Agent.poll`."""
        if timeout_ns:
            timeout_ns = self._wait_ns(timeout_ns)
            events = self._wait(timeout_ns / 1e9 if timeout_ns >= 0 else -1, EVENTS_PER_PASS)
        else:
            events = self._wait(0, EVENTS_PER_PASS)
        work = 0
        links = self._links
        if len(events) == 1:
            fd, what = events[0]
            link = links.get(fd)
            if link is not None and what == READABLE and link.small:
                try:
                    if self._serve(link):
                        events = []
                        work = 1
                except Exception as error:
                    self._fault(link, error)
        for fd, what in events:
            link = links.get(fd)
            if link is not None:
                work += 1
                try:
                    if what & WRITABLE:
                        link.stalled = False
                        self._write(link)
                    if what != WRITABLE and not link.gone:
                        self._read(link, what)
                except Exception as error:
                    self._fault(link, error)
            elif fd == self._listening:
                work += self._accept()
        work += self._hand_over()
        if self._retry_ns or self._lingering:
            self._serve_timers()
        return work

    # Accepting.

    def _accept(self) -> int:
        accepted = 0
        while accepted < ACCEPTS_PER_PASS and self._accepting:
            try:
                sock, address = self._acceptor.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if self._accept_failed(error):
                    self._pause_accepting()
                break
            accepted += 1
            self._admit(sock, address)
        return accepted

    def _begin(self, link: _Link) -> None:
        self._selector.register(link.fd, _READ)
        link.attached = link.connection.attach(link.fd)
        # Its first bytes are read in a later poll, in the order in which sockets became readable: what
        # a client sent over its last connection comes before what it sends over this one.

    def _pause_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            self._selector.unregister(self._listening)

    def _accept_again(self) -> None:
        self._accepting = True
        self._retry_ns = 0
        self._selector.register(self._listening, _READ)

    def _close_listener(self) -> None:
        self._pause_accepting()
        if isinstance(self._acceptor, socket.socket):
            end_socket(self._acceptor)
        else:
            self._acceptor.close()

    def _own_descriptors(self) -> list[int]:
        return [self._listening, self._selector_fd]

    # Reading.

    def _serve(self, link: _Link) -> bool:
        """Have everything done in one call; False: nothing was."""
        if link.stalled or link.owed or link.until_ns or link.ended or link.events != _READ:
            return False
        done = link.serve(link.medium, self._selector_fd)
        link.small = done >= 0
        return done > 0

    def _read(self, link: _Link, what: int) -> None:
        if link.until_ns:
            self._drop_input(link)
            return
        if link.ended or not link.events & _READ:
            if what & BROKEN:
                self._lose(link, None if link.ended else _broken(link.sock))
            return
        connection = link.connection
        for _ in range(READS_PER_PASS):
            buffer = connection.get_buffer(-1)
            try:
                count = link.receive(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(link, error)
                return
            if not count:
                link.ended = True
                connection.eof_received()
                self._watch(link)
                self._write(link)
                return
            connection.buffer_updated(count)
            link.small = count < BULK
            if connection.paused:
                self._watch(link)
                return
            if count < len(buffer):
                return

    def _drop_input(self, link: _Link) -> None:
        for _ in range(READS_PER_PASS):
            try:
                count = link.receive(self._discard)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                count = 0
            if self._drop(link, count):
                return

    # Writing.

    def _settle(self, link: _Link) -> None:
        """Everything is handed over: adjust what the socket is watched for, or end it."""
        if link.connection.closing:
            self._finish(link)
        elif link.events != _READ or link.connection.paused or link.ended:
            self._watch(link)

    def _await_room(self, link: _Link) -> None:
        self._watch(link)

    def _watch(self, link: _Link) -> None:
        wanted = 0 if link.ended or link.connection.paused else _READ
        if link.stalled:
            wanted |= _WRITE
        self._rewatch(link, wanted)

    def _rewatch(self, link: _Link, wanted: int) -> None:
        if wanted != link.events:
            rewatch(self._selector, link.fd, link.events, wanted)
            link.events = wanted

    # Ending.

    def _await_end(self, link: _Link) -> None:
        self._rewatch(link, _READ)

    def _close_socket(self, sock: socket.socket) -> None:
        unwatch(self._selector, sock.fileno())
        end_socket(sock)

    def _close_medium(self) -> None:
        self._selector.close()


class SocketChannel:
    """A client's end of a connected stream socket; see :class:`hermes.spi.transport.Channel` for the
    contract."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._receive = sock.recv_into
        self._sendmsg = sock.sendmsg
        close_in_children(self)

    def abandon(self) -> list[int]:
        """The socket; see :class:`hermes.base.forks.Owner`."""
        return [self._sock.fileno()]

    @property
    def stream_fd(self) -> int | None:
        """The socket: native code may write to it."""
        return self._sock.fileno()

    def send(self, views: Sequence[memoryview | bytes]) -> int:
        """Take some of the bytes: how many, 0 if there is no room now."""
        try:
            return self._sendmsg(views if len(views) <= IOV_MAX else views[:IOV_MAX])
        except (BlockingIOError, InterruptedError) as error:
            let_pass(error)
            return 0
        except OSError as error:
            let_pass(error)
            raise ConnectionLost(f"the connection broke while sending: {error}") from error

    def receive_into(self, buffer: memoryview) -> int:
        """Fill ``buffer``: how many bytes, 0 at the end of input."""
        try:
            return self._receive(buffer)
        except (BlockingIOError, InterruptedError) as error:
            let_pass(error)
            raise WouldBlock("nothing has arrived") from None
        except OSError as error:
            let_pass(error)
            raise ConnectionLost(f"the connection broke while receiving: {error}") from error

    def wait(self, *, readable: bool, writable: bool, timeout_ns: int) -> bool:
        """Wait until one of what was asked for holds; False if ``timeout_ns`` passed first."""
        poller = select.poll()  # every system has it; selectors would take a handler's exception
        wanted = (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0)
        poller.register(self._sock, wanted)
        return bool(poller.poll(None if timeout_ns < 0 else -(-timeout_ns // NS_PER_MS)))

    def close(self) -> None:
        """Close the socket."""
        end_socket(self._sock)


def dial_first(
    candidates: Sequence[tuple[socket.AddressFamily, Any]],
    *,
    url: str,
    timeout_ns: int,
    prepare: Callable[[socket.socket], None] = lambda sock: None,
) -> SocketChannel:
    """Connect to the first of ``candidates`` (family, address) that answers, within ``timeout_ns``
    (-1: none) in all.

    Raises:
        ConnectFailed: none did; the message says what the last one said.
    """
    deadline = None if timeout_ns < 0 else time.monotonic_ns() + timeout_ns
    problem: OSError = TimeoutError("no address to try")
    for family, address in candidates:
        with contextlib.ExitStack() as undo:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
                undo.callback(sock.close)
                prepare(sock)
            except OSError as error:
                problem = error
                continue
            left = None if deadline is None else max(1e-3, (deadline - time.monotonic_ns()) / 1e9)
            sock.settimeout(left)
            try:
                sock.connect(address)
            except OSError as error:
                let_pass(error)
                problem = error
                continue
            channel = SocketChannel(sock)
            undo.pop_all()
            return channel
    raise ConnectFailed(_why_not(url, problem)) from problem


def listen_at(sock: socket.socket, address: Any, *, backlog: int) -> None:
    """Bind and listen; the socket is closed if that fails, and the ``OSError`` goes on."""
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(backlog)
        undo.pop_all()


def no_room(url: str, error: OSError) -> SystemFault:
    """The error to raise when this process or machine has no descriptor or memory left for
    ``url``."""
    return SystemFault(
        f"{url} cannot be opened: {error.strerror}; close something, or raise the limit "
        f"(`ulimit -n`, LimitNOFILE= of a service){behind(error)}"
    )


def _why_not(url: str, error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        cure = "start a broker there (`hermes serve`), or check host and port"
        return f"nobody listens at {url}: {cure}"
    if isinstance(error, TimeoutError):
        cure = "check that the broker runs and that no firewall stands between"
        return f"{url} did not answer in time: {cure}"
    if error.errno in EXHAUSTED:
        return str(no_room(url, error))
    return f"{url} cannot be reached: {error}"


def _broken(sock: socket.socket) -> OSError:
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
    return OSError(code, errno.errorcode.get(code, "the connection broke"))
