"""Which URL names a multicast group, and by which interface."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from hermes.errors import InvalidUrl
from hermes.spi.url import parse_url
from hermes_udp import groups
from hermes_udp.groups import Group, group_of, source_of
from hermes_udp.options import DialOptions

LOOPBACK = socket.if_nametoindex("lo")


def named(url: str) -> Group | None:
    parsed = parse_url(url)
    return group_of(parsed, parsed.options(DialOptions))


@pytest.mark.parametrize(
    ("url", "group"),
    [
        ("udp://127.0.0.1:1", None),
        ("udp://[::1]:1", None),
        ("udp://:1", None),
        ("udp://localhost:1", None),
        ("udp://239.1.2.3", Group(socket.AF_INET, "239.1.2.3", 7601)),
        (
            "udp://239.1.2.3:5?interface=127.0.0.1",
            Group(socket.AF_INET, "239.1.2.3", 5, address="127.0.0.1"),
        ),
        ("udp://[FF15::01]:5", Group(socket.AF_INET6, "ff15::1", 5)),
        (
            "udp://[ff15::1]:5?interface=lo",
            Group(socket.AF_INET6, "ff15::1", 5, index=LOOPBACK),
        ),
        (
            f"udp://[ff15::1]:5?interface={LOOPBACK}",
            Group(socket.AF_INET6, "ff15::1", 5, index=LOOPBACK),
        ),
        ("udp://[ff12::1%lo]:5", Group(socket.AF_INET6, "ff12::1", 5, index=LOOPBACK)),
    ],
)
def test_which_address_is_a_group(url: str, group: Group | None) -> None:
    """Groups of both families, with their interface by address, name, number or zone."""
    assert named(url) == group


def resolving(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(name: bytes, *arguments: Any, **named: Any) -> Any:
        host = name.decode()
        if host.endswith(".invalid"):  # as a name server says it, which there need not be here
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return real(names.get(host, host), *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_name_is_what_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group's name is the group, a machine's is none, and one that is unknown is refused."""
    resolving(monkeypatch, {"prices": "239.1.2.3", "prices6": "ff15::7", "machine": "127.0.0.1"})

    assert named("udp://prices:5") == Group(socket.AF_INET, "239.1.2.3", 5)
    assert named("udp://prices6:5?interface=lo") == Group(
        socket.AF_INET6, "ff15::7", 5, index=LOOPBACK
    )
    assert named("udp://machine:5") is None
    with pytest.raises(InvalidUrl, match="is unknown here"):
        named("udp://nonesuch.invalid:5")


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (Group(socket.AF_INET, "239.1.2.3", 5), "no route .*interface=127.0.0.1"),
        (Group(socket.AF_INET6, "ff15::1", 5), "no route .*interface=lo"),
        (
            Group(socket.AF_INET6, "ff15::1", 5, index=LOOPBACK),
            "no route .* by lo: `ip -6 route add local ff00::/8 dev lo`",
        ),
    ],
)
def test_a_group_that_nothing_leads_to(
    monkeypatch: pytest.MonkeyPatch, group: Group, words: str
) -> None:
    """The error says what would work: an interface, or the route that Linux does not give its loopback."""

    class Unreachable(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(groups.socket, "socket", Unreachable)

    with pytest.raises(InvalidUrl, match=words):
        source_of(group, parse_url("udp://g:5"))
