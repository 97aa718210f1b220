"""Options of a ``udp://`` URL, and the addresses and sockets that follow from it.

Knows sockets, but moves no bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Annotated, Any, Literal

import msgspec

from hermes.errors import InvalidUrl
from hermes.net.addresses import cannot_listen, is_loopback
from hermes.net.interception import Interception
from hermes.spi.units import ByteSize, Duration
from hermes.spi.url import Url
from hermes_udp.native import ffi, lib

LOOPBACK_DATAGRAM = 8192
"""Bytes of a datagram where none is ever cut in pieces."""
DATAGRAM = 1408
"""Bytes of a datagram elsewhere: fits what nearly every path carries, tunnels included."""
JUMBO_DATAGRAM = 8912
"""Bytes of a datagram on links with large frames; tried first, and refused at once by others."""
SMALL_DATAGRAM = 1232
"""Bytes of a datagram that every path with IPv6 must carry."""
CAST_DATAGRAM_MIN = 512
"""Bytes of the smallest datagrams of a group: a beacon with a long pattern has room."""
WINDOW_MIN = 65536
"""Bytes of the smallest window: less than one run of datagrams as the kernel hands it over."""
COPY_SIZE = 262144
"""Bytes of a listener's ring for small pieces, per session; clients' rings are as large as their
window."""
NS_PER_MS = 1_000_000
BUFFER_MAX = 1 << 30
"""Bytes of a socket's buffer that are asked for at most: the system counts them in 31 bits, twice."""
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32
IP_PMTUDISC_PROBE = 3
"""Set the don't-fragment bit, and believe nobody about the path but who answers."""
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
SCALE = 1 << 32
MULTICAST_ONLY = ("interface", "pattern", "repair", "history", "rate", "rate_min", "ttl")
"""Options that make no sense where there is no group."""


class DialOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a client's URL."""

    mtu: int = 0
    """Bytes of the largest datagram, from 256 (what is cast: from 512) to 65507; 0: found out, 8192
    on loopback, elsewhere 1408 unless the path takes larger ones."""
    window: ByteSize = ByteSize(2 << 20)
    """Bytes that may be under way in each direction; what the socket's buffer cannot hold is not
    offered."""
    buffer: ByteSize = ByteSize(4 << 20)
    """Bytes of the socket's buffers, as far as the system allows (`net.core.rmem_max`)."""
    liveness: Duration = Duration(lib.HU_LIVENESS * NS_PER_MS)
    """Silence after which the other side is given up; the other side says something five times as
    often."""
    intercept: str = ""
    """Faults on purpose in what is sent, as in `loss=1%,seed=7`; docs/testing-plugins.md has all."""
    drop: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Share of datagrams that are not sent, on purpose, and of a multicast group's that are not
    received: cheap enough for measurements."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 2)] = 0
    """Number from which the choice of those follows."""
    interface: str = ""
    """Multicast: the interface, by its address as in `127.0.0.1`, or for a group of IPv6 by its name or
    number as in `lo`; empty: the one that the system's routes name."""

    def check(self, url: Url, *, mtu_min: int = lib.HU_DATAGRAM_MIN) -> Interception | None:
        """Check what types cannot express; returns the parsed ``intercept``, if it is set.

        Raises:
            InvalidUrl: it makes no sense.
        """
        if self.mtu and not mtu_min <= self.mtu <= lib.HU_DATAGRAM_MAX:
            raise InvalidUrl(
                f"{url}: mtu is between {mtu_min} and {lib.HU_DATAGRAM_MAX} here, or 0: found out"
            )
        if not WINDOW_MIN <= self.window <= 1 << 30:
            raise InvalidUrl(f"{url}: window is between 64KiB and 1GiB")
        liveness_ms = self.liveness // NS_PER_MS
        if not lib.HU_LIVENESS_MIN <= liveness_ms <= lib.HU_LIVENESS_MAX:
            raise InvalidUrl(f"{url}: liveness is between 100ms and 1h")
        return Interception.parse(self.intercept) if self.intercept else None

    def refuse_multicast(self, url: Url) -> None:
        """For an address that is no group.

        Raises:
            InvalidUrl: an option makes sense for groups only.
        """
        defaults = type(self)()
        for name in MULTICAST_ONLY:
            if getattr(self, name, None) != getattr(defaults, name, None):
                raise InvalidUrl(
                    f"{url}: {name} is for multicast, and {url.host or 'this'} is no group: leave it "
                    "out, or take an address as 239.1.2.3"
                )


class ListenOptions(DialOptions, frozen=True, forbid_unknown_fields=True):
    """Options of a listener's URL."""

    connections: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    """Sessions served at a time; further ones are refused."""
    insecure: bool = False
    """Listen on an address that other machines reach, even if nothing asks peers who they are; cast
    by an interface that they reach, even if the broker asks."""
    pattern: str = ">"
    """Multicast: pattern of the topics that are sent to the group."""
    repair: Literal["multicast", "unicast"] = "multicast"
    """Multicast: send retransmissions to the group, or only to the receiver that asked."""
    history: ByteSize = ByteSize(64 << 20)
    """Multicast: bytes of sent messages kept for retransmission, rounded up to a power of two; two
    of the broker's largest batches must fit."""
    rate: ByteSize = ByteSize(125_000_000)
    """Multicast: bytes of datagrams a second, at most: what the slowest receiver and the network
    take (125 MB is 1 Gbit).  Without `rate_min` no receiver slows the sender down."""
    rate_min: ByteSize = ByteSize(0)
    """Multicast: lowest send rate, bytes a second.  While a receiver lags by more than an eighth of
    `history`, the sender slows down to it.  0: never slow down; receivers that lag too far are
    dropped."""
    ttl: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1
    """Multicast: routers that may pass it on, and one; 1: it stays in the local network."""


def bound(url: Url, family: int, address: Any, options: ListenOptions) -> socket.socket:
    """A listener's socket.

    Raises:
        AddressInUse: another socket holds the address.
        InvalidUrl: there is no such address here, or it is not ours to take.
    """
    with contextlib.ExitStack() as undo:
        sock = made(family, options)
        undo.callback(sock.close)
        try:
            sock.bind(address)
        except OSError as error:
            raise cannot_listen(str(url), address, error, finder="ss -lunp") from error
        undo.pop_all()
        return sock


def connected(family: int, address: Any, options: DialOptions) -> socket.socket:
    """A client's socket.  Raises OSError."""
    with contextlib.ExitStack() as undo:
        sock = made(family, options)
        undo.callback(sock.close)
        sock.connect(address)
        undo.pop_all()
        return sock


def sizes(options: DialOptions, address: Any) -> list[int]:
    """Bytes of datagrams to try towards ``address``, the largest first."""
    if options.mtu:
        return [options.mtu]
    first = [LOOPBACK_DATAGRAM] if is_loopback(address) else [JUMBO_DATAGRAM]
    return [*first, DATAGRAM, SMALL_DATAGRAM]


def native_options(
    sock: socket.socket, options: DialOptions, *, tap_fd: int, listens: bool, sessions: int
) -> Any:
    """``hu_options`` for a socket."""
    native = ffi.new("hu_options *")
    native.fd = sock.fileno()
    native.tap_fd = tap_fd
    native.listens = listens
    native.sessions_max = sessions
    native.datagram = options.mtu or lib.HU_DATAGRAM_MAX
    native.liveness_ms = options.liveness // NS_PER_MS
    native.window = _window(sock, options)
    native.copy_size = COPY_SIZE if listens else native.window
    native.drop = int(options.drop * SCALE)
    native.seed = options.seed + (0 if listens else 1)
    native.secret = os.urandom(32)
    return native


def _window(sock: socket.socket, options: DialOptions) -> int:
    """A power of two that the socket's buffer holds, with what the kernel adds to each datagram."""
    room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    size = max(WINDOW_MIN, min(options.window, room))
    return 1 << (size.bit_length() - 1)


def made(family: int, options: DialOptions) -> socket.socket:
    """A socket that sends whole datagrams only, with buffers as asked for.  Raises OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # a URL means what it says
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    size = min(options.buffer, BUFFER_MAX)
    for forced, asked in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:  # not privileged: as much as everybody may have
            sock.setsockopt(socket.SOL_SOCKET, asked, size)
    return sock
