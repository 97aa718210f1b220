"""Options and socket set-up of transports over TCP.

Part of the SPI: `tcp` moves its bytes with :mod:`hermes.net.sockets`, others in a way of their own;
what a user writes into the URL means the same in all of them.  Knows nothing of how bytes are
moved.
"""

from __future__ import annotations

import socket
from typing import Annotated, Any

import msgspec

from hermes.base.platform import bound_resending, bound_silence, keep_alive, tcp_state
from hermes.net.addresses import DEFAULT_PORT, addresses, cannot_listen, host_port, refuse_strangers
from hermes.net.sockets import SocketChannel, dial_first, listen_at, no_room
from hermes.spi.transport import Peer
from hermes.spi.units import ByteSize, Duration
from hermes.spi.url import Url, refuse_user

BACKLOG = 1024
"""Connections the OS completes before they are accepted: a thousand clients may start at once."""
BUFFER_MAX = 1 << 30
"""Bytes of a socket's buffer that are asked for at most: the system counts them in 31 bits, twice."""
KEEPALIVE_MAX_S = 32767
"""Seconds between probes that Linux takes at most: nine hours, for ever as far as probes go."""
KEEPALIVE_PROBES = 4
"""Unanswered probes after which a silent peer counts as gone."""
SILENCES = 2
"""Times `keepalive`: how long what was sent may stay unanswered before the path counts as dead, as
long as the probes take on an idle one.  60 s by default, in place of the system's quarter of an hour."""
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class DialOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a client's URL."""

    nodelay: bool = True
    """Send small messages at once instead of collecting them (TCP_NODELAY)."""
    keepalive: Duration = Duration(30 * NS_PER_S)
    """Silence after which the OS probes whether the peer is still there.  A path that leaves data
    unanswered for twice as long is dead.  0: never."""
    send_buffer: ByteSize = ByteSize(0)
    """Bytes of the socket's send buffer; 0: the OS sizes it as it goes, which is nearly always
    best."""
    receive_buffer: ByteSize = ByteSize(0)
    """Bytes of the socket's receive buffer; 0: the OS sizes it as it goes."""


class ListenOptions(DialOptions, frozen=True, forbid_unknown_fields=True):
    """Options of a listener's URL."""

    connections: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Connections served at a time; further ones are closed at once."""
    backlog: Annotated[int, msgspec.Meta(ge=1, le=65535)] = BACKLOG
    """Connections that may wait to be accepted."""
    insecure: bool = False
    """Listen on an address that other machines reach, even if nothing asks peers who they are."""


def listen(url: Url, options: ListenOptions, *, authenticates: bool) -> socket.socket:
    """A non-blocking socket that listens on the first address the host resolves to.

    ``authenticates``: whether peers are asked who they are; see
    :attr:`hermes.spi.transport.Kernel.authenticates`.

    Raises:
        InvalidUrl: the host is unknown here, others than this machine would reach it and that was
            not asked for, or the address cannot be listened on.
        AddressInUse: another socket holds the address.
    """
    refuse_user(url)
    family, address = addresses(url, passive=True)[0]
    if not (options.insecure or authenticates):
        refuse_strangers(url, address)
    return _listener(url, family, address, options)


def dial(url: Url, options: DialOptions, timeout_ns: int) -> SocketChannel:
    """Connect to the first address of the host that answers, within ``timeout_ns``.

    Raises:
        InvalidUrl: the host is unknown here.
        ConnectFailed: nobody answered, in time or at all.
    """
    return dial_first(
        addresses(url, passive=False),
        url=str(url) if url.port is not None else f"{url} (port {DEFAULT_PORT})",
        timeout_ns=timeout_ns,
        prepare=lambda sock: _prepare_to_dial(sock, options),
    )


def _prepare_to_dial(sock: socket.socket, options: DialOptions) -> None:
    prepare(sock, options)
    if options.keepalive:
        # Also ends the connection to a broker that takes nothing for so long: the next may.
        bound_ms = min(path_bound_ns(options) // NS_PER_MS, 2**31 - 1)
        bound_silence(sock, bound_ms=bound_ms)


def path_bound_ns(options: DialOptions) -> int:
    """How long what was sent may stay unanswered; 0: for as long as the system tries."""
    return SILENCES * options.keepalive


def unanswered(sock: socket.socket, bound_ns: int) -> bool:
    """Whether the peer's machine has answered nothing of what was sent to it for ``bound_ns``.

    A peer that does not read answers: its machine does.  That is what TCP_USER_TIMEOUT does not tell
    apart, and why a listener does not use it: a subscriber may pause for as long as it likes.
    """
    state = tcp_state(sock)
    if state is None:
        return False
    # One probe may have just left; a peer that does not read is probed every other minute at least.
    waits = (state.retransmits > 0 and state.unacknowledged > 0) or state.probes > 1
    return waits and state.silence_ms * NS_PER_MS >= bound_ns


def prepare(sock: socket.socket, options: DialOptions) -> None:
    """Set the options on a socket that is about to connect, or was accepted."""
    _size_buffers(sock, options)
    if options.nodelay:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if options.keepalive:
        seconds = min(max(1, options.keepalive // NS_PER_S), KEEPALIVE_MAX_S)
        interval_s = max(1, seconds // KEEPALIVE_PROBES)
        keep_alive(sock, idle_s=seconds, interval_s=interval_s, probes=KEEPALIVE_PROBES)
        pause_ms = min(max(seconds * 1000 // KEEPALIVE_PROBES, 1000), 120_000)
        bound_resending(sock, pause_ms=pause_ms)


def describe(scheme: str, sock: socket.socket, address: Any) -> Peer:
    """The peer of an accepted socket; an address proves no identity."""
    return Peer(transport=scheme, address=host_port(address), local=False)


def printable(scheme: str, address: Any) -> str:
    """The URL of a listening socket's address."""
    return f"{scheme}://{host_port(address)}"


def _listener(url: Url, family: int, address: Any, options: ListenOptions) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise no_room(str(url), error) from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # a URL means what it says
    _size_buffers(sock, options)  # before listen: it bounds the window that is offered
    try:
        listen_at(sock, address, backlog=options.backlog)
    except OSError as error:
        raise cannot_listen(str(url), address, error) from error
    return sock


def _size_buffers(sock: socket.socket, options: DialOptions) -> None:
    if options.send_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, min(options.send_buffer, BUFFER_MAX))
    if options.receive_buffer:
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, min(options.receive_buffer, BUFFER_MAX)
        )
