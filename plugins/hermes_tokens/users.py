"""The file of users: what it looks like, and who may have written it.

::

    [users.alice]
    token = "..."                  # or token_sha256 = "its SHA-256, in hex"
    publish = ["orders.alice.>"]
    subscribe = ["orders.alice.>", "md.>"]

Knows no broker.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from hermes.errors import InvalidConfig, InvalidTopic
from hermes.spi.hooks import Grant

SIZE_MAX = 16 * 1024 * 1024
"""Bytes of the file: about a hundred thousand users."""
TOKEN_MIN = 16
"""Characters of a token: a peer that may connect may guess, as fast as the broker answers."""

SETTLED_NS = 100_000_000
"""A file is read again until it has looked the same for so long: times in a file system are as coarse
as some milliseconds, and it may have changed once more within one."""

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Token = Annotated[str, msgspec.Meta(min_length=TOKEN_MIN)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One ``[users.NAME]`` table."""

    token: Token | None = None
    """Token that the user has to show."""
    token_sha256: Digest | None = None
    """Instead of it, its SHA-256 in hex: nobody who reads the file can use it."""
    proven: bool = False
    """Believe a transport that has proven who the peer is; no token is needed then."""
    publish: tuple[str, ...] = ()
    """Patterns of topics the user may publish to."""
    subscribe: tuple[str, ...] = ()
    """Patterns the user may subscribe to."""
    inspect: bool = False
    """Whether the user may see the broker's counters, configuration and durable names."""
    forget: bool = False
    """Whether the user may have durable names forgotten."""


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    users: dict[Name, Entry]


class User:
    """Somebody the file names."""

    __slots__ = ("digest", "grant", "proven")

    def __init__(self, name: str, entry: Entry) -> None:
        self.digest = _digest_of(entry)
        """SHA-256 of the token; None: there is none."""
        self.proven = entry.proven
        self.grant = Grant(name, entry.publish, entry.subscribe, entry.inspect, entry.forget)


class Users:
    """Users of the file, as of when it was last read."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            InvalidConfig: it cannot be read, others can read it, or it is not as it should be.
        """
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._seen: tuple[tuple[int, ...], int] = ((), 0)
        self._by_name: dict[str, User] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read it again if it has changed.  Raises as the constructor does: nobody is a user then."""
        try:
            # Not blocking: a pipe by that name would have us wait for somebody to write to it.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                stamp = _stamp_of(status)
                if stamp == self._stamp:
                    return
                self._stamp, self._by_name = (), {}
                _check_mode(self._path, status)
                settled = self._seen[0] == stamp and (
                    time.monotonic_ns() - self._seen[1] > SETTLED_NS
                )
                if self._seen[0] != stamp:
                    self._seen = (stamp, time.monotonic_ns())
                text = file.read(SIZE_MAX + 1)
        except OSError as error:
            self._stamp, self._by_name = (), {}
            raise InvalidConfig(f"{self._path} cannot be read: {error.strerror}") from error
        if len(text) > SIZE_MAX:
            raise InvalidConfig(f"{self._path} has more than {SIZE_MAX} bytes")
        self._by_name = _parse(self._path, text)
        if settled:
            self._stamp = stamp

    def get(self, name: str) -> User | None:
        """The user of that name, if there is one."""
        return self._by_name.get(name)


def _stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Numbers that differ once the file has been changed or replaced; nobody can set its ctime."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_ctime_ns,
        status.st_mtime_ns,
        status.st_size,
        status.st_mode,
    )


def _check_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InvalidConfig(f"{path} is no regular file")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidConfig(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others can read or write the "
            f"tokens. Expected 0600: chmod 600 {path}"
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise InvalidConfig(
            f"{path} belongs to user {status.st_uid}, not to the broker's: chown it"
        )


def _parse(path: Path, text: bytes) -> dict[str, User]:
    """Messages name users and keys, never a token: they are logged."""
    try:
        document = msgspec.convert(tomllib.loads(text.decode()), Document)
        return {name: User(name, entry) for name, entry in document.users.items()}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        where = re.search(r"\(at .*\)$", str(error))
        raise InvalidConfig(f"{path} is not TOML {where[0] if where else ''}".rstrip()) from None
    except msgspec.ValidationError as error:
        raise InvalidConfig(f"{path}: {error}") from None
    except (InvalidTopic, ValueError) as error:
        raise InvalidConfig(f"{path}: {error}") from None


def _digest_of(entry: Entry) -> bytes | None:
    if entry.token is not None and entry.token_sha256 is not None:
        raise ValueError("a user has a token or a token_sha256, not both")
    if entry.token is None and entry.token_sha256 is None and not entry.proven:
        raise ValueError("a user without a token needs proven = true")
    if entry.token is not None:
        return hashlib.sha256(entry.token.encode()).digest()
    return bytes.fromhex(entry.token_sha256) if entry.token_sha256 else None
