"""Ports for what is to listen at an address that is known before."""

from __future__ import annotations

import contextlib
import random
import socket

PORTS = range(20000, 30000)
"""Below those that a connection gets: a client that dials one of these before the listener is there does
not get through to itself, and no connection elsewhere takes one while a listener is away."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, in random order."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("all ports are taken")
