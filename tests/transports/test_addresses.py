"""Addresses of transports over IP."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from hermes.errors import AddressInUse, HermesError, InvalidUrl
from hermes.net.addresses import (
    addresses,
    cannot_listen,
    host_port,
    is_loopback,
    refuse_strangers,
    resolve,
)
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url


@pytest.mark.parametrize("passive", [True, False])
@pytest.mark.parametrize("host", ["239.1.2.3", "[ff02::1]"])
def test_a_group_is_nobodys_address(host: str, passive: bool) -> None:
    """The system would listen there, where no connection ever comes."""
    with pytest.raises(InvalidUrl, match=r"multicast group.* udp://239\.1\.2\.3"):
        addresses(parse_url(f"tcp://{host}:7601"), passive=passive)


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_strangers_reach_all_but_loopback(host: str, alone: bool) -> None:
    """An address counts as ours alone if and only if it is of the loopback."""
    address = (host, 7601)

    assert is_loopback(address) == alone
    if not alone:
        with pytest.raises(InvalidUrl, match=r"ask them\b.*insecure=yes"):
            refuse_strangers(parse_url("tcp://x"), address, cure="ask them")


@pytest.mark.parametrize("scheme", ["tcp", "uring+tcp", "udp", "zmq+tcp"])
def test_an_address_of_ipv4_is_one_in_whatever_form(scheme: str, kernel: Any) -> None:
    """A listener at an IPv4 address that is written as one of IPv6 listens there, and is dialled there
    under both forms."""
    transport = default_plugins().transport(scheme)
    if transport.probe() is not None:
        pytest.skip(str(transport.probe()))
    options = "?doors=router" if scheme == "zmq+tcp" else ""
    agent = transport.listen(parse_url(f"{scheme}://[::ffff:127.0.0.1]:0{options}"), kernel)
    try:
        found = addresses(parse_url("tcp://[::ffff:127.0.0.1]:7"), passive=False)

        assert found == [(socket.AF_INET, ("127.0.0.1", 7))]
        assert "://127.0.0.1:" in agent.url
    finally:
        agent.close()


def test_a_group_of_ipv4_is_nobodys_address_in_whatever_form() -> None:
    """A multicast group written as an address of IPv6 is refused as the group it is."""
    with pytest.raises(InvalidUrl, match=r"239\.1\.2\.3 is a multicast group"):
        addresses(parse_url("tcp://[::ffff:239.1.2.3]:7601"), passive=True)


@pytest.mark.parametrize("passive", [True, False])
@pytest.mark.parametrize(
    "host", ["a..b", "a" * 64, "ä..b", "é" + "a" * 64, "a" * 300, "\udcff", "\u3002", "a\0b"]
)
def test_a_name_that_cannot_be_is_refused_by_name(host: str, passive: bool) -> None:
    """A host that no rule of names allows is told as unknown or misspelt."""
    with pytest.raises(InvalidUrl, match=r"^the-url: .*check its spelling"):
        resolve(host, 7601, url="the-url", passive=passive)


def test_addresses_have_defaults_and_brackets() -> None:
    """Parts that a URL leaves out are filled in, and an IPv6 address is printed in brackets."""
    (_, first), *_ = addresses(parse_url("tcp://:5"), passive=True)
    (family, second), *_ = addresses(parse_url("tcp://[::1]"), passive=True, default_port=9)

    assert host_port(first) == "127.0.0.1:5"
    assert (family, host_port(second)) == (socket.AF_INET6, "[::1]:9")


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EADDRINUSE, AddressInUse, r"1\.2\.3\.4:5 is taken.*lister 'sport = :5'.*or move"),
        (errno.EADDRNOTAVAIL, InvalidUrl, r"no address 1\.2\.3\.4; `ip addr`"),
        (errno.EACCES, InvalidUrl, "port 5 needs privileges"),
        (errno.EIO, InvalidUrl, "cannot listen: .*Input/output error"),
    ],
)
def test_why_nobody_listens(number: int, kind: type[HermesError], said: str) -> None:
    """Each way that binding fails is told with what to do."""
    error = OSError(number, os.strerror(number))

    with pytest.raises(kind, match=f"^the-url: .*{said}"):
        raise cannot_listen("the-url", ("1.2.3.4", 5), error, finder="lister", instead="move")


@pytest.mark.parametrize("scheme", ["tcp", "uring+tcp", "udp", "zmq+tcp"])
def test_every_transport_says_it(scheme: str, kernel: Any) -> None:
    """A port in use, an address that is not ours and one that others reach are refused alike."""
    transport = default_plugins().transport(scheme)
    if problem := transport.probe():
        pytest.skip(problem)
    taken = socket.socket(type=socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM)
    with taken:
        taken.bind(("127.0.0.1", 0))
        if taken.type == socket.SOCK_STREAM:
            taken.listen()

        for kind, said, place in [
            (AddressInUse, "is taken by another process", f"127.0.0.1:{taken.getsockname()[1]}"),
            (InvalidUrl, "no address 192.0.2.1", "192.0.2.1:7600?insecure=yes"),
            (InvalidUrl, "nothing asks peers", "0.0.0.0:0"),
            (InvalidUrl, "has no path", "127.0.0.1:0/path"),
        ]:
            url = f"{scheme}://{place}"
            with pytest.raises(kind, match=said):
                transport.listen(parse_url(url), kernel)


def test_a_link_local_address_keeps_its_interface() -> None:
    """The interface of a link-local address survives parsing, resolving and printing, in the form of
    URLs (%25) too; one that has gone stands as its number."""
    index = socket.if_nametoindex("lo")
    for text in ("tcp://[fe80::1%lo]:7601", "tcp://[fe80::1%25lo]:7601"):
        url = parse_url(text)
        ((family, address), *_) = addresses(url, passive=False)

        assert (url.host, str(url)) == ("fe80::1%lo", "tcp://[fe80::1%lo]:7601")
        assert (family, address) == (socket.AF_INET6, ("fe80::1", 7601, 0, index))
        assert host_port(address) == "[fe80::1%lo]:7601"
    assert parse_url("tcp://[fe80::1%br-0.100]:1").host == "fe80::1%br-0.100"
    assert host_port(("fe80::1", 1, 0, 2**31 - 1)) == f"[fe80::1%{2**31 - 1}]:1"
    assert host_port(("::1", 1, 0, 0)) == "[::1]:1"
    with pytest.raises(InvalidUrl, match="unknown here"):
        addresses(parse_url("tcp://[fe80::1%no-such-if]:1"), passive=False)
