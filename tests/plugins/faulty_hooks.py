"""Plugins with a mistake each, which their author may not have noticed; and the test of the kit that
has to notice it.  A test module of its own: run by test_plugin_kit.py, never collected with the
others."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from hermes.spi.hooks import API_VERSION, ConnectionInfo, Denial, Grant, hookimpl
from hermes.spi.transport import Peer
from hermes.testing.plugin import PluginContract

LOG = logging.getLogger(__name__)
SECRETS = {"alice": "alice-has-a-long-token", "bob": "bob-has-a-long-token-too"}
Answer = Grant | Denial | None


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One option."""

    warn_at: int = 100
    """Clients from which on each further one is reported."""


class Sound:
    """Hooks without a mistake: two users with a token each."""

    def __init__(self) -> None:
        self.clients = 0

    @hookimpl
    def hermes_authenticate(
        self, peer: Peer, identity: str | None, credentials: Mapping[str, str]
    ) -> Answer:
        """Believe who shows the token."""
        return self.decide(identity, credentials.get("token", ""))

    def decide(self, identity: str | None, token: str) -> Answer:
        """The answer."""
        if identity in SECRETS and SECRETS[identity] == token:
            return Grant(identity)
        return Denial()

    @hookimpl
    def hermes_connection_opened(self, connection: ConnectionInfo) -> None:
        """Count it."""
        self.clients += 1

    @hookimpl
    def hermes_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Take a counter."""
        metrics["connections"]


class BelievesPrefixes(Sound):
    """A token that begins rightly is right."""

    def decide(self, identity: str | None, token: str) -> Answer:
        """Compare what both have."""
        expected = SECRETS.get(identity or "", "\0")
        return Grant(identity or "") if token.startswith(expected) else Denial()


class BelievesNames(Sound):
    """A peer with a token may be anybody."""

    def decide(self, identity: str | None, token: str) -> Answer:
        """Grant any name to a peer with any token."""
        return Grant(identity or "?") if token in SECRETS.values() else Denial()


class BelievesClaims(Sound):
    """A name is enough where there is no token."""

    def decide(self, identity: str | None, token: str) -> Answer:
        """Only who shows a token is asked about it."""
        return super().decide(identity, token) if token else Grant(identity or "?")


class TellsWhoExists(Sound):
    """The reason is helpful."""

    def decide(self, identity: str | None, token: str) -> Answer:
        """Say what is wrong."""
        if identity not in SECRETS:
            return Denial("there is no such user")
        return super().decide(identity, token)


class Chokes(Sound):
    """Tokens are ASCII."""

    def decide(self, identity: str | None, token: str) -> Answer:
        """Compare bytes."""
        token.encode("ascii")
        return super().decide(identity, token)


class Logs(Sound):
    """Logs what it was shown."""

    def decide(self, identity: str | None, token: str) -> Answer:
        """For debugging."""
        LOG.debug("%s shows %s", identity, token)
        return super().decide(identity, token)


class Waits(Sound):
    """Asks somebody else about each client."""

    @hookimpl
    def hermes_connection_opened(self, connection: ConnectionInfo) -> None:
        """As long as a database takes."""
        time.sleep(0.01)


class Leaks(Sound):
    """Opens a descriptor for each broker."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptor = os.dup(0)


class LeavesThreads(Sound):
    """Starts a thread for each broker, which nobody ends."""

    def __init__(self) -> None:
        super().__init__()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class KnowsAllMetrics(Sound):
    """Takes every counter for one that it knows."""

    @hookimpl
    def hermes_metrics(self, metrics: Mapping[str, Any]) -> None:
        """A float of each."""
        [float(value) for value in metrics.values()]


class Mute:
    """Its methods are not marked as hooks."""

    def hermes_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Never called."""


CAUGHT_BY = {
    BelievesPrefixes: "test_other_credentials_are_refused",
    BelievesNames: "test_nobody_becomes_somebody_else",
    BelievesClaims: "test_a_claim_is_no_proof",
    TellsWhoExists: "test_a_denial_helps_nobody_who_guesses",
    Chokes: "test_other_credentials_are_refused",
    Logs: "test_no_secret_is_logged",
    Waits: "test_hooks_do_not_wait",
    Leaks: "test_a_stopped_broker_leaves_nothing_behind",
    LeavesThreads: "test_a_stopped_broker_leaves_nothing_behind",
    KnowsAllMetrics: "test_no_hook_fails",
    Mute: "test_an_activation_has_hooks",
}
"""Which test of the kit has to fail for which hooks."""


class Faulty(PluginContract):
    """Base of the classes below."""

    __test__ = False
    name = "faulty"
    believed = ("alice", {"token": SECRETS["alice"]})
    hooks_class: ClassVar[type]

    def __init_subclass__(cls, hooks: type) -> None:
        """A plugin that has such hooks."""
        super().__init_subclass__()
        cls.__test__ = True

        class Plugin:
            api_version = API_VERSION
            options = Options

            def probe(self) -> str | None:
                return None

            def activate(self, options: Options) -> object:
                return hooks()

        cls.factory = Plugin


class TestSound(Faulty, hooks=Sound): ...


for kind in CAUGHT_BY:
    globals()[f"Test{kind.__name__}"] = type(Faulty)(
        f"Test{kind.__name__}", (Faulty,), {"__module__": __name__}, hooks=kind
    )


class Shared:
    """A plugin that returns the same hooks to every broker."""

    api_version = API_VERSION
    options = Options
    hooks = Sound()

    def probe(self) -> str | None:
        """None: it works everywhere."""
        return None

    def activate(self, options: Options) -> object:
        """Always the same."""
        return self.hooks


class TestShared(Faulty, hooks=Sound): ...


TestShared.factory = Shared
