"""Both ends of ``zmq+tcp`` and ``zmq+ipc``: a listener is an agent with a door for each kind of
program.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from typing import Any

import zmq

from hermes.base.faults import Faults
from hermes.base.forks import close_in_children
from hermes.base.rlimits import limited
from hermes.base.selector import descriptor_of, ready_of
from hermes.errors import SystemFault
from hermes.spi.transport import API_VERSION, Agent, Capabilities, Channel, Kernel
from hermes.spi.url import Url
from hermes_zmq import channel, curve, sockets
from hermes_zmq.doors import LOG, Door, FeedDoor, House, ServeDoor
from hermes_zmq.options import DialOptions, ListenOptions, check, listener_url, places
from hermes_zmq.router import CHUNK, CHUNKS_MAX, RouterDoor

EVENTS_PER_PASS = 64
"""Ready descriptors looked at in one poll: more than a listener has."""
ROUTER_MESSAGE_MAX = 4 * CHUNK
"""Bytes of a message from a Hermes client; ours make a quarter of that."""
NS_PER_S = 1_000_000_000
PATHS_NS = 15 * NS_PER_S
"""Between two looks for clients whose machines answer nothing: four within the bound."""

KINDS: dict[str, tuple[int, type[FeedDoor | ServeDoor | RouterDoor]]] = {
    "pub": (zmq.XSUB, FeedDoor),
    "push": (zmq.PULL, FeedDoor),
    "sub": (zmq.XPUB, ServeDoor),
    "pull": (zmq.PUSH, ServeDoor),
    "router": (zmq.ROUTER, RouterDoor),
}
"""Socket type and class of each door."""


class ZmqTransport:
    """See :class:`hermes.spi.transport.Transport` for the contract."""

    capabilities = Capabilities()
    api_version = API_VERSION
    listen_options = ListenOptions
    dial_options = DialOptions

    def probe(self) -> str | None:
        """None: who could import this has pyzmq."""
        return None

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        """Open every door that the URL asks for."""
        options = url.options(ListenOptions)
        check(url, options, authenticates=kernel.authenticates)
        try:
            return ZmqAgent(url, options, kernel)
        except zmq.ZMQError as error:
            raise SystemFault(
                f"{url}: no sockets can be made: {error}; see `ulimit -n`{limited('RLIMIT_NOFILE')}"
            ) from error

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        """Connect to the router door."""
        return channel.dial(url, timeout_ns)


class ZmqAgent:
    """Serves every door of one listener; see :class:`hermes.spi.transport.Agent` for the contract."""

    def __init__(self, url: Url, options: ListenOptions, kernel: Kernel) -> None:
        self._kernel = kernel
        self._closed = False
        self._faults = Faults(LOG)
        with contextlib.ExitStack() as undo:
            self._context = sockets.make_context(options.io_threads, len(places(url, options)) + 1)
            undo.callback(self._context.destroy, 0)
            self._selector = selectors.DefaultSelector()
            undo.callback(self._selector.close)
            self._gatekeeper = self._admit(options)
            undo.callback(self._gatekeeper.close)
            self._doors: list[Any] = []
            for place in places(url, options):
                self._doors.append(self._open_door(self._house(url, options), place, str(url)))
                undo.callback(self._doors[-1].close)
            undo.pop_all()
        self._by_fd: dict[int, Door] = {}
        self._monitors: dict[int, Door] = {}
        for door in self._doors:
            self._by_fd[door.fd] = self._monitors[door.monitor.fd] = door
            self.watch(door.fd)
            self.watch(door.monitor.fd)
        self.watch(self._gatekeeper.fd)
        bound = {door.place.name: door.address for door in self._doors}
        self._stirred: dict[Door, None] = dict.fromkeys(self._doors)  # to be polled, in order
        self._due_ns = 0
        self._paths_ns = 0
        self._ready = kernel.ready
        self._wait = ready_of(self._selector)
        self._url = listener_url(url, options, bound)
        self._addresses = bound
        close_in_children(self)

    @property
    def url(self) -> str:
        """URL that a Hermes client connects to."""
        return self._url

    @property
    def doors(self) -> dict[str, str]:
        """Address to which each kind of ZeroMQ program connects."""
        return dict(self._addresses)

    def fileno(self) -> int:
        """The selector's descriptor: readable whenever something has happened at a socket."""
        return descriptor_of(self._selector)

    def watch(self, fd: int) -> None:
        """Let a waiting :meth:`poll` return when ``fd`` is readable."""
        self._selector.register(fd, selectors.EVENT_READ)

    def deadline_ns(self) -> int | None:
        """The doors' next timer."""
        return self._due_ns or None

    def poll(self, timeout_ns: int) -> int:
        """Move messages; see :meth:`hermes.spi.transport.Agent.poll`."""
        stirred = self._stirred
        at_once = not timeout_ns or stirred
        for fd, _ in self._wait(0 if at_once else self._timeout(timeout_ns), EVENTS_PER_PASS):
            self._stir(fd)
        if self._due_ns and self._due_ns <= time.monotonic_ns():
            self._serve_timers()
        work = self._poll(stirred) if stirred else 0
        ready = self._ready_doors()
        if ready:
            stirred.update(ready)
            work += self._poll(ready)
        return work

    def stop_accepting(self) -> None:
        """Refuse new peers at every door."""
        for door in self._doors:
            door.stop_accepting()

    def counters(self) -> dict[str, int]:
        """Each door's own, by its name."""
        found = {
            f"{door.place.name}_{name}": count
            for door in self._doors
            for name, count in {**door.counts, "peers": len(door.peers)}.items()
        }
        if self._keys is not None:
            found["keys_admitted"] = self._gatekeeper.admitted
            found["keys_refused"] = self._gatekeeper.refused
        found["faults"] = self._faults.count
        found["connections"] = sum(
            door.connections for door in self._doors if isinstance(door, RouterDoor)
        )
        return found

    def watch_paths(self) -> None:
        """See :class:`hermes.spi.transport.PathWatcher`; now and then is enough."""
        now_ns = time.monotonic_ns()
        if now_ns < self._paths_ns:
            return
        self._paths_ns = now_ns + PATHS_NS
        for door in self._doors:
            if isinstance(door, RouterDoor):
                door.watch_paths()

    def close(self) -> None:
        """Close every door at once; what libzmq has taken gets a moment to leave."""
        if self._closed:
            return
        self._closed = True
        for door in self._doors:
            door.close()
        self._gatekeeper.close()
        self._selector.close()
        self._context.term()

    def abandon(self) -> list[int]:
        """The sockets of all doors, and the selector; see :class:`hermes.base.forks.Owner`."""
        if self._closed:
            return []
        self._closed = True
        return [*sockets.descriptors_at(self._addresses.values()), self.fileno()]

    # Inside.

    def _ready_doors(self) -> dict[Door, None]:
        """The doors whose connections may have output."""
        found: dict[Door, None] = {}
        for connection in self._ready(self):
            try:
                found[connection.attachment.ready()] = None
            except Exception as error:
                self._fault(connection.attachment.door, error)
        return found

    def _poll(self, doors: dict[Any, None]) -> int:
        """Poll some doors; those that have nothing left to do are left alone until something
        happens."""
        work = 0
        for door in tuple(doors):
            done = 0
            try:
                if door.broken:
                    sockets.events(door.socket)  # has the descriptor fall silent
                else:
                    done = door.poll()
            except Exception as error:
                self._fault(door, error)
            work += done
            if not done:
                self._stirred.pop(door, None)
        self._due_ns = min((due for door in self._doors if (due := door.deadline_ns())), default=0)
        return work

    def _fault(self, door: Door, error: Exception) -> None:
        """An unexpected error of a door: it goes on in a moment; the others do not notice."""
        self._faults.caught(door.name, error)
        try:
            door.break_down()
        except Exception as again:
            self._faults.caught(f"{door.name}: giving up its connection", again)

    def _stir(self, fd: int) -> None:
        """Something has happened at ``fd``."""
        door = self._by_fd.get(fd)
        if door is not None:
            door.awake = True
            self._stirred[door] = None
        elif fd in self._monitors:
            door = self._monitors[fd]
            try:
                door.watch_peers()
            except Exception as error:
                self._fault(door, error)
            self._stirred[door] = None
        elif fd == self._gatekeeper.fd:
            try:
                self._gatekeeper.poll()
            except Exception as error:
                self._faults.caught("admitting a peer", error)

    def _serve_timers(self) -> None:
        now = time.monotonic_ns()
        for door in self._doors:
            if 0 < door.deadline_ns() <= now:
                try:
                    if door.broken:
                        door.mend()
                    else:
                        door.timer(now)
                except Exception as error:
                    self._fault(door, error)
                self._stirred[door] = None

    def _timeout(self, timeout_ns: int) -> float:
        """Seconds; not over the next timer."""
        if timeout_ns == 0:
            return 0
        if self._due_ns:
            left = max(0, self._due_ns - time.monotonic_ns())
            timeout_ns = left if timeout_ns < 0 else min(timeout_ns, left)
        return timeout_ns / NS_PER_S if timeout_ns >= 0 else -1

    def _admit(self, options: ListenOptions) -> curve.Gatekeeper:
        self._keys = curve.read_keys(options.curve, secret=True) if options.curve else None
        users = curve.read_users(options.users) if options.users else None
        return curve.Gatekeeper(self._context, users, keyed=self._keys is not None)

    def _house(self, url: Url, options: ListenOptions) -> House:
        credentials = {} if url.password is None else {"password": url.password}
        return House(
            self._kernel,
            self,
            options,
            url.scheme,
            url.username,
            credentials,
            self._faults,
        )

    def _open_door(self, house: House, place: Any, url: str) -> Door:
        kind, door = KINDS[place.role]
        router = place.role == "router"
        socket = sockets.make_socket(
            self._context,
            kind,
            high_water=CHUNKS_MAX if router else house.options.high_water,
            message_max=ROUTER_MESSAGE_MAX if router else house.options.message_max,
        )
        curve.ask_zap(socket)
        if self._keys is not None:
            curve.serve_curve(socket, self._keys)
        return door(house, place, socket, sockets.bind(socket, place.endpoint, url=url))
