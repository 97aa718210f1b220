"""Paths of Unix sockets: one listener each, as ports have it.

libzmq removes what stands at a path before it binds there: a socket that serves, or a file of
another kind.  So what is there is looked at first.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from hermes.errors import AddressInUse, InvalidUrl

PREFIX = "ipc://"


@contextlib.contextmanager
def claimed(endpoint: str, *, url: str) -> Iterator[None]:
    """While it is bound, no other broker binds ``endpoint``; other endpoints than paths need none
    of this.

    Raises:
        AddressInUse: a program serves there, or another broker is about to.
        InvalidUrl: what stands there is no socket.
    """
    if not endpoint.startswith(PREFIX):
        yield
        return
    path = endpoint.removeprefix(PREFIX)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mutex:
        try:
            mutex.bind("\0hermes-zmq:" + _name(path))
        except OSError as error:
            raise AddressInUse(f"{url}: another broker is about to listen at {path}") from error
        _look(path, url)
        yield


def inode(endpoint: str) -> int:
    """Return the inode of the socket's file, by which :func:`remove` knows it; 0: there is none."""
    if endpoint.startswith(PREFIX):
        with contextlib.suppress(OSError):
            return Path(endpoint.removeprefix(PREFIX)).stat().st_ino
    return 0


def remove(endpoint: str, number: int) -> None:
    """Remove the socket's file, unless another has taken its place."""
    if number and inode(endpoint) == number:
        with contextlib.suppress(OSError):
            Path(endpoint.removeprefix(PREFIX)).unlink()


def _name(path: str) -> str:
    """A name of the path that is the same by whatever way it is reached, and fits an address."""
    place = Path(path)
    try:
        found = place.parent.stat()
    except OSError:
        return "?"  # binding says what is wrong
    whole = f"{found.st_dev}.{found.st_ino}/{place.name}"
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def _look(path: str, url: str) -> None:
    try:
        mode = Path(path).lstat().st_mode
    except OSError:
        return  # nothing is there, or binding says what is wrong
    if not stat.S_ISSOCK(mode):
        raise InvalidUrl(
            f"{url}: {path} is there already, and is not a socket: choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog is an answer too
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return  # left by a process that is gone
        except OSError:
            pass
    raise AddressInUse(
        f"{url}: another process listens at {path}: stop it (`ss -lxp` names it), or choose another "
        "path"
    )
