"""The transport SPI: all that moves bytes between a broker and its peers implements this, and no
more.

A transport has two ends.  :meth:`Transport.listen` gives the broker an :class:`Agent`, which its
loop polls; :meth:`Transport.dial` gives a client a :class:`Channel`.  Bytes are opaque here: only
the broker's :class:`Connection` interprets them.  A transport never calls back into the broker: an
agent asks :class:`Kernel` which of its connections have output, and moves it.

What holds throughout, unless a method says otherwise:

**Threads.** An agent, its connections and the kernel it was given belong to the thread that polls;
a channel to one thread at a time; a :class:`Transport` may be used by any number of threads at
once.

**Blocking.** No call waits, for a peer, a lock that others hold for long, or a disk, but where a
``timeout_ns`` says how long it may: :meth:`Agent.poll`, :meth:`Channel.wait`,
:meth:`Transport.dial`.  ``listen`` and ``close`` may take what the operating system takes.  Times
are ``time.monotonic_ns()``; a timeout of -1 has no end.

**Ownership.** The side that passes a buffer keeps owning it, for as long as the method says; the
receiver neither writes to it nor keeps it longer, unless the method says so.

**Errors.** Only those of :mod:`hermes.errors` that the method names are raised; what the operating
system raises is translated at the edge, ``from`` the original.  What one peer does or sends never
comes out of ``poll``: it ends that peer's connection, with the error as the argument of
:meth:`Connection.connection_lost`.  That holds for defects too: every loop over peers catches what
serving one of them raises (:mod:`hermes.base.faults`).  Whatever else comes out of ``poll`` is
counted and logged, and the agent is polled again; after ten seconds of nothing else it is closed,
and the broker goes on with the other listeners, or ends if there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import msgspec

from hermes.errors import InvalidUrl
from hermes.spi.url import Url

API_VERSION = 1
"""Version of this SPI: a plugin that was written for another is refused at start-up.

What may be added without a new version: a method of :class:`Kernel` or :class:`Connection` (the
broker's), a field with a default (:class:`Peer`, :class:`Capabilities`), an optional argument that
the broker gives only to a plugin that claims the capability for it.  A new requirement on plugins,
and anything that is removed, makes a new version.  Before that, what is to go is deprecated for at
least one minor release: it works on, and a ``DeprecationWarning`` names what takes its place.
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection, as the transport knows it."""

    transport: str
    """Scheme of the listener, e.g. ``tcp``."""
    address: str
    """Printable, e.g. ``127.0.0.1:40312``."""
    local: bool
    """True if the peer provably runs on this machine."""
    identity: str | None = None
    """Proven identity of the peer (the user of a CURVE key, a uid); None: the transport did not
    ask."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A medium whose bytes native code may move."""

    fd: int
    """The non-blocking stream socket; or the descriptor that the functions wait on."""
    address: int = 0
    """Address of a ``struct hm_medium`` (``hm_medium.h``); 0: the socket itself is read and written."""


class Flushed(Enum):
    """How far :meth:`Connection.flush` has come."""

    ALL = "all"
    """There is no more output."""
    SOME = "some"
    """The connection has had its share: call again in the next pass."""
    FULL = "full"
    """The socket has no room: call again when it has."""


class Connection(Protocol):
    """The broker's end of one client's byte stream; the transport's only view of it.  No method
    waits, and none raises but for a transport's own mistakes.

    Input has the shape of :class:`asyncio.BufferedProtocol`; output is pulled, and acknowledged in
    two steps so that memory in flight (an io_uring write, an unacknowledged datagram) is never
    copied: ``released <= advanced <= pulled``, all in bytes and in order.
    """

    attachment: Any
    """Any object that the transport wants to find again; the broker does not look at it."""

    @property
    def closing(self) -> bool:
        """True when the broker wants the medium closed as soon as its output has been handed
        over."""

    @property
    def paused(self) -> bool:
        """True while the broker wants no more input, because its answers are not being read.

        It can change only inside :meth:`buffer_updated` and :meth:`output`.  A transport that goes
        on regardless gets its connection closed when the bound is passed by far.
        """

    def get_buffer(self, sizehint: int) -> memoryview:
        """A writable buffer for input, never empty, valid until :meth:`buffer_updated`.

        It may be shared by all connections of the broker: fill and report it before asking for
        another.
        """

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` of input stand at the start of the buffer.  Never raises for what a peer
        sent."""

    def data_received(self, data: memoryview) -> None:
        """Input that stands in the transport's own memory, instead of the pair above; ``data`` is
        not looked at after the return.  Never raises for what a peer sent."""

    def serve(self, medium: Medium, watch_fd: int) -> int:
        """An offer: read, work and write in one native call, for as long as nothing but the common case
        turns up.

        Called when the medium has input and owes no output.  ``watch_fd``, an epoll descriptor, is
        looked at meanwhile for other descriptors than the medium's; -1: native code cannot look, and
        returns after a few rounds.  Returns an amount of work; 0: nothing was done, read as usual; -1:
        read as usual the next few times, this peer sends in bulk.  What it could not send is output
        as always.
        """

    def attach(self, fd: int, sends: int = 0) -> bool:
        """An offer to transports whose medium is a non-blocking stream socket: output goes to the
        socket ``fd`` natively, inside :meth:`Kernel.ready` for all connections in one call, and in
        :meth:`flush`.  Returns whether it is taken; it holds until :meth:`connection_lost`.

        ``sends``: address of a ``struct hm_sends`` (``hm_sends.h``), by which :meth:`Kernel.ready`
        has the small outputs of many connections sent at once; 0: each socket is written to.

        If it is, :meth:`flush` takes the place of :meth:`output`, :meth:`advance` and
        :meth:`release`, and after :attr:`Flushed.FULL` nothing goes out until the next one.
        """

    def flush(self) -> Flushed:
        """After :meth:`attach`: send what there is.

        Raises:
            OSError: the socket is broken.
        """

    def eof_received(self) -> None:
        """The peer will send no more; output may still be pulled until :attr:`closing`."""

    def output(self, limit: int) -> Sequence[memoryview]:
        """Views of about ``limit`` bytes of output not yet advanced over, oldest first; empty if
        there is none.

        The same bytes are returned again until :meth:`advance`.  A view is valid until its bytes
        are released; keep none any longer, it pins the log.  While as much is in flight as may be
        there is nothing either: ask again after :meth:`release`.  Apart from that, fewer than
        ``limit`` bytes, none of which was returned before, are all there is until
        :meth:`Kernel.ready` says otherwise.
        """

    def advance(self, nbytes: int) -> None:
        """The medium has taken the first ``nbytes`` bytes of what :meth:`output` returned; never
        more than that.  Their memory stays as it is until :meth:`release`."""

    def release(self, nbytes: int) -> None:
        """The medium needs the first ``nbytes`` bytes that were advanced over no more.  The broker
        gives no more output while too much is in flight, so a medium that never releases stops."""

    def connection_lost(self, error: Exception | None) -> None:
        """The medium is gone; ``None`` if it was closed in order, which it was not if the peer is
        gone with output on its way.  Called once, and nothing is called after it."""


class Kernel(Protocol):
    """The broker's interface for transports."""

    @property
    def authenticates(self) -> bool:
        """True if the broker authenticates every peer, and refuses those that fail.

        A transport that other machines can reach refuses to listen there while this is False,
        unless its URL says ``insecure=yes``.  It does not change while the broker is open.
        """

    def connect(self, owner: object, peer: Peer) -> Connection:
        """A new connection that belongs to ``owner`` (the agent).

        Raises:
            Refused: the broker has as many connections as it may, or is stopping.
        """

    def ready(self, owner: object) -> Iterable[Connection]:
        """The connections of ``owner`` that may have output now, or want to be closed, since the
        last call.

        A connection whose output was not fully taken (the medium was full) is not reported again:
        the transport knows that it owes it a pull when the medium has room.
        """


class Agent(Protocol):
    """A listener at work: the loop polls it, and sleeps on its descriptor when a whole pass found
    nothing."""

    @property
    def url(self) -> str:
        """Where it listens, port 0 replaced by the port the OS chose."""

    @property
    def doors(self) -> dict[str, str]:
        """Further addresses a foreign program connects to, by role; usually empty."""

    def poll(self, timeout_ns: int) -> int:
        """Move bytes; wait at most ``timeout_ns`` (0: not at all, -1: until something happens) for
        the first.

        Returns an amount of work, 0 if there was none.  One call does a bounded share per
        connection.
        """

    def fileno(self) -> int:
        """A descriptor that is readable for as long as :meth:`poll` would find work, timers apart,
        and no longer.  The agent's, and the same until it is closed.

        -1: the system has no such thing (:func:`hermes.base.selector.descriptor_of`); a loop that
        waits for more than this agent then polls it each millisecond.
        """

    def watch(self, fd: int) -> None:
        """Let a waiting :meth:`poll` also return when ``fd`` is readable.

        The loop asks for this when there is one agent only, and then waits inside it; reading
        ``fd`` is the loop's business.
        """

    def deadline_ns(self) -> int | None:
        """``time.monotonic_ns()`` of its next timer, if it has one; :meth:`poll` serves it when it
        is due."""

    def stop_accepting(self) -> None:
        """Refuse new peers; those that are there are served on.  Idempotent."""

    def counters(self) -> dict[str, int]:
        """The transport's own counters, for ``hermes stats``; names end in their unit where they
        have one."""

    def close(self) -> None:
        """Close every connection and the listener at once, and tell the connections.  Idempotent;
        raises nothing."""


class Channel(Protocol):
    """A client's end: an ordered, reliable byte stream, non-blocking."""

    @property
    def stream_fd(self) -> int | None:
        """A connected stream socket that native code may write to directly, or None if there is no
        such thing."""

    def send(self, views: Sequence[memoryview | bytes]) -> int:
        """Take some of the bytes; returns how many, 0 if there is no room now.  What was taken is
        the medium's: the views may be reused at once.

        Raises:
            ConnectionLost: the medium is gone.
        """

    def receive_into(self, buffer: memoryview) -> int:
        """Fill ``buffer``; returns how many bytes, 0 at the end of input.

        Raises:
            WouldBlock: nothing is there now.
            ConnectionLost: the medium is gone.
        """

    def wait(self, *, readable: bool, writable: bool, timeout_ns: int) -> bool:
        """Wait until one of what was asked for holds; False if ``timeout_ns`` (-1: none) passed
        first."""

    def close(self) -> None:
        """Close the medium.  Nobody waits for what the peer has not got yet.  Idempotent; raises
        nothing."""


@runtime_checkable
class NativeChannel(Protocol):
    """Optional for a channel without a ``stream_fd``: lets native code move its bytes all the same.

    A client is then as fast as on a socket, and its publishers may linger."""

    @property
    def medium(self) -> int:
        """Address of a ``struct hm_medium`` (``hm_medium.h``), which lives until
        :meth:`Channel.close`."""


@runtime_checkable
class WatchedChannel(Protocol):
    """Optional for a channel without a ``stream_fd``: an event loop can sleep until there is something
    to do.  A channel that has neither is looked at every millisecond by clients in event loops."""

    @property
    def watch_fd(self) -> int:
        """A descriptor, always the same, that an event loop watches for being readable.

        After :meth:`Channel.wait` returned False with a timeout of 0, it becomes readable as soon as
        what was asked for holds, whatever is called meanwhile; it may be readable for nothing, but not
        for long.  Valid until :meth:`Channel.close`.  -1: the system has no such thing.

        Raises:
            ConnectionLost: the process has no descriptor left, or the medium is gone.
        """


@runtime_checkable
class PathWatcher(Protocol):
    """An :class:`Agent` that can tell a dead path from a peer that does not read.  A broker asks about
    once a second; an agent without this has the system find out."""

    def watch_paths(self) -> None:
        """Lose the connections whose peers' machines have answered nothing for too long.  In the
        polling thread, not within :meth:`Agent.poll`; takes a millisecond at most."""


@runtime_checkable
class ReadingChannel(NativeChannel, Protocol):
    """A channel whose ``medium`` is for writing only, because Python decides on what is read: it has
    the waiting done in native code all the same, with all that a waiting client asks for."""

    def receive(self, address: Any, capacity: int, spin_ns: int, timeout_ns: int) -> int:
        """Fill ``capacity`` bytes at ``address``, a pointer of cffi: how many, 0 at the end of input.
        If nothing is there, try for ``spin_ns``, which is part of ``timeout_ns`` (-1: none), then
        sleep; :data:`hermes.native.outbox.EMPTY` if nothing came.

        Raises:
            ConnectionLost: the medium is gone.
        """


def medium_of(channel: Channel) -> int | None:
    """The channel's ``medium``, if it has one."""
    return channel.medium if isinstance(channel, NativeChannel) else None


def watch_fd_of(channel: Channel) -> int | None:
    """The channel's ``watch_fd``, if it has one."""
    fd = channel.watch_fd if isinstance(channel, WatchedChannel) else -1
    return fd if fd >= 0 else None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Claims of a transport: the conformance kit tests each claim and skips what is not claimed."""

    processes: bool = True
    """The two ends may be in different processes."""
    peer_credentials: bool = False
    """``Peer.local`` is proven by the OS."""
    native_fd: bool = False
    """Channels have a ``stream_fd``."""
    multicast: bool = False
    """One send reaches many subscribers."""
    datagrams: bool = False
    """The medium beneath may lose, repeat and reorder: both ends take the option ``intercept``
    (:mod:`hermes.net.interception`), which makes it do so."""


@runtime_checkable
class Transport(Protocol):
    """One URL scheme.  Made by a factory that takes no argument; importing its module has no side
    effect."""

    capabilities: Capabilities
    api_version: int

    @property
    def listen_options(self) -> type[msgspec.Struct]:
        """The options of a listener's URL, for :meth:`hermes.spi.url.Url.options`; each has a
        docstring."""

    @property
    def dial_options(self) -> type[msgspec.Struct]:
        """The options of a client's URL."""

    def probe(self) -> str | None:
        """None if it can work on this machine, else why not and what to do.  Takes milliseconds;
        touches no network, leaves nothing behind, raises nothing."""

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        """Bind and listen; peers are accepted by the agent's ``poll``.  After an error nothing is
        left of it.

        Raises:
            InvalidUrl: the URL or one of its options makes no sense here.
            AddressInUse: another socket holds the address.
            SystemFault: this process has no descriptor or memory left.
        """

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        """Connect to ``url``, waiting at most ``timeout_ns``.

        Raises:
            InvalidUrl: the URL or one of its options makes no sense here.
            ConnectFailed: nobody answered, in time or at all; nothing is left of the attempt.
        """


def refuse_listen_options(transport: Transport, url: Url) -> None:
    """For a client, before it dials.

    Raises:
        InvalidUrl: an option of ``url`` is one that only listeners have.
    """
    name = _stranger(url, transport.dial_options, transport.listen_options)
    if name is not None:
        raise InvalidUrl(
            f"{url}: {name!r} is an option of listeners: leave it out here, and give it to the broker, "
            f"as in `hermes serve --transport '{url.scheme}://HOST:PORT?{name}=...'`"
        )


def refuse_dial_options(transport: Transport, url: Url) -> None:
    """For a broker, before it listens.

    Raises:
        InvalidUrl: an option of ``url`` is one that only clients have.
    """
    name = _stranger(url, transport.listen_options, transport.dial_options)
    if name is not None:
        raise InvalidUrl(
            f"{url}: {name!r} is an option of clients: leave it out here, and give it in the URL that "
            f"clients connect to, as in `hermes sub --url '{url.scheme}://HOST:PORT?{name}=...'`"
        )


def _stranger(url: Url, ours: type[msgspec.Struct], theirs: type[msgspec.Struct]) -> str | None:
    """The first option that one end does not have, and the other does."""
    known, others = (
        {field.encode_name for field in msgspec.structs.fields(kind)} for kind in (ours, theirs)
    )
    return next((name for name in url.query if name in others - known), None)
