"""A listener: one UDP socket, its sessions by number, and the broker's connections behind them.

The native endpoint does all that happens per datagram; here sessions are joined to connections, once
per readiness.  What a connection gives out is sent from where it lies, and stays there until the
peer has acknowledged it: released is acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import time
from collections import deque

from hermes.base.faults import Faults
from hermes.base.forks import close_in_children
from hermes.errors import ConnectionLost, Refused
from hermes.native.envelopes import address_of
from hermes.net.addresses import host_port
from hermes.net.interception import Interception
from hermes.spi.transport import Connection, Kernel, Medium, Peer
from hermes_udp import options as _options
from hermes_udp import tap as _tap
from hermes_udp.native import REASONS, Counts, ffi, lib
from hermes_udp.options import ListenOptions

LOG = logging.getLogger("hermes.spi.transport")

OUTPUT_MIN = 16384
"""Bytes pulled at least: a pull costs the same for one message as for some dozen."""
OUTPUT_MAX = 262144
"""Bytes pulled at once, at most."""
WRITES_PER_PASS = 8
"""Pulls for one connection in one poll, so that one does not hold up the others."""
READS_PER_PASS = 8
"""Pieces of input given to one connection in one poll, for the same reason."""
BULKY = 16
"""Reads after which a peer that sent in bulk may be served in native rounds again."""
LINGER_NS: int = lib.HU_LINGER
"""How long the last output of a connection that is over is repeated until the peer has it."""
SALT = 1
"""Tells the faults of what listeners send from those of what clients send."""
NEVER = (1 << 64) - 1

_NEW: int = lib.HU_NEW
_READABLE: int = lib.HU_READABLE
_ENDED: int = lib.HU_ENDED
_FLUSHED: int = lib.HU_FLUSHED
_LOST: int = lib.HU_LOST
_SPECIAL: int = _NEW | _ENDED | _FLUSHED | _LOST


class _Link:
    """One session as the agent sees it."""

    __slots__ = (
        "bulky",
        "connection",
        "ended",
        "gone",
        "owed",
        "peer",
        "slot",
        "small",
        "stalled",
        "unread",
        "until_ns",
    )

    def __init__(self, slot: int, connection: Connection, peer: str) -> None:
        self.slot = slot
        self.connection = connection
        self.peer = peer
        self.small = True  # it does not send in bulk
        self.bulky = 0  # reads until that is tried again
        self.stalled = False  # no room: output waits for acknowledgements
        self.owed = False  # it has had its share of this pass
        self.unread = False  # input stands there that the connection did not want yet
        self.ended = False  # the peer has sent its last byte, and the connection knows
        self.gone = False  # the session is no more, its slot may be another's
        self.until_ns = 0  # not 0: the connection is over, its last output is repeated until then


class UdpAgent:
    """Serves every peer of one socket; see :class:`hermes.spi.transport.Agent` for the contract."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        url: str,
        kernel: Kernel,
        options: ListenOptions,
        spec: Interception | None,
    ) -> None:
        self._sock = sock
        self._url = url
        self._kernel = kernel
        with contextlib.ExitStack() as undo:
            self._tap = None if spec is None else _tap.Tap(sock, spec, seed_salt=SALT)
            if self._tap is not None:
                undo.callback(self._tap.close)
            self._epoll = select.epoll()
            undo.callback(self._epoll.close)
            self._timer: int = lib.hu_timer_new()
            if self._timer < 0:
                raise OSError(errno.EMFILE, "no descriptor for a timer")
            undo.callback(lib.hu_timer_free, self._timer)
            native = _options.native_options(
                sock,
                options,
                tap_fd=-1 if self._tap is None else self._tap.fd,
                listens=True,
                sessions=options.connections,
            )
            made = ffi.new("hu_endpoint **")
            if lib.hu_endpoint_new(native, made) < 0:
                raise OSError(errno.ENOMEM, "no memory for a UDP listener")
            undo.pop_all()
        self._endpoint = made[0]
        self._liveness = str(options.liveness)
        self._events = ffi.new("hu_event[]", lib.HU_EVENTS_MAX)
        self._place = ffi.new("const uint8_t **")
        self._peer = ffi.new("uint8_t[]", lib.HU_TAP_PREFIX)
        self._faults = Faults(LOG)
        self._links: dict[int, _Link] = {}
        self._owed: list[_Link] = []
        self._unread: list[_Link] = []
        self._lingering: deque[_Link] = deque()
        self._more = 0
        self._counts = Counts()
        self._past: dict[str, int] = {}
        self._counters = dict.fromkeys(
            ("accepted", "turned_away", "connections_lost", "lingered"), 0
        )
        self._armed_ns = 0
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._epoll.register(self._timer, select.EPOLLIN)
        self._wait = self._epoll.poll
        self._fd = sock.fileno()
        self._medium = Medium(self._fd)
        self._epoll_fd = self._epoll.fileno()
        self._closed = False
        close_in_children(self)

    @property
    def url(self) -> str:
        """URL at which it listens."""
        return self._url

    @property
    def doors(self) -> dict[str, str]:
        """None: the listener's own address is all there is."""
        return {}

    def fileno(self) -> int:
        """The epoll descriptor: readable when a datagram or a timer is."""
        return self._epoll.fileno()

    def watch(self, fd: int) -> None:
        """Let a waiting :meth:`poll` return when ``fd`` is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def deadline_ns(self) -> int | None:
        """The next timer of any session; a descriptor becomes readable then, to the nanosecond."""
        due = self._due()
        if due != self._armed_ns and due != NEVER:
            self._armed_ns = due
            lib.hu_timer_set(self._timer, max(1, due))
        return None if due == NEVER else due

    def poll(self, timeout_ns: int) -> int:
        """Read, give and take, write; see :meth:`hermes.spi.transport.Agent.poll`."""
        if timeout_ns:
            self.deadline_ns()  # arms the timer
            self._wait(timeout_ns / 1e9 if timeout_ns > 0 else -1)
        if self._armed_ns and time.monotonic_ns() >= self._armed_ns:
            self._armed_ns = 0
            lib.hu_timer_set(self._timer, 0)
        events = self._events
        count: int = lib.hu_endpoint_poll(self._endpoint, events)
        work = count
        for i in range(count):
            event = events[i]
            try:
                self._handle(event.slot, event.flags, event.released, count == 1)
            except Exception as error:
                self._fault(self._links.get(event.slot), error)
        if self._unread:
            work += self._read_again()
        if self._owed:
            owed, self._owed = self._owed, []
            for link in owed:
                link.owed = False
                self._write_guarded(link)
            work += len(owed)
        for connection in self._kernel.ready(self):
            self._write_guarded(connection.attachment)
            work += 1
        work += self._beside()
        if work or self._more:
            self._more = lib.hu_endpoint_flush(self._endpoint)
            work += self._more
        if self._tap is not None:
            self._tap.pump()
        if self._lingering:
            self._serve_lingering()
        return work

    def stop_accepting(self) -> None:
        """Make no sessions any more; those that are there are served on."""
        lib.hu_endpoint_stop(self._endpoint)

    def counters(self) -> dict[str, int]:
        """The socket's, and the sums of all sessions'; docs/udp.md says what each counts."""
        found = {
            **self._counters,
            "faults": self._faults.count,
            "connections": len(self._links),
            **self._counts.of_endpoint(self._endpoint),
        }
        sums = dict(self._past)
        rtt = 0
        for slot in self._links:
            session = lib.hu_endpoint_session(self._endpoint, slot)
            _add(sums, self._counts.of_session(session))
            rtt = max(rtt, lib.hu_sender_srtt(lib.hu_session_sender(session)))
        if self._tap is not None:
            found.update(self._tap.counters())
        return {**found, **sums, "rtt_max_us": rtt // 1000}

    def close(self) -> None:
        """Say goodbye to every peer and close the socket at once."""
        if self._closed:
            return
        self._closed = True
        for link in list(self._links.values()):
            self._tell_lost(link, self._unheard(link))
            lib.hu_endpoint_drop(self._endpoint, link.slot, lib.HU_BYE)
        self._links.clear()
        if self._tap is not None:
            self._tap.pump()
            self._tap.close()
        lib.hu_endpoint_free(self._endpoint)
        self._epoll.close()
        lib.hu_timer_free(self._timer)
        self._sock.close()

    def abandon(self) -> list[int]:
        """The socket, epoll and timer; see :class:`hermes.base.forks.Owner`."""
        if self._closed:
            return []
        self._closed = True
        return [self._fd, self._epoll_fd, self._timer]

    def _beside(self) -> int:
        """Do what a listener does beside serving its sessions, before all is sent; returns an amount of
        work."""
        return 0

    # Sessions.

    def _handle(self, slot: int, flags: int, released: int, alone: bool) -> None:
        if flags & _NEW and not self._admit(slot):
            return
        link = self._links[slot]
        if released and not flags & _LOST:
            link.connection.release(released)
        if flags & _LOST:
            self._lose(link)
            return
        if link.until_ns:
            self._finish_on(link, flags)
            return
        if alone and not flags & _SPECIAL and link.small and self._serve(link):
            return
        if flags & (_READABLE | _ENDED):
            self._read(link)
        if released or link.stalled:
            self._write(link)  # the connection may have waited for either

    def _admit(self, slot: int) -> bool:
        lib.hu_endpoint_peer(self._endpoint, slot, self._peer)
        address = host_port(_tap.address_of(bytes(ffi.buffer(self._peer))))
        try:
            connection = self._kernel.connect(
                self, Peer(transport="udp", address=address, local=False)
            )
        except Refused:
            self._counters["turned_away"] += 1
            lib.hu_endpoint_drop(self._endpoint, slot, lib.HU_REFUSED)
            return False
        except Exception as error:
            self._faults.caught(f"{self._url}: accepting {address}", error)
            lib.hu_endpoint_drop(self._endpoint, slot, lib.HU_REFUSED)
            return False
        link = connection.attachment = _Link(slot, connection, address)
        self._links[slot] = link
        self._counters["accepted"] += 1
        return True

    def _lose(self, link: _Link) -> None:
        session = lib.hu_endpoint_session(self._endpoint, link.slot)
        reason = lib.hu_session_reason(session)
        unheard = self._unheard(link)
        self._forget(link)
        if reason == lib.HU_BYE and (link.ended or link.until_ns):
            self._tell_lost(link, unheard)
            return
        text = REASONS.get(reason, "it broke")
        if reason == lib.HU_SILENT:
            text = f"nothing was heard from it for {self._liveness}"
        self._tell_lost(link, ConnectionLost(f"{link.peer}: {text}"))

    def _tell_lost(self, link: _Link, error: ConnectionLost | None) -> None:
        self._counters["connections_lost"] += error is not None
        try:
            link.connection.connection_lost(error)
        except Exception as fault:
            self._faults.caught(f"{link.peer}: ending a session", fault)

    def _fault(self, link: _Link | None, error: Exception) -> None:
        """``error`` came out of serving one peer, and nothing else may: end that peer's session, so
        that the others are served on."""
        who = "a peer" if link is None else link.peer
        self._faults.caught(f"{self._url}: serving {who}", error)
        if link is None or self._links.get(link.slot) is not link:
            return
        self._forget(link, lib.HU_BYE)
        self._tell_lost(link, ConnectionLost(f"{link.peer}: an unexpected error"))

    def _unheard(self, link: _Link) -> ConnectionLost | None:
        """The error for the owner of a session that ends with output on its way."""
        sender = lib.hu_session_sender(lib.hu_endpoint_session(self._endpoint, link.slot))
        left = lib.hu_sender_end(sender) - lib.hu_sender_acked(sender)
        if not left:
            return None
        return ConnectionLost(
            f"{link.peer}: it was closed, but the last {left} bytes were never acknowledged"
        )

    def _forget(self, link: _Link, reason: int = 0) -> None:
        _add(
            self._past,
            self._counts.of_session(lib.hu_endpoint_session(self._endpoint, link.slot)),
        )
        lib.hu_endpoint_drop(self._endpoint, link.slot, reason)
        del self._links[link.slot]
        link.gone = True
        if link.until_ns:
            self._lingering.remove(link)
        if link in self._owed:
            self._owed.remove(link)
        if link in self._unread:
            self._unread.remove(link)

    # Reading.

    def _serve(self, link: _Link) -> bool:
        """Have everything done in one call; False: nothing was."""
        if link.unread or self._owed or self._tap is not None:
            return False
        address: int = lib.hu_endpoint_medium(self._endpoint, link.slot)
        if not address:
            return False
        if self._medium.address != address:
            self._medium = Medium(self._fd, address)
        done = link.connection.serve(self._medium, self._epoll_fd)
        link.small = done >= 0
        if done < 0:
            link.bulky = BULKY
        return done != 0

    def _read(self, link: _Link) -> None:
        """Give the connection what stands in order, as long as it wants it."""
        if not link.small:
            link.bulky -= 1
            link.small = link.bulky <= 0
        endpoint, place, connection = self._endpoint, self._place, link.connection
        for _ in range(READS_PER_PASS):
            size: int = lib.hu_endpoint_readable(endpoint, link.slot, place)
            if not size:
                self._set_unread(link, False)
                self._look_for_end(link)
                return
            if connection.paused:
                break
            connection.data_received(memoryview(ffi.buffer(place[0], size)))
            if link.gone:
                return
            lib.hu_endpoint_consume(endpoint, link.slot, size)
        self._set_unread(link, True)

    def _set_unread(self, link: _Link, unread: bool) -> None:
        if unread and not link.unread:
            self._unread.append(link)
        elif link.unread and not unread:
            self._unread.remove(link)
        link.unread = unread

    def _read_again(self) -> int:
        """Read sessions that did not want their input, and may by now; returns an amount of work."""
        work = 0
        for link in list(self._unread):
            try:
                if not link.gone and not link.connection.paused:
                    self._read(link)
                    work += 1
            except Exception as error:
                self._fault(link, error)
        return work

    def _look_for_end(self, link: _Link) -> None:
        session = lib.hu_endpoint_session(self._endpoint, link.slot)
        if not link.ended and lib.hu_session_state(session) & _ENDED:
            link.ended = True
            link.connection.eof_received()
            self._write(link)

    # Writing.

    def _write_guarded(self, link: _Link) -> None:
        try:
            self._write(link)
        except Exception as error:
            self._fault(link, error)

    def _write(self, link: _Link) -> None:
        """Hand over what the connection has, until it has no more, the window is full or its share
        is used up."""
        if link.gone or link.until_ns or link.owed:
            return  # gone: it was among the ready ones before its session was lost
        endpoint, slot, connection = self._endpoint, link.slot, link.connection
        for _ in range(WRITES_PER_PASS):
            room: int = lib.hu_endpoint_room(endpoint, slot)
            if not room:
                link.stalled = True
                return
            views = connection.output(min(max(room, OUTPUT_MIN), OUTPUT_MAX))
            if not views:
                link.stalled = False
                if connection.closing:
                    self._finish(link)
                return
            taken = 0
            for view in views:
                size = len(view)
                if size and not lib.hu_endpoint_push(endpoint, slot, address_of(view), size):
                    break
                taken += size
            connection.advance(taken)
            if not taken:
                link.stalled = True
                return
        link.owed = True
        self._owed.append(link)

    # Ending.

    def _finish(self, link: _Link) -> None:
        """End a session whose last byte is handed over: when the peer has it, or after a while."""
        lib.hu_endpoint_finish(self._endpoint, link.slot)
        link.until_ns = time.monotonic_ns() + LINGER_NS
        self._set_unread(link, False)
        self._lingering.append(link)
        self._counters["lingered"] += 1

    def _finish_on(self, link: _Link, flags: int) -> None:
        endpoint, place = self._endpoint, self._place
        while size := lib.hu_endpoint_readable(endpoint, link.slot, place):
            lib.hu_endpoint_consume(endpoint, link.slot, size)  # not wanted any more
        if flags & _FLUSHED:
            self._tell_lost(link, None)
            self._forget(link)

    def _serve_lingering(self) -> None:
        now = time.monotonic_ns()
        while self._lingering and self._lingering[0].until_ns <= now:
            link = self._lingering[0]
            unheard = self._unheard(link)
            self._forget(link, lib.HU_BYE)  # also takes it out of those that linger
            self._tell_lost(link, unheard)

    # Time.

    def _due(self) -> int:
        """When :meth:`poll` has something to do by itself; ``NEVER``: not."""
        if self._owed or self._more:
            return 0
        due: int = lib.hu_endpoint_deadline(self._endpoint)
        if self._lingering:
            due = min(due, self._lingering[0].until_ns)
        tapped = None if self._tap is None else self._tap.deadline_ns()
        return due if tapped is None else min(due, tapped)


def _add(sums: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        sums[name] = sums.get(name, 0) + count
