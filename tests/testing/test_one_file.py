"""A transport of one file, neither installed nor named by an entry point, is tested like any other."""

from __future__ import annotations

import errno
import socket
from typing import Any

import msgspec
import pytest

from hermes.errors import AddressInUse, InvalidUrl
from hermes.net.listener import EXHAUSTED
from hermes.net.sockets import SocketAgent, dial_first, listen_at, no_room
from hermes.spi.transport import API_VERSION, Agent, Capabilities, Channel, Kernel, Peer
from hermes.spi.url import Url
from hermes.testing.transport.broker import BrokerContract
from hermes.testing.transport.errors import ErrorsContract
from hermes.testing.transport.options import OptionsContract
from hermes.testing.transport.registration import RegistrationContract

pytestmark = pytest.mark.slow


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None."""


class FileTransport:
    """``file:PATH``: a Unix socket, in the fewest lines that pass."""

    capabilities = Capabilities(native_fd=True, peer_credentials=True)
    api_version = API_VERSION
    listen_options = dial_options = Options

    def probe(self) -> str | None:
        return None

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        url.options(Options)
        try:
            sock = socket.socket(socket.AF_UNIX)
            listen_at(sock, url.path, backlog=100)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise no_room(str(url), error) from error
            kind = AddressInUse if error.errno == errno.EADDRINUSE else InvalidUrl
            raise kind(f"{url}: {error}") from error

        def describe(accepted: socket.socket, address: Any) -> Peer:
            return Peer("file", "a process of this machine", local=True)

        return SocketAgent(sock, url=str(url), kernel=kernel, describe=describe)

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        url.options(Options)
        return dial_first([(socket.AF_UNIX, url.path)], url=str(url), timeout_ns=timeout_ns)


class TestFile(RegistrationContract, OptionsContract, ErrorsContract, BrokerContract):
    """In a new directory for each listener."""

    factory = FileTransport
    url = "file:{tmp}/socket"
