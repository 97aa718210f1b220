"""Behaviour that ``tcp://`` adds to the shared stream-socket code: names, addresses and options."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from hermes.errors import AddressInUse, ConnectFailed, InvalidUrl
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url

Drive = Callable[[Any, Callable[[], object]], None]


def listen(url: str, kernel: Any) -> Any:
    """An agent at ``url``."""
    return default_plugins().transport("tcp").listen(parse_url(url), kernel)


@pytest.mark.parametrize(
    ("url", "host"), [("tcp://127.0.0.1:0", "127.0.0.1"), ("tcp://[::1]:0", "[::1]")]
)
def test_port_0_is_resolved(url: str, host: str, kernel: Any) -> None:
    """The printed URL has the port the OS chose, and an IPv6 address keeps its brackets."""
    with closing(listen(url, kernel)) as agent:
        bound = parse_url(agent.url)

        assert agent.url.startswith(f"tcp://{host}:")
        assert bound.port


def test_port_in_use_names_the_cure(kernel: Any) -> None:
    """A second listener on the port is told which port, and what to do."""
    with (
        closing(listen("tcp://127.0.0.1:0", kernel)) as agent,
        pytest.raises(AddressInUse, match="ss -ltnp"),
    ):
        listen(agent.url, kernel)


@pytest.mark.parametrize("url", ["tcp://0.0.0.0:0", "tcp://[::]:0"])
def test_strangers_are_not_listened_to_unless_asked_for(url: str, kernel: Any) -> None:
    """An address other machines reach is refused, and accepted with insecure=yes."""
    with pytest.raises(InvalidUrl, match="insecure=yes"):
        listen(url, kernel)

    with closing(listen(f"{url}?insecure=yes", kernel)) as agent:
        assert parse_url(agent.url).port


def test_a_broker_that_asks_who_peers_are_may_listen_anywhere(kernel: Any) -> None:
    """Where every peer has to prove who it is, an address that others reach needs no consent."""
    kernel.authenticates = True

    with closing(listen("tcp://0.0.0.0:0", kernel)) as agent:
        assert parse_url(agent.url).port


@pytest.mark.parametrize(
    "query",
    [
        "connections=0",
        "connections=many",
        "nodelay=perhaps",
        "send_buffer=big",
        "backlog=0",
        "keepalive=30",
    ],
)
def test_ill_typed_option_is_refused(query: str, kernel: Any) -> None:
    """An option's value is checked before anything listens."""
    with pytest.raises(InvalidUrl):
        listen(f"tcp://127.0.0.1:0?{query}", kernel)


def test_url_with_a_path_is_refused(kernel: Any) -> None:
    """A path has no meaning for TCP."""
    with pytest.raises(InvalidUrl, match="no path"):
        listen("tcp://127.0.0.1:0/data", kernel)


def test_unknown_host_is_refused(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not resolve is a wrong URL, and says so."""

    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(InvalidUrl, match="unknown here"):
        listen("tcp://no-such-host.invalid:0", kernel)


def test_nobody_listening_says_what_to_do() -> None:
    """Dialling a port where nobody listens names `hermes serve`."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = parse_url(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConnectFailed, match="hermes serve"):
            default_plugins().transport("tcp").dial(url, 5_000_000_000)


def test_socket_options_reach_both_ends(kernel: Any, drive: Drive) -> None:
    """TCP_NODELAY and keep-alive are on by default and can be switched off."""
    with closing(listen("tcp://127.0.0.1:0?nodelay=no&keepalive=0", kernel)) as agent:
        url = parse_url(agent.url + "?keepalive=30s&send_buffer=64KiB")
        with closing(default_plugins().transport("tcp").dial(url, 5_000_000_000)) as channel:
            drive(agent, lambda: kernel.connections)
            ours = channel._sock  # type: ignore[attr-defined]
            theirs = kernel.connections[0].attachment.sock

            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 65536
            assert not theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
