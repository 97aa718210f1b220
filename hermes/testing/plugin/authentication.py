"""Authentication: the right clients are accepted, and no others."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest

from hermes.broker.hooks import Hooks
from hermes.spi.hooks import Denial, Grant
from hermes.spi.transport import Peer
from hermes.testing.contract import needs
from hermes.testing.plugin.contract import STRANGER, Believed, Contract

LONG = 64 << 10
"""Characters of a credential that somebody sends to see what happens."""
SEED = 7


def altered(value: str) -> Iterator[str]:
    """Values that are not ``value``, and look like it."""
    yield from (value[:-1], value[1:], value + "x", value + "\0", " " + value, value.swapcase())
    yield from ("", "\0", "x" * LONG, value * 2, "\ud800", "é" * 20, value[::-1])
    chance = random.Random(SEED)
    for _ in range(20):
        at = chance.randrange(len(value))
        yield value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]


def wrong(credentials: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Credentials of which one is altered, missing or under another name."""
    for name, value in credentials.items():
        for other in altered(value):
            if other != value:
                yield {**credentials, name: other}
        rest = {key: kept for key, kept in credentials.items() if key != name}
        yield rest
        yield {**rest, name.upper() + "_": value}
    yield {}
    yield {"password": "x" * LONG, "token": "\0"}


class AuthenticationContract(Contract):
    """``hermes_authenticate``."""

    @pytest.fixture
    def somebody(self) -> Believed:
        """A client that the plugin accepts."""
        assert self.believed is not None, (
            "the plugin decides who may connect: name a client that it lets in, as in "
            "believed = ('alice', {'token': '...'})"
        )
        return self.believed

    @needs("hermes_authenticate")
    def test_the_right_credentials_are_accepted(self, active: Hooks, somebody: Believed) -> None:
        """The client that the suite was told of gets a Grant, again and again."""
        for _ in range(3):
            answer = active.authenticate(STRANGER, *somebody)
            assert isinstance(answer, Grant), (
                f"hermes_authenticate: `believed` is to be accepted; {answer}"
            )
            assert answer.identity, (
                "Grant.identity: publisher ids and durable names are bound to it"
            )

    @needs("hermes_authenticate")
    def test_other_credentials_are_refused(self, active: Hooks, somebody: Believed) -> None:
        """Credentials that are altered, missing or misplaced get no Grant, and raise nothing."""
        identity, credentials = somebody
        for offered in wrong(credentials):
            answer = active.authenticate(STRANGER, identity, offered)
            assert not isinstance(answer, Grant), (
                "hermes_authenticate: a client with other credentials than those it believes was let "
                f"in; they differ in {differing(credentials, offered)}"
            )
        assert active.failures == 0, (
            "hermes_authenticate raised for odd credentials: it fails closed, but other plugins "
            "are not asked any more, and the broker's log fills"
        )

    @needs("hermes_authenticate")
    def test_nobody_becomes_somebody_else(self, active: Hooks, somebody: Believed) -> None:
        """The right credentials with another name never give that name's identity."""
        identity, credentials = somebody
        for claimed in [*altered(identity or "alice"), "root", "admin"]:
            answer = active.authenticate(STRANGER, claimed, credentials)
            assert not isinstance(answer, Grant) or answer.identity != claimed, (
                f"hermes_authenticate: credentials of {identity!r} were taken for those of "
                f"{claimed[:40]!r}"
            )
        assert active.failures == 0, "hermes_authenticate raised for an odd identity"

    @needs("hermes_authenticate")
    def test_a_claim_is_no_proof(self, active: Hooks, somebody: Believed) -> None:
        """A name without credentials is refused, and so is a name that the transport has proven to
        be another's."""
        identity, _ = somebody
        for peer in (STRANGER, Peer("zmq+tcp", "127.0.0.1:1", local=True, identity="nobody-known")):
            for claimed in (identity, None, ""):
                answer = active.authenticate(peer, claimed, {})
                assert not isinstance(answer, Grant), (
                    f"hermes_authenticate: {claimed!r} was accepted without credentials"
                )

    @needs("hermes_authenticate")
    def test_a_denial_helps_nobody_who_guesses(self, active: Hooks, somebody: Believed) -> None:
        """The reason is the same for a name that does not exist and for a wrong secret, and has no
        secret in it."""
        identity, credentials = somebody
        offered = {name: value + "x" for name, value in credentials.items()}
        known = active.authenticate(STRANGER, identity, offered)
        unknown = active.authenticate(STRANGER, "no-such-user", offered)

        assert isinstance(known, Denial)
        assert isinstance(unknown, Denial)
        assert known.reason == unknown.reason, (
            "Denial.reason: it tells who exists: a wrong secret gets "
            f"{known.reason!r}, an unknown name {unknown.reason!r}"
        )
        for value in [*credentials.values(), *offered.values()]:
            assert value not in known.reason, "Denial.reason: it has a secret in it"

    @needs("hermes_authenticate")
    def test_no_secret_is_logged(
        self, active: Hooks, somebody: Believed, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither right nor wrong credentials appear in a log."""
        identity, credentials = somebody
        with caplog.at_level(0):
            active.authenticate(STRANGER, identity, credentials)
            for offered in wrong(credentials):
                active.authenticate(STRANGER, identity, offered)

        for value in credentials.values():
            assert value not in caplog.text, (
                "hermes_authenticate: log no secret; a credential stands in the log"
            )


def differing(credentials: Mapping[str, str], offered: Mapping[str, str]) -> str:
    """Which are not the same, without any of them."""
    names = {*credentials, *offered}
    found = sorted(name for name in names if credentials.get(name) != offered.get(name))
    return ", ".join(
        f"{name} (of {len(credentials.get(name, ''))} characters, offered were "
        f"{len(offered.get(name, ''))})"
        for name in found
    )
