"""Descriptors that a forked child must not keep: listening sockets, connections, locks.

Part of the SPI.  A child of :func:`os.fork` has every descriptor of its parent, and what the kernel
ties to an open file (a lock, a port, the end of a connection) lasts until the child has closed it as
well.  Owners register here; in the child their descriptors are replaced by ``/dev/null``, under the
same numbers, so that closing them again later harms nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from typing import Protocol
from weakref import WeakSet


class Owner(Protocol):
    """An object with descriptors that are of use in its own process only."""

    def abandon(self) -> Iterable[int]:
        """Return the descriptors that a child must not keep; negative ones are ignored.

        Called in a forked child, which has none of the parent's threads: the object must neither
        wait nor send, and takes no lock.
        """


_OWNERS: WeakSet[Owner] = WeakSet()


def close_in_children(owner: Owner) -> None:
    """Have the descriptors of ``owner`` closed in children that are forked from now on.

    Only a weak reference is kept.  Children that C code makes without Python's knowledge are not
    reached: code that closes a lock or a socket should unlock it, or shut it down, all the same.
    """
    _OWNERS.add(owner)


def end_socket(sock: socket.socket) -> None:
    """Close ``sock``, ending the connection or the listening also if a child has the socket."""
    with contextlib.suppress(OSError):  # not connected, or the peer was faster
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _in_child() -> None:
    owners = list(_OWNERS)
    if not owners:
        return
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        null = -1
    for owner in owners:
        for descriptor in owner.abandon():
            if descriptor >= 0:
                _replace(descriptor, null)
    if null >= 0:
        os.close(null)


def _replace(descriptor: int, null: int) -> None:
    with contextlib.suppress(OSError):  # it was closed already
        if null < 0:
            os.close(descriptor)
        else:
            os.dup2(null, descriptor, inheritable=False)


os.register_at_fork(after_in_child=_in_child)
