"""Addresses of IP transports: what a URL's host and port stand for, and who may listen where.

Part of the SPI: TCP, UDP and what is built on them say the same of the same mistake.  Opens no socket
and moves no bytes.  An address is what the :mod:`socket` module has: host and port come first.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from hermes.errors import AddressInUse, ConnectFailed, InvalidUrl, SystemFault
from hermes.spi.url import Url

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7601
NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})

NO_ANSWER = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL})
"""Errors of a name lookup that say nothing about the name itself."""


def addresses(
    url: Url, *, passive: bool, default_port: int = DEFAULT_PORT
) -> list[tuple[socket.AddressFamily, Any]]:
    """Resolve ``url``; addresses in the system's order of preference.  ``passive``: to listen
    there.

    Raises:
        InvalidUrl: it has a path, its host is unknown here, or it is a multicast group.
        ConnectFailed, SystemFault: as :func:`resolve`.
    """
    refuse_path(url)
    port = default_port if url.port is None else url.port
    found = resolve(url.host or DEFAULT_HOST, port, url=str(url), passive=passive)
    group = next((address[0] for _, address in found if is_multicast(address)), None)
    if group is not None:
        raise InvalidUrl(
            f"{url}: {group} is a multicast group, and no machine's address: take one of those, or "
            "transport udp and a group of IPv4, as in udp://239.1.2.3:7601"
        )
    return found


def resolve(
    host: str, port: int, *, url: str, passive: bool
) -> list[tuple[socket.AddressFamily, Any]]:
    """The addresses of ``host`` and ``port``, in the order the system prefers.

    Raises:
        InvalidUrl: the name does not resolve.
        ConnectFailed: nobody says right now whether it does; ``passive``: a plain SystemFault.
    """
    flags = socket.AI_PASSIVE if passive else 0
    try:
        name = host.encode("ascii" if host.isascii() else "idna")  # str: Python would take "idna"
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise InvalidUrl(
            f"{url}: {host!r} cannot be the name of a host ({error}); check its spelling"
        ) from error
    except OSError as error:
        if error.errno in NO_ANSWER:
            kind = SystemFault if passive else ConnectFailed
            raise kind(
                f"{url}: the host {host!r} cannot be looked up now ({error}); try again when the "
                "name server answers, or give an address"
            ) from error
        raise InvalidUrl(
            f"{url}: the host {host!r} is unknown here ({error}); check its spelling"
        ) from error
    return [_unmapped(family, address) for family, _, _, _, address in found]


def _unmapped(family: socket.AddressFamily, address: Any) -> tuple[socket.AddressFamily, Any]:
    """An address of IPv4 that is written as one of IPv6 (``::ffff:127.0.0.1``) as what it is: sockets
    of IPv6 are for IPv6 alone."""
    if family == socket.AF_INET6:
        mapped = ipaddress.IPv6Address(address[0].partition("%")[0]).ipv4_mapped
        if mapped is not None:
            return socket.AF_INET, (str(mapped), address[1])
    return family, address


def host_port(address: Any) -> str:
    """As it stands in a URL, the interface of a link-local address included."""
    host, port = scoped(address), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def scoped(address: Any) -> str:
    """The host of an address with the interface that it is of: a link-local one of IPv6 means
    nothing without."""
    host = str(address[0])
    scope = address[3] if len(address) > 3 else 0
    if not scope or "%" in host:
        return host
    try:
        return f"{host}%{socket.if_indextoname(scope)}"
    except OSError:  # the interface has gone
        return f"{host}%{scope}"


def is_loopback(address: Any) -> bool:
    """Whether nobody but this machine can reach it."""
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool(ip.is_loopback or (mapped is not None and mapped.is_loopback))


def is_multicast(address: Any) -> bool:
    """Whether it is a group's, and no machine's."""
    return ipaddress.ip_address(address[0].partition("%")[0]).is_multicast


def refuse_path(url: Url) -> None:
    """A URL of this kind names a host and no path.

    Raises:
        InvalidUrl: there is one.
    """
    if url.path not in ("", "/"):
        raise InvalidUrl(
            f"{url}: a {url.scheme} URL has no path: expected {url.scheme}://host:port"
        )


def refuse_strangers(
    url: Url, address: Any, *, cure: str = "give the broker a plugin that authenticates"
) -> None:
    """Refuse ``address`` for a listener without authentication if other machines can reach it.

    A listener whose URL says ``?insecure=yes`` does not call this.

    Raises:
        InvalidUrl: other machines reach it; ``cure`` says how to authenticate peers instead.
    """
    if not is_loopback(address):
        raise InvalidUrl(
            f"{url} can be reached from other machines, and nothing asks peers who they are: "
            f"listen on 127.0.0.1 or [::1], {cure}, or say that you want this by adding "
            "?insecure=yes"
        )


def cannot_listen(
    url: str,
    address: Any,
    error: OSError,
    *,
    finder: str = "ss -ltnp",
    instead: str = "listen on another port (0: any free one)",
) -> AddressInUse | InvalidUrl:
    """The error to raise after binding to ``address`` failed with ``error``.

    ``finder`` lists listeners with their processes; ``instead`` is what to do if they must stay.
    """
    place, port = host_port(address), address[1]
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(
            f"{url}: {place} is taken by another process: stop it (`{finder} 'sport = :{port}'` "
            f"names it), or {instead}"
        )
    if error.errno in NO_SUCH_ADDRESS:
        return InvalidUrl(
            f"{url}: this machine has no address {address[0]}; `ip addr` lists those it has"
        )
    if error.errno == errno.EACCES:
        return InvalidUrl(f"{url}: port {port} needs privileges here; take one of 1024 or above")
    return InvalidUrl(f"{url}: cannot listen: {error}")
