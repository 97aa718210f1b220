"""Activation: what a broker is given, and what is left when it has stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hermes.broker.hooks import Hooks
from hermes.testing.plugin.contract import BROKER, HOOKS, Contract, connection_of
from hermes.testing.resources import Held, own_time_ns

HOOK_MAX_S = 0.25
"""How long a hook may take: nothing is served meanwhile.  Far more than one needs that waits for
nothing."""
TRIES = 3
"""Measurements until one is fast enough: the machine may be busy."""
BROKERS = 20
WARM_UP = 5
CLIENTS = 50
METRICS = {"connections": 3, "a_name_of_tomorrow": 1, "streams": [{"name": "default"}]}
"""Counters may grow in number: a plugin takes those that it knows."""


def live(hooks: Hooks) -> None:
    """The life of a broker, clients included."""
    hooks.started(BROKER)
    for number in range(CLIENTS):
        hooks.connection_opened(connection_of(number, None if number % 2 else f"user-{number}"))
    hooks.metrics(METRICS)
    for number in range(CLIENTS):
        error = ConnectionResetError("reset") if number % 3 else None
        hooks.connection_closed(connection_of(number), error)
    hooks.stopping(BROKER)


class ActivationContract(Contract):
    """``activate``, and the hooks of a broker's life."""

    def test_an_activation_has_hooks(self, active: Hooks) -> None:
        """activate() returns an object with at least one hook that Hermes calls."""
        assert any(active.implements(hook) for hook in HOOKS), (
            "Plugin.activate: what it returns has no method marked with hookimpl: nothing would ever "
            "be called"
        )

    def test_each_broker_has_its_own(self, activate: Callable[[], Hooks]) -> None:
        """Two brokers of one process are two activations, and one that stops leaves the other."""
        first, second = activate(), activate()

        assert first.active(self.name) is not second.active(self.name), (
            "Plugin.activate: it is called once per broker, and returns an object of that broker's"
        )
        first.stopped()
        live(second)
        assert second.failures == 0, "a hook failed after another broker had stopped"

    def test_no_hook_fails(self, active: Hooks) -> None:
        """A broker's life with clients, counters that did not exist before, and connections that
        break raises nothing."""
        live(active)
        active.stopped()

        assert active.failures == 0, "a hook raised: the log of the test says where"

    def test_a_broker_that_did_not_start(self, activate: Callable[[], Hooks]) -> None:
        """hermes_broker_stopped is called although nothing else was, and raises nothing."""
        hooks = activate()
        hooks.stopped()

        assert hooks.failures == 0, "hermes_broker_stopped raised in a broker that did not start"

    def test_hooks_do_not_wait(self, activate: Callable[[], Hooks]) -> None:
        """Nothing is served while a hook runs: it takes no longer than its own work."""
        fastest = float("inf")
        for _ in range(TRIES):
            hooks = activate()
            begun = own_time_ns()
            live(hooks)
            fastest = min(fastest, (own_time_ns() - begun) / 1e9)
            if fastest < HOOK_MAX_S:
                return
        raise AssertionError(
            f"hermes.spi.hooks: a hook never waits for a network, a lock or a sleep; those of one "
            f"broker with {CLIENTS} clients took {fastest:.2f} s"
        )

    def test_a_stopped_broker_leaves_nothing_behind(self, tmp_path: Path) -> None:
        """After twenty brokers there is not one descriptor or thread more."""

        def one() -> None:
            hooks = self.hooks(tmp_path)
            live(hooks)
            hooks.stopped()

        for _ in range(WARM_UP):
            one()
        before = Held.now()
        for _ in range(BROKERS):
            one()

        after = Held.now()
        assert after <= before, (
            "hermes_broker_stopped: give up what was acquired; "
            f"{BROKERS} brokers left something: {before} became {after}"
        )
