"""Decides by a file of users who may connect, and what each may do.

Knows neither sockets nor topics; the file is read again when it has changed, so that users come and
go without a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hermes.errors import InvalidConfig
from hermes.spi.hooks import API_VERSION, Denial, Grant, hookimpl
from hermes.spi.transport import Peer
from hermes_tokens.users import Users

LOG = logging.getLogger("hermes.tokens")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``tokens?file=PATH``."""

    file: str = ""
    """The file of users (TOML), which nobody but the broker's user may read; required."""


class Tokens:
    """See :class:`hermes.spi.hooks.Plugin` for the contract."""

    api_version = API_VERSION
    options = Options

    def probe(self) -> str | None:
        """None: tokens work everywhere."""
        return None

    def activate(self, options: Options) -> Gate:
        """Read the file; a broker does not start with one that cannot be used."""
        if not options.file:
            raise InvalidConfig("the plugin tokens needs a file of users: tokens?file=users.toml")
        return Gate(Path(options.file))


class Gate:
    """The hooks of one broker."""

    def __init__(self, path: Path) -> None:
        self._users = Users(path)
        self._nobody = os.urandom(32)
        """Compared with where there is no such user, so that the answer takes as long."""

    @hookimpl
    def hermes_authenticate(
        self, peer: Peer, identity: str | None, credentials: Mapping[str, str]
    ) -> Grant | Denial:
        """Believe a client that shows the token of the user it claims to be."""
        try:
            self._users.refresh()
        except InvalidConfig as error:  # its text has no token in it
            LOG.error("nobody is let in until this is mended: %s", error)
            return Denial("the broker cannot tell at the moment")
        if peer.identity is not None:
            proven = self._users.get(peer.identity)
            if proven is not None and proven.proven and identity in (None, peer.identity):
                return proven.grant
        shown = credentials.get("token", credentials.get("password", ""))
        user = None if identity is None else self._users.get(identity)
        expected = self._nobody if user is None or user.digest is None else user.digest
        digest = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).digest()
        right = hmac.compare_digest(digest, expected)
        return user.grant if right and user is not None else Denial()
