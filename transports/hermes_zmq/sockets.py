"""ZeroMQ sockets as the doors and the client use them: made, watched, and their errors told.

The meaning of ZeroMQ's descriptor is known here and in the pump: it becomes readable when an *event*
has happened at the socket, and any call on the socket may take the event.  So a thread that has called
the socket asks for ``ZMQ_EVENTS`` before it waits.
"""

from __future__ import annotations

import contextlib
import os
import socket as sockets
from collections.abc import Iterable, Iterator
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from hermes.base.platform import open_descriptors
from hermes.errors import InvalidUrl
from hermes.net.addresses import cannot_listen
from hermes_zmq import paths

KEEPALIVE_S = 30
"""Silence after which the OS probes whether a TCP peer's machine is still there."""
KEEPALIVE_PROBES = 4
"""Unanswered probes after which it counts as gone."""
PATH_BOUND_S = 2 * KEEPALIVE_S
"""How long what was sent may stay unanswered before the path counts as dead: as long as the probes
take on an idle one."""
HANDSHAKE_MS = 10_000
"""A peer that has not finished ZeroMQ's handshake by then is hung up on."""
LINGER_MS = 1000
"""How long what libzmq has taken may still leave when a door is closed."""
BACKLOG = 1024
"""Connections that may wait to be accepted."""
SIZE_SLACK = 65536
"""Bytes a part may have over the message limit: it is counted and dropped; with more, its sender is
hung up on."""

WATCHED = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
"""Events that a listener's monitor reports."""

DESCRIPTORS = 12
"""Descriptors that a context with one watched socket and a connection needs."""

Socket = zmq.Socket[Any]


def make_context(io_threads: int, sockets: int) -> zmq.Context[Any]:
    """A context for that many sockets, each with a monitor.

    libzmq ends the process when it runs out of descriptors while it starts, so we look first.

    Raises:
        zmq.ZMQError: there are too few.
    """
    with contextlib.ExitStack() as undo:
        try:
            for _ in range(DESCRIPTORS * sockets + 2 * io_threads):
                undo.callback(os.close, os.dup(2))
        except OSError as error:
            raise zmq.ZMQError(error.errno) from error
    return zmq.Context(io_threads)


def make_socket(
    context: zmq.Context[Any], kind: int, *, high_water: int, message_max: int
) -> Socket:
    """A socket with the settings that all doors share."""
    socket: Socket = context.socket(kind)
    socket.set_hwm(high_water)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S // KEEPALIVE_PROBES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, message_max + SIZE_SLACK)
    return socket


def bind(socket: Socket, endpoint: str, *, url: str) -> str:
    """Bind; returns the address with the port that the OS chose.

    Raises:
        AddressInUse, InvalidUrl: it says what to do.
    """
    allow_ipv6(socket, endpoint)
    with paths.claimed(endpoint, url=url):
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise _cannot_bind(endpoint, url, error) from error
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT)).rstrip("\0")


def descriptors_at(endpoints: Iterable[str]) -> Iterator[int]:
    """The descriptors of this process's sockets that listen at bound endpoints, or were accepted
    there: libzmq does not tell which are its own."""
    places = {_place(endpoint) for endpoint in endpoints}
    for descriptor in open_descriptors():
        with contextlib.suppress(OSError):  # what is no socket
            sock = sockets.socket(fileno=descriptor)
            try:
                bound = sock.getsockname()
                if sock.family == sockets.AF_UNIX:
                    own = ("", bound) in places
                else:
                    own = any((host, bound[1]) in places for host in (bound[0], "0.0.0.0", "::"))
            finally:
                sock.detach()
            if own:
                yield descriptor


def _place(endpoint: str) -> tuple[str, str | int]:
    """Host and port, or no host and a path, as a socket tells them."""
    scheme, _, place = endpoint.partition("://")
    if scheme != "tcp":
        return "", place.replace("@", "\0", 1) if place.startswith("@") else place
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port)


def allow_ipv6(socket: Socket, endpoint: str) -> None:
    """Let a socket use an IPv6 address; without one it stays with IPv4, whose addresses print as
    such."""
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))


def _cannot_bind(endpoint: str, url: str, error: zmq.ZMQError) -> Exception:
    scheme, _, place = endpoint.partition("://")
    if scheme != "tcp":
        return InvalidUrl(f"{url}: cannot bind {endpoint}: {error}")
    host, _, port = place.rpartition(":")
    return cannot_listen(
        url,
        (host.strip("[]"), port),
        OSError(error.errno, error.strerror),
        instead=(
            "choose other ports: the doors of a listener take five in a row (?doors=... opens "
            "fewer, port 0 takes any free ones)"
        ),
    )


def events(socket: Socket) -> int:
    """Operations that the socket would do now; it takes its events first."""
    return int(socket.getsockopt(zmq.EVENTS))


class Monitor:
    """Events of a socket's peers."""

    def __init__(self, socket: Socket, watched: int = WATCHED) -> None:
        self._watched = socket
        self._socket: Socket = socket.get_monitor_socket(watched)
        self.fd = int(self._socket.getsockopt(zmq.FD))
        events(self._socket)  # the descriptor tells only those who have looked before

    def news(self) -> Iterator[tuple[int, int]]:
        """Events since the last call: each event, and its value."""
        while True:
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                if events(self._socket) & zmq.POLLIN:
                    continue
                return
            told: Any = parse_monitor_message(parts)
            yield int(told["event"]), int(told["value"])

    def close(self) -> None:
        """Stop watching."""
        self._watched.disable_monitor()
        self._socket.close(0)
