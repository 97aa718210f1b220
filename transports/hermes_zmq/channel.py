"""A client's end of ``zmq+tcp``: a DEALER socket that carries the wire protocol's bytes.

libzmq's own reconnecting is off: it would go on in the middle of a stream with another peer.  The
client connects again itself, and knows what to send again.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import zmq

from hermes.base.platform import EventDescriptor
from hermes.base.selector import descriptor_of
from hermes.errors import AuthenticationFailed, ConnectFailed, ConnectionLost, WouldBlock
from hermes.spi.url import Url
from hermes_zmq import curve
from hermes_zmq.options import DialOptions, router_endpoint
from hermes_zmq.router import CHUNK, CHUNKS_MAX, END, GREETING
from hermes_zmq.sockets import (
    PATH_BOUND_S,
    Monitor,
    Socket,
    allow_ipv6,
    events,
    make_context,
    make_socket,
)

SIZE_MAX = 64 * 1024 * 1024
"""Bytes of a message from the broker, far over what it makes."""
NS_PER_MS = 1_000_000

FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | FAILURES


class Sleeper(NamedTuple):
    """A thread in :meth:`DealerChannel.wait`, or an event loop that watches: what it waits for, and what
    wakes it."""

    readable: bool
    writable: bool
    event: EventDescriptor


class DealerWatch:
    """Descriptors that an event loop watches: the socket, its monitor, and an event for what calls have found."""

    def __init__(self, *descriptors: int) -> None:
        self.event = EventDescriptor()
        self.sleeper: Sleeper | None = None
        """The loop's place among the sleepers, while it waits."""
        self._selector = selectors.DefaultSelector()
        for descriptor in (self.event.fileno(), *descriptors):
            self._selector.register(descriptor, selectors.EVENT_READ)
        self.fd = descriptor_of(self._selector)

    def close(self) -> None:
        """Nobody watches any more."""
        self._selector.close()
        self.event.close()


class DealerChannel:
    """See :class:`hermes.spi.transport.Channel` for the contract.

    Any call on the socket may clear the descriptor that another thread sleeps on, so every method that
    makes one wakes the threads for which there is something now.
    """

    def __init__(self, context: zmq.Context[Any], socket: Socket, monitor: Monitor) -> None:
        self._context = context  # ours alone: its end is ours to see through
        self._socket = socket
        self._monitor = monitor
        self._fd = int(socket.getsockopt(zmq.FD))
        # A thread may wait while another sends, or itself does, from a signal handler.
        self._lock = threading.RLock()
        self._sleepers: list[Sleeper] = []
        self._spare: list[EventDescriptor] = []
        self._watch: DealerWatch | None = None
        self._rest = memoryview(b"")
        self._ended = False
        self._lost = False
        self._closed = False

    @property
    def stream_fd(self) -> int | None:
        """There is no such socket."""
        return None

    def send(self, views: Sequence[memoryview | bytes]) -> int:
        """Take at most one message's worth."""
        taken, size = [], 0
        for view in views:
            part = view[: CHUNK - size]
            taken.append(part)
            size += len(part)
            if size >= CHUNK:
                break
        if not size:
            return 0
        data = b"".join(taken)
        with self._calling():
            self._look()
            if self._lost:
                raise ConnectionLost("the broker has gone")
            for _ in range(2):
                try:
                    self._socket.send(data, zmq.DONTWAIT)
                except zmq.Again:
                    events(self._socket)  # a send may skip the socket's news: of room, that is
                else:
                    return size
        return 0

    def receive_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from one or more messages."""
        with self._calling():
            size = 0
            while size < len(buffer):
                if not self._rest and not self._next():
                    break
                count = min(len(buffer) - size, len(self._rest))
                buffer[size : size + count] = self._rest[:count]
                self._rest = self._rest[count:]
                size += count
            if size or self._ended:
                return size
            self._look()
            if self._lost:
                if self._next():
                    return self._fill(buffer)
                if not self._ended:
                    raise ConnectionLost("the broker has gone")
                return 0
            raise WouldBlock("nothing has arrived")

    def wait(self, *, readable: bool, writable: bool, timeout_ns: int) -> bool:
        """Wait until one of what was asked for holds; False if ``timeout_ns`` passed first."""
        if timeout_ns == 0:
            return self._ask(readable, writable)
        deadline = None if timeout_ns < 0 else time.monotonic_ns() + timeout_ns
        with self._asleep(readable, writable) as sleeper:
            poller = select.poll()
            for descriptor in (self._fd, self._monitor.fd, sleeper.event.fileno()):
                poller.register(descriptor, select.POLLIN)
            while True:
                with self._lock:
                    sleeper.event.clear()
                    if not self._closed:
                        self._look()
                    if len(self._sleepers) > 1:
                        self._wake()
                    if self._serves(readable, writable):
                        return True
                left = None if deadline is None else deadline - time.monotonic_ns()
                if left is not None and left <= 0:
                    return False
                poller.poll(None if left is None else -(-left // NS_PER_MS))

    @property
    def watch_fd(self) -> int:
        """See :class:`hermes.spi.transport.WatchedChannel`."""
        with self._lock:
            if self._closed:
                raise ConnectionLost("the connection was closed here")
            if self._watch is None:
                try:
                    self._watch = DealerWatch(self._fd, self._monitor.fd)
                except OSError as error:
                    text = f"an event loop cannot wait for the broker: {error}"
                    raise ConnectionLost(text) from error
            return self._watch.fd

    def _ask(self, readable: bool, writable: bool) -> bool:
        """Whether one of what is asked for holds; else an event loop that watches is told when it does."""
        with self._lock:
            watch = self._watch
            if watch is not None and watch.sleeper is not None:
                self._sleepers.remove(watch.sleeper)
                watch.sleeper = None
                watch.event.clear()
            if not self._closed:
                self._look()
            if self._sleepers:
                self._wake()
            if self._serves(readable, writable):
                return True
            if watch is not None:
                watch.sleeper = Sleeper(readable, writable, watch.event)
                self._sleepers.append(watch.sleeper)
            return False

    def close(self) -> None:
        """Say that this was our last, and close."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._wake()
            if self._watch is not None:
                if self._watch.sleeper is not None:
                    self._sleepers.remove(self._watch.sleeper)
                self._watch.close()
            try:
                if not self._lost:
                    self._socket.send(END, zmq.DONTWAIT)
            except zmq.ZMQError:
                pass  # the broker learns it from the connection's end
            while self._spare:
                self._spare.pop().close()
            self._monitor.close()
            self._socket.close()
            self._context.term()  # what was sent has a moment to leave

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """Hold the lock for calls on the socket; wakes the threads that these concern."""
        with self._lock:
            try:
                yield
            finally:
                self._wake()

    @contextlib.contextmanager
    def _asleep(self, readable: bool, writable: bool) -> Iterator[Sleeper]:
        """A place among the sleepers.

        Raises:
            ConnectionLost: the process has no descriptor left.
        """
        with self._lock:
            try:
                event = self._spare.pop() if self._spare else EventDescriptor()
            except OSError as error:
                raise ConnectionLost(f"a thread cannot wait for the broker: {error}") from error
            sleeper = Sleeper(readable, writable, event)
            self._sleepers.append(sleeper)
        try:
            yield sleeper
        finally:
            with self._lock:
                self._sleepers.remove(sleeper)
                if self._closed:
                    event.close()
                else:
                    self._spare.append(event)

    def _wake(self) -> None:
        for sleeper in tuple(self._sleepers):  # a signal handler may wait too
            if self._serves(sleeper.readable, sleeper.writable):
                sleeper.event.set()

    def _serves(self, readable: bool, writable: bool) -> bool:
        """Whether one of what is asked for holds; asks the socket, which clears its descriptor."""
        if self._lost or self._closed:
            return True
        if readable and (self._rest or self._ended):
            return True
        now = events(self._socket)
        return bool((readable and now & zmq.POLLIN) or (writable and now & zmq.POLLOUT))

    def _fill(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _next(self) -> bool:
        """Have the next message's bytes in hand; False: there is none."""
        while not self._ended:
            try:
                frame = self._socket.recv(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return False
            data = frame.buffer
            if not len(data):
                self._ended = True
                return False
            self._rest = memoryview(data)
            return True
        return False

    def _look(self) -> None:
        for event, _ in self._monitor.news():
            if event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
                self._lost = True


def dial(url: Url, timeout_ns: int) -> DealerChannel:
    """Connect to the router door of ``url``.

    Raises:
        InvalidUrl: the URL or one of its options makes no sense here.
        AuthenticationFailed: the broker does not take our key.
        ConnectFailed: nobody answered as a router door does.
    """
    options = url.options(DialOptions)
    endpoint = router_endpoint(url, options)
    with contextlib.ExitStack() as undo:
        try:
            context = make_context(1, 1)
            undo.callback(context.destroy, 0)
            socket = make_socket(context, zmq.DEALER, high_water=CHUNKS_MAX, message_max=SIZE_MAX)
            allow_ipv6(socket, endpoint)
            socket.setsockopt(zmq.RECONNECT_IVL, -1)
            socket.setsockopt(zmq.TCP_MAXRT, PATH_BOUND_S * 1000)
            if options.curve:
                keys = curve.read_keys(options.curve, secret=True)
                curve.use_curve(socket, keys, curve.public_key(options.server))
            monitor = Monitor(socket, WATCHED)
            undo.callback(monitor.close)
            socket.connect(endpoint)
            _await_handshake(monitor, url, endpoint, timeout_ns)
            socket.send_multipart(GREETING, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            raise ConnectFailed(f"{url} cannot be reached at {endpoint}: {error}") from error
        undo.pop_all()
    return DealerChannel(context, socket, monitor)


def _await_handshake(monitor: Monitor, url: Url, endpoint: str, timeout_ns: int) -> None:
    deadline = None if timeout_ns < 0 else time.monotonic_ns() + timeout_ns
    poller = select.poll()
    poller.register(monitor.fd, select.POLLIN)
    while True:
        for event, _ in monitor.news():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise AuthenticationFailed(
                    f"{url} does not take our key: add its public half to the broker's list of "
                    "users"
                )
            if event & FAILURES or event == zmq.EVENT_DISCONNECTED:
                raise ConnectFailed(
                    f"what answers at {endpoint} is not a router door that we can talk to: check "
                    "the port (?router=PORT), and curve and server if the broker wants keys"
                )
            if event == zmq.EVENT_CLOSED:
                raise ConnectFailed(
                    f"nobody listens at {endpoint}, where {url} has its router door: start a broker "
                    f"there (`hermes serve --transport {url.scheme}://...`), or check host and port"
                )
        left = None if deadline is None else deadline - time.monotonic_ns()
        if left is not None and left <= 0:
            raise ConnectFailed(
                f"{url} did not answer in time: check that the broker runs, that no firewall "
                "stands between, and curve and server if the broker wants keys"
            )
        poller.poll(None if left is None else -(-left // NS_PER_MS))
