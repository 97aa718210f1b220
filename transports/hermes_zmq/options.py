"""Options of ``zmq+tcp`` and ``zmq+ipc`` URLs, and the addresses of a listener's doors.

Knows no socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from hermes.errors import InvalidUrl
from hermes.native.patterns import check_given_pattern, check_given_topic
from hermes.net.addresses import (
    DEFAULT_HOST,
    host_port,
    refuse_path,
    refuse_strangers,
    resolve,
    scoped,
)
from hermes.spi.units import ByteSize, Duration
from hermes.spi.url import PORT_MAX, Url

DEFAULT_PORT = 5556
ROLES = ("pub", "sub", "pull", "push", "router")
"""The doors, in the order of their default ports; each is named after who connects to it, the last
after what it is."""
NS_PER_S = 1_000_000_000
IPC_PATH_MAX = 100
"""Bytes of a path: the system's limit is 107, and a door's name is added."""


class DialOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a client's URL."""

    router: Annotated[int, msgspec.Meta(ge=0, le=PORT_MAX)] = 0
    """Port of the router door; 0: four above the URL's own port, as a listener's defaults are.
    `zmq+ipc` has none."""
    doors: str = ""
    """Means nothing to a client: a listener's URL names its doors, if they are not all."""
    curve: str = ""
    """The client's key file, as `hermes keys new` writes it: encrypt, and prove who we are."""
    server: str = ""
    """The broker's public key: its 40 characters, or a file that `hermes keys new` wrote."""


class ListenOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a listener's URL."""

    doors: str = "pub,sub,pull,push,router"
    """Which doors to open."""
    pub: str = ""
    """Port that PUB sockets connect to, by default the URL's own; 0: any free one.  `zmq+ipc` has
    paths instead of ports, and takes none of these five."""
    sub: str = ""
    """Port that SUB sockets connect to, by default one above; with commas, as many doors of this
    kind, each with a pace of its own."""
    pull: str = ""
    """Port that PULL sockets connect to, by default two above."""
    push: str = ""
    """Port that PUSH sockets connect to, by default three above."""
    router: str = ""
    """Port that Hermes clients connect to (`hermes.connect("zmq+tcp://...")`), by default four
    above."""
    pattern: str = ">"
    """The topics that go out by the doors for SUB and PULL."""
    start: Literal["latest", "earliest", "last"] = msgspec.field(default="latest", name="from")
    """Start of a door for SUB when its first subscriber has joined."""
    slow: Literal["block", "drop"] = "block"
    """Policy for a subscriber at its high-water mark: block the door, so that nothing is lost; or
    drop messages uncounted, as a PUB socket does."""
    hold: Duration = Duration(60 * NS_PER_S)
    """How long a subscriber that reads nothing may hold its door with `slow=block`; then its
    connection is ended, and a warning says so.  0: for ever."""
    work: str = ""
    """A topic for everything that PUSH sockets send, and the only one that PULL sockets get; none:
    as for PUB and SUB."""
    durable: str = ""
    """Name under which the position of the door for PULL is kept, so that it goes on there after a
    restart."""
    split: bool = True
    """Take the text before the first space of a message of one part for its topic.  `no` is right
    for log lines and samples."""
    form: Literal["multipart", "single"] = "multipart"
    """How ZeroMQ programs get what Hermes clients publish: as two parts, or as one, with a space
    between topic and payload."""
    high_water: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 1000
    """Messages that may wait in a socket for each peer and direction (ZMQ_SNDHWM, ZMQ_RCVHWM)."""
    message_max: ByteSize = ByteSize(16 * 1024 * 1024)
    """Bytes of one part over which libzmq hangs up on its sender (ZMQ_MAXMSGSIZE), plus 64 KiB."""
    connections: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    """Hermes clients served at a time; further ones are turned away."""
    curve: str = ""
    """The listener's key file, as `hermes keys new` writes it: every door speaks CURVE only."""
    users: str = ""
    """File of the clients that may connect: a name and a public key per line.  Needs `curve`; none:
    every client that has the listener's public key."""
    io_threads: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """Threads of libzmq that do the network's work."""
    insecure: bool = False
    """Listen on an address that other machines reach, although nothing asks peers who they are."""


@dataclass(frozen=True, slots=True)
class DoorPlace:
    """One door to open: its role, its name in the ready file, and where it binds."""

    role: str
    name: str
    endpoint: str


def places(url: Url, options: ListenOptions) -> list[DoorPlace]:
    """The doors that ``url`` asks for, in the order of :data:`ROLES`.

    Raises:
        InvalidUrl: a door is unknown, or its port is none.
    """
    wanted = [role.strip() for role in options.doors.split(",")]
    unknown = [role for role in wanted if role not in ROLES]
    if unknown or len(set(wanted)) != len(wanted):
        raise InvalidUrl(
            f"{url}: doors={options.doors} names each of {', '.join(ROLES)} once at most"
        )
    found = []
    for role in ROLES:
        if role in wanted:
            for number, endpoint in enumerate(_endpoints(url, options, role), 1):
                found.append(DoorPlace(role, role if number == 1 else f"{role}{number}", endpoint))
    return found


def check(url: Url, options: ListenOptions, *, authenticates: bool) -> None:
    """Refuse what makes no sense before anything listens.

    ``authenticates``: whether the broker asks its clients who they are; see
    :attr:`hermes.spi.transport.Kernel.authenticates`.

    Raises:
        InvalidUrl: it says what, and what to do.
    """
    try:
        check_given_pattern(options.pattern)
        if options.work:
            check_given_topic(options.work)
    except ValueError as error:
        raise InvalidUrl(f"{url}: {error}") from error
    if options.users and not options.curve:
        raise InvalidUrl(f"{url}: users=... needs curve=...: without keys nobody can be told apart")
    if authenticates and url.username is None and places(url, options)[0].role != "router":
        raise InvalidUrl(
            f"{url}: this broker asks its clients who they are, which ZeroMQ programs cannot say: "
            f"name a user for them ({url.scheme}://USER:TOKEN@...), or open the door for Hermes "
            "clients only (?doors=router)"
        )
    if url.scheme == "zmq+tcp" and not (options.insecure or (options.curve and options.users)):
        _, address = resolve(url.host or DEFAULT_HOST, 0, url=str(url), passive=True)[0]
        refuse_strangers(
            url, address, cure="give keys with ?curve=FILE&users=FILE (see `hermes keys new`)"
        )


def router_endpoint(url: Url, options: DialOptions) -> str:
    """Address that a client of ``url`` connects to.

    Raises:
        InvalidUrl: there can be no such address.
    """
    if url.scheme == "zmq+ipc":
        return _ipc(url, "router")
    refuse_path(url)
    port = options.router or (DEFAULT_PORT if url.port is None else url.port) + ROLES.index(
        "router"
    )
    if not 0 < port <= PORT_MAX:
        raise InvalidUrl(f"{url}: there is no port {port} for the router door; give ?router=PORT")
    return _tcp(url, port, passive=False)


def listener_url(url: Url, options: ListenOptions, bound: dict[str, str]) -> str:
    """The URL that a Hermes client connects to, once the doors are ``bound``."""
    query = {} if options.doors == ListenOptions().doors else {"doors": options.doors}
    if url.scheme == "zmq+ipc":
        return str(Url(scheme=url.scheme, path=url.path, query=query))
    ports = {name: int(endpoint.rpartition(":")[2]) for name, endpoint in bound.items()}
    host = next(iter(bound.values())).removeprefix("tcp://").rpartition(":")[0].strip("[]")
    router = ports.get("router")
    base = url.port or ports.get("pub") or min(ports.values())
    implied = base + ROLES.index("router")
    if router is not None and router != implied:
        query["router"] = str(router)
    return str(Url(scheme=url.scheme, host=host, port=base, query=query))


def _endpoints(url: Url, options: ListenOptions, role: str) -> list[str]:
    asked = getattr(options, role)
    if url.scheme == "zmq+ipc":
        if asked:
            raise InvalidUrl(f"{url}: {role}={asked} names a port, but ipc has none")
        return [_ipc(url, role)]
    refuse_path(url)
    base = DEFAULT_PORT if url.port is None else url.port
    texts = asked.split(",") if asked else [str(base + ROLES.index(role) if base else 0)]
    if len(texts) > 1 and role != "sub":
        raise InvalidUrl(f"{url}: only sub takes several ports, {role}={asked} does not")
    for text in texts:
        if not text.isdecimal() or len(text) > len(str(PORT_MAX)) or int(text) > PORT_MAX:
            raise InvalidUrl(f"{url}: {role}={text} is not a port (0 to {PORT_MAX})")
    return [_tcp(url, int(text), passive=True) for text in texts]


def _tcp(url: Url, port: int, *, passive: bool) -> str:
    _, address = resolve(url.host or DEFAULT_HOST, port, url=str(url), passive=passive)[0]
    return f"tcp://{host_port((scoped(address), port or '*'))}"


def _ipc(url: Url, role: str) -> str:
    if url.host or url.port is not None or url.path in ("", "/"):
        raise InvalidUrl(f"{url}: expected zmq+ipc:///path, three slashes before an absolute path")
    if len(url.path.encode()) > IPC_PATH_MAX:
        raise InvalidUrl(f"{url}: a socket's path has at most {IPC_PATH_MAX} bytes")
    return f"ipc://{url.path}.{role}"
