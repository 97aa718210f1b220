"""``--intercept``: how the option gets into a URL, and that it does what it says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import click
import pytest

from hermes.cli.options import intercepted
from hermes.net.interception import Interception
from hermes.spi.transport import Capabilities
from hermes.spi.url import parse_url

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scheme is a transport over datagrams."""
    made = SimpleNamespace(capabilities=Capabilities(datagrams=True))
    plugins = SimpleNamespace(transport=lambda scheme: made)
    monkeypatch.setattr("hermes.plugins.discovery.default_plugins", lambda: plugins)


@pytest.mark.parametrize(
    "url", ["lossy", "lossy:", "lossy:name", "lossy://me:secret@host:1/path", "lossy://h:1?a=b"]
)
@pytest.mark.usefixtures("lossy")
def test_the_url_gets_the_option_and_keeps_the_rest(url: str) -> None:
    """With any form of URL, only the option is added."""
    spec = "loss=1%,burst=4,blackout=1s+2s"
    before, after = parse_url(url), parse_url(intercepted(url, spec))

    assert after.query == before.query | {"intercept": spec}
    assert Interception.parse(after.query["intercept"]).burst == 4
    for part in ("scheme", "host", "port", "path", "username", "password"):
        assert getattr(after, part) == getattr(before, part)


def test_without_the_option_the_url_is_left_alone() -> None:
    """No ``--intercept``, no change."""
    assert intercepted("lossy", None) == "lossy"


@pytest.mark.usefixtures("lossy")
def test_two_specifications_are_refused() -> None:
    """The option and the URL cannot both say it."""
    with pytest.raises(click.BadParameter, match="already"):
        intercepted("lossy://h:1?intercept=loss%3D1%25", "loss=2%")


def test_nothing_is_lost_in_the_end(make_broker: Callable[..., Any], hermes: Hermes) -> None:
    """A broker and its clients that lose a twentieth of what they send each still deliver it all,
    and the broker's counters tell of it."""
    lossy = ("--intercept", "loss=5%,seed=7")
    broker = make_broker("--transport", "udp://127.0.0.1:0", *lossy)
    lines = b"".join(b"line %d\n" % number for number in range(20_000))
    put = hermes("pub", "a", "--stdin", *lossy, url=broker.url, stdin=lines)
    sub = ("sub", "a", "--from", "earliest", "--count", "20000", *lossy)
    got = hermes(*sub, url=broker.url)
    stats = json.loads(hermes("stats", "--json", url=broker.url).stdout)

    assert put.returncode == 0, put.stderr
    assert got.stdout == lines
    (listener,) = stats["listeners"]
    assert listener["intercept_lost"] > 0
