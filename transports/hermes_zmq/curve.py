"""CURVE keys in files, and who may connect: ZeroMQ's own formats, so that its tools read them too.

A key file is what ``zmq.auth`` writes: sections ``metadata`` and ``curve`` with a public key and,
in the secret one, the secret key.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from hermes.errors import InvalidUrl, UsageError
from hermes_zmq.sockets import Socket

KEY_SIZE = 40
"""Characters of a key, in ZeroMQ's base 85."""
KEY_BYTES = 32
"""Bytes that they stand for."""
DOMAIN = "hermes"
"""ZAP's name for what is asked about."""
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_PARTS = 7
"""Parts of a CURVE request: six of any request, and the key."""
ADMISSION = "X-Hermes-Admission"
"""Property of every message of an admitted connection: its number, which no other ever has."""
SECRET_MODE = 0o600
_FIELD = re.compile(r'^\s*(public-key|secret-key)\s*=\s*"([^"]*)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Keys:
    """A key pair, or only its public half."""

    public: bytes
    secret: bytes | None = field(repr=False)


def read_keys(path: str | Path, *, secret: bool) -> Keys:
    """The keys in a file.

    Raises:
        InvalidUrl: it cannot be read, or has not what is asked for.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidUrl(
            f"the key file {path} cannot be read: {error}; `hermes keys new` makes one"
        ) from error
    found = dict(_FIELD.findall(text))
    wanted = ["public-key"] + (["secret-key"] if secret else [])
    for name in wanted:
        if len(found.get(name, "")) != KEY_SIZE:
            raise InvalidUrl(
                f"{path} has no {name} of {KEY_SIZE} characters: `hermes keys new NAME` writes "
                "NAME.key, which has both, and NAME.pub"
            )
    private = found["secret-key"].encode() if secret else None
    return Keys(found["public-key"].encode(), private)


def public_key(text: str) -> bytes:
    """A public key as it stands in a URL: its characters, or the name of a file that has it."""
    if Path(text).exists():
        return read_keys(text, secret=False).public
    try:
        whole = len(text) == KEY_SIZE and len(z85.decode(text.encode())) == KEY_BYTES
    except (ValueError, KeyError, struct.error):
        whole = False
    if not whole:
        raise InvalidUrl(
            f"a public key has {KEY_SIZE} characters of ZeroMQ's base 85, and no file is called what "
            f"was given, of {len(text)} characters: in a URL %, &, # and ? of a key are written %25, "
            "%26, %23 and %3F; or name the file (server=FILE.pub)"
        )
    return text.encode()


def write_keys(name: str | Path, *, overwrite: bool = False) -> tuple[Path, Path, Keys]:
    """Make a pair; write ``name.key``, which only its owner can read, and ``name.pub``.

    Raises:
        UsageError: ``name`` names no file.
        FileExistsError: one of them is there already.
    """
    if str(name).rpartition("/")[2] in ("", ".", ".."):  # Path("keys/") would be Path("keys")
        raise UsageError(f"{str(name)!r} names no file: the pair is NAME.key and NAME.pub")
    public, secret = zmq.curve_keypair()
    secret_file, public_file = Path(f"{name}.key"), Path(f"{name}.pub")
    for file in (secret_file, public_file):
        if file.exists() and not (overwrite and file.is_file()):
            raise FileExistsError(f"{file} is there already")
    both = f'    public-key = "{public.decode()}"\n'
    _write(public_file, f"metadata\ncurve\n{both}", 0o644)
    _write(
        secret_file,
        "#   Whoever has this file is who it says: keep it to yourself.\n"
        f'metadata\ncurve\n{both}    secret-key = "{secret.decode()}"\n',
        SECRET_MODE,
    )
    return secret_file, public_file, Keys(public, secret)


def _write(path: Path, text: str, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:  # a full disk: no part of a key stays behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_users(path: str | Path) -> dict[bytes, str]:
    """Public key to name, from lines of a name and a key (or the file that has it).

    Raises:
        InvalidUrl: it cannot be read; a line is not one.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidUrl(f"the list of users {path} cannot be read: {error}") from error
    users: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        words = [] if line.lstrip().startswith("#") else line.split()
        if not words:
            continue
        if len(words) != 2 or len(words[1]) != KEY_SIZE:
            raise InvalidUrl(
                f"{path}, line {number}: expected a name and a public key of {KEY_SIZE} characters"
            )
        name, key = words
        if users.get(key.encode(), name) != name:
            raise InvalidUrl(f"{path}, line {number}: the key of {users[key.encode()]!r} again")
        users[key.encode()] = name
    return users


def ask_zap(socket: Socket) -> None:
    """Have a socket that will bind ask ZAP about every peer, whether or not it speaks CURVE.

    libzmq refuses ZMTP 1.0 and 2.0 then, which cannot be told from HTTP, TLS or text: what these
    send would be taken for messages.
    """
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN.encode())


def serve_curve(socket: Socket, keys: Keys) -> None:
    """Have a socket that will bind speak CURVE only."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret or b"")


def use_curve(socket: Socket, keys: Keys, server: bytes) -> None:
    """Have a socket that will connect speak CURVE."""
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret or b"")
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)


class Gatekeeper:
    """Answers ZAP for one listener: whether a connection may come in, and under which number.

    Without keys (``keyed`` False) every ZeroMQ program may.
    """

    def __init__(
        self, context: zmq.Context[Any], users: dict[bytes, str] | None, *, keyed: bool
    ) -> None:
        """``users`` None: every program that has the listener's public key."""
        self._users = users
        self._keyed = keyed
        self._socket: Socket = context.socket(zmq.REP)
        self._socket.bind(ZAP_ENDPOINT)
        self.fd = int(self._socket.getsockopt(zmq.FD))
        self.admitted = 0
        self.refused = 0

    def poll(self) -> int:
        """Answer what is asked; returns how many."""
        count = 0
        while True:
            try:
                request = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                if int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    continue
                return count
            self._socket.send_multipart(self._answer(request))
            count += 1

    def _answer(self, request: list[bytes]) -> list[bytes]:
        number = request[1] if len(request) > 1 else b""
        user = self._user(request)
        if user is None:
            self.refused += 1
            return [b"1.0", number, b"400", b"this key may not connect", b"", b""]
        self.admitted += 1
        admission = _property(ADMISSION, str(self.admitted))
        return [b"1.0", number, b"200", b"OK", user.encode(), admission]

    def _user(self, request: list[bytes]) -> str | None:
        """The user behind a request, an empty name without keys; None: it is refused."""
        if not self._keyed:
            return ""
        if len(request) != ZAP_PARTS or request[0] != b"1.0" or request[5] != b"CURVE":
            return None
        key = z85.encode(request[6])
        return key.decode() if self._users is None else self._users.get(key)

    def close(self) -> None:
        """Answer no more."""
        self._socket.close(0)


def _property(name: str, value: str) -> bytes:
    """One property of a ZAP answer's metadata, in ZMTP's form."""
    return bytes([len(name)]) + name.encode() + len(value).to_bytes(4, "big") + value.encode()
