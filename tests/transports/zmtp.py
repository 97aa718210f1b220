"""ZeroMQ's transport protocol by hand: what no ZeroMQ library lets a program send."""

from __future__ import annotations

import socket
import struct

DEADLINE_S = 60.0

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""ZMTP 3.0 without keys."""
OLD_GREETINGS = {
    "1.0": b"\x01\x00",
    "2.0": b"\xff" + bytes(7) + b"\x01\x7f\x01\x02\x00\x00",
}


def ready(kind: bytes) -> bytes:
    """The command that ends the handshake of a socket of this kind."""
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return b"\x04" + bytes([len(body)]) + body


def frame(data: bytes) -> bytes:
    """A message of one short part."""
    return b"\x00" + bytes([len(data)]) + data


def address(endpoint: str) -> tuple[str, int]:
    """Host and port of ``tcp://host:port``."""
    host, _, port = endpoint.rpartition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


def connect(endpoint: str) -> socket.socket:
    """A plain TCP or Unix connection to a door."""
    if endpoint.startswith("ipc://"):
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(DEADLINE_S)
        made.connect(endpoint.removeprefix("ipc://"))
        return made
    return socket.create_connection(address(endpoint), DEADLINE_S)


def join(endpoint: str, kind: bytes) -> socket.socket:
    """A connection that has finished ZMTP 3.0's handshake as a socket of ``kind``."""
    made = connect(endpoint)
    made.sendall(GREETING)
    _receive(made, len(GREETING))
    made.sendall(ready(kind))
    _, size = _receive(made, 2)
    _receive(made, size)
    return made


def _receive(made: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = made.recv(size - len(data))
        if not more:
            raise ConnectionError(f"{len(data)} of {size} bytes came")
        data += more
    return data


def ended(made: socket.socket) -> bool:
    """Read until the other side closes; True when it has, within the deadline."""
    try:
        while made.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True
