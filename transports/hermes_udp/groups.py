"""Multicast addresses: which URL names one, by which interface, and the sockets at both ends.

Knows sockets, but moves no bytes.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Any

from hermes.errors import InvalidUrl
from hermes.net.addresses import DEFAULT_PORT, is_multicast, resolve
from hermes.spi.url import Url
from hermes_udp import options as _options
from hermes_udp.options import DialOptions, ListenOptions

IP_MULTICAST_ALL = 49
IPV6_MULTICAST_ALL = 29
UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTUNREACH})


@dataclass(frozen=True, slots=True)
class Group:
    """A group, and by which interface: nothing opened, nothing joined."""

    family: socket.AddressFamily
    host: str
    port: int
    address: str = ""
    """IPv4: the interface's address; empty: the system's choice."""
    index: int = 0
    """IPv6: the interface's number; 0: the system's choice."""

    @property
    def packed(self) -> bytes:
        """Its address, in network order."""
        return socket.inet_pton(self.family, self.host)

    @property
    def name(self) -> Any:
        """The address to which a socket is bound that gets what is sent to the group."""
        return (self.host, self.port, *((0, self.index) if self.index else ()))


def group_of(url: Url, options: DialOptions) -> Group | None:
    """The group that the URL's host is, by itself or as a name; None: it is none.

    Raises:
        InvalidUrl: the name is unknown, or ``interface`` makes no sense for it.
    """
    port = DEFAULT_PORT if url.port is None else url.port
    try:
        host = str(ipaddress.ip_address(url.host.partition("%")[0]))
    except ValueError:
        if not url.host:
            return None
        host = str(resolve(url.host, port, url=str(url), passive=False)[0][1][0])
    if not is_multicast((host,)):
        return None
    if ":" not in host:
        return Group(socket.AF_INET, host, port, address=_address(url, options.interface))
    named = options.interface or url.host.partition("%")[2]
    return Group(socket.AF_INET6, host, port, index=_index(url, named))


def _address(url: Url, interface: str) -> str:
    if not interface:
        return ""
    try:
        return str(ipaddress.IPv4Address(interface))
    except ValueError as error:
        raise InvalidUrl(
            f"{url}: interface={interface} is not the IPv4 address of an interface, such as 127.0.0.1; "
            "`ip addr` lists them"
        ) from error


def _index(url: Url, interface: str) -> int:
    if not interface:
        return 0
    with contextlib.suppress(OSError):
        if not interface.isdecimal():
            return socket.if_nametoindex(interface)
        socket.if_indextoname(int(interface))
        return int(interface)
    raise InvalidUrl(
        f"{url}: there is no interface {interface} here: a group of IPv6 takes one by its name or "
        "number, as in interface=lo; `ip link` lists them"
    )


def source_of(group: Group, url: Url) -> Any:
    """The address of this machine from which the group is reached, with port 0.

    Raises:
        InvalidUrl: the group is not reached at all.
    """
    if group.address:
        return group.address, 0
    with socket.socket(group.family, socket.SOCK_DGRAM) as probe:
        try:
            if group.index:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, group.index)
            probe.connect((group.host, group.port or DEFAULT_PORT))
        except OSError as error:
            raise InvalidUrl(_no_route(group, url, error)) from error
        host, _, *rest = probe.getsockname()
        return (host, 0, *rest)


def _no_route(group: Group, url: Url, error: OSError) -> str:
    if error.errno not in UNREACHABLE:
        return f"{url}: the group cannot be reached: {error}"
    if group.family == socket.AF_INET:
        return (
            f"{url}: the system has no route to the group: name an interface by its address, as in "
            "interface=127.0.0.1"
        )
    if not group.index:
        return (
            f"{url}: the system has no route to the group: name an interface by its name or number, "
            "as in interface=lo"
        )
    name = socket.if_indextoname(group.index)
    return (
        f"{url}: the system has no route to groups of IPv6 by {name}: `ip -6 route add local ff00::/8 "
        f"dev {name}` makes one, or take a group of IPv4, as 239.1.2.3"
    )


def casting(url: Url, group: Group, source: Any, options: ListenOptions) -> socket.socket:
    """The socket of a listener that casts.

    Raises:
        InvalidUrl: there is no such interface.
    """
    with contextlib.ExitStack() as undo:
        sock = _options.bound(url, group.family, source, options)
        undo.callback(sock.close)
        if group.family == socket.AF_INET:
            member = socket.inet_aton(source[0])
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, options.ttl)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, group.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, options.ttl)
        undo.pop_all()
        return sock


def joined(group: Group, options: DialOptions) -> socket.socket:
    """A socket that gets what is sent to the group.  Raises OSError."""
    with contextlib.ExitStack() as undo:
        sock = _options.made(group.family, options)
        undo.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if group.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            member = group.packed + socket.inet_aton(group.address or "0.0.0.0")
            joining = (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
            member = group.packed + struct.pack("=I", group.index)
            joining = (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        sock.bind(group.name)
        sock.setsockopt(*joining)
        undo.pop_all()
        return sock
