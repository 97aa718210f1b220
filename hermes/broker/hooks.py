"""The plugins that one broker has activated, and the calls of their hooks.

Knows no plugin by name.  A hook that fails is reported by where and of what type, never by its
text: it might hold a secret.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pluggy

from hermes.errors import HermesError, PluginFailed
from hermes.plugins.discovery import Plugins, default_plugins
from hermes.spi import hooks as hookspecs
from hermes.spi.hooks import BrokerInfo, ConnectionInfo, Denial, Grant
from hermes.spi.transport import Peer
from hermes.spi.url import parse_options

LOG = logging.getLogger("hermes.broker")

Calls = list[tuple[str, Callable[..., Any]]]
"""Implementations of one hook: each plugin, and how to call that one alone, in the configuration's order."""


class Hooks:
    """Calls to plugins when something happens to a broker.  Belongs to the loop's thread."""

    def __init__(
        self,
        plugins: Plugins | None = None,
        configured: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        """Activate what is configured, name to options, out of ``plugins``; usually nothing.

        Raises:
            PluginNotFound, PluginFailed: one cannot be used; those before it are stopped again.
            UsageError: one of its options cannot be.
        """
        self._manager = pluggy.PluginManager("hermes")
        self._manager.add_hookspecs(hookspecs)
        self._active: dict[str, object] = {}
        self.failures = 0
        """Calls of hooks that raised."""
        try:
            for name, options in configured.items():
                self._activate(plugins or default_plugins(), name, options)
        except BaseException:
            self._find_calls()
            self.stopped()
            raise
        self._find_calls()

    def _find_calls(self) -> None:
        self._authenticate = self._calls("hermes_authenticate")
        self._opened = self._calls("hermes_connection_opened")
        self._closed = self._calls("hermes_connection_closed")
        self._metrics = self._calls("hermes_metrics")

    # What the broker asks.

    @property
    def names(self) -> list[str]:
        """The active plugins."""
        return list(self._active)

    def active(self, name: str) -> object:
        """The object that the plugin ``name`` returned from ``activate``."""
        return self._active[name]

    def implements(self, hook: str) -> bool:
        """Whether any of them implements ``hook``."""
        return bool(self._calls(hook))

    @property
    def authenticates(self) -> bool:
        """Whether any of them decides who may connect."""
        return bool(self._authenticate)

    @property
    def follows_connections(self) -> bool:
        """Whether any of them wants to know who comes and goes."""
        return bool(self._opened or self._closed)

    @property
    def measures(self) -> bool:
        """Whether any of them wants the counters."""
        return bool(self._metrics)

    # What the broker tells.

    def started(self, broker: BrokerInfo) -> None:
        """Raises PluginFailed if one of them does not want the broker to start."""
        for name, call in self._calls("hermes_broker_started"):
            try:
                call(broker=broker)
            except HermesError:
                raise
            except (Exception, SystemExit) as error:
                raise _refused(name, "hermes_broker_started", error) from error

    def stopping(self, broker: BrokerInfo) -> None:
        """No new connections from here on."""
        self._tell("hermes_broker_stopping", broker=broker)

    def stopped(self) -> None:
        """Everything is closed."""
        self._tell("hermes_broker_stopped")

    def connection_opened(self, connection: ConnectionInfo) -> None:
        """A client has been welcomed."""
        self._tell_all(self._opened, "hermes_connection_opened", connection=connection)

    def connection_closed(self, connection: ConnectionInfo, error: Exception | None) -> None:
        """A client that was welcomed has gone."""
        self._tell_all(self._closed, "hermes_connection_closed", connection=connection, error=error)

    def metrics(self, metrics: Mapping[str, Any]) -> None:
        """Hand the counters out."""
        self._tell_all(self._metrics, "hermes_metrics", metrics=metrics)

    def authenticate(
        self, peer: Peer, identity: str | None, credentials: Mapping[str, str]
    ) -> Grant | Denial:
        """The first answer of those who decide.  Whatever is not a grant is a denial."""
        for name, call in self._authenticate:
            try:
                answer = call(peer=peer, identity=identity, credentials=dict(credentials))
            except (Exception, SystemExit) as error:
                self._report(name, "hermes_authenticate", error)
                return Denial("whoever decides this failed: see the broker's log")
            if isinstance(answer, Grant | Denial):
                return answer
            if answer is not None:
                self.failures += 1
                LOG.error(
                    "plugin %r: hermes_authenticate returned %s, not a Grant, a Denial or None: "
                    "the peer is refused",
                    name,
                    type(answer).__name__,
                )
                return Denial("whoever decides this failed: see the broker's log")
        return Denial()

    # Inside.

    def _activate(self, plugins: Plugins, name: str, options: Mapping[str, Any]) -> None:
        plugin = plugins.plugin(name)
        try:
            values = parse_options(
                options, plugin.options, owner=f"plugin {name!r}", source=f"plugin {name!r}"
            )
            active = plugin.activate(values)
            self._manager.register(active, name)
            self._active[name] = active
            self._manager.check_pending()
        except HermesError:
            raise
        except (Exception, SystemExit) as error:
            raise _refused(name, "activate", error) from error
        registering = [
            caller.name
            for caller in self._manager.get_hookcallers(active) or []
            if caller.name.startswith("hermes_register_")
        ]
        if registering:
            raise PluginFailed(
                f"plugin {name!r}: {registering[0]} belongs to its module, not to what activate() "
                "returns: report this to its makers"
            )

    def _calls(self, hook: str) -> Calls:
        found: Calls = []
        for name, active in self._active.items():
            callers = self._manager.get_hookcallers(active) or []
            if hook in {caller.name for caller in callers}:
                others = [other for other in self._active.values() if other is not active]
                found.append((name, self._manager.subset_hook_caller(hook, others)))
        return found

    def _tell(self, hook: str, **arguments: Any) -> None:
        self._tell_all(self._calls(hook), hook, **arguments)

    def _tell_all(self, calls: Calls, hook: str, **arguments: Any) -> None:
        for name, call in calls:
            try:
                call(**arguments)
            except (Exception, SystemExit) as error:
                self._report(name, hook, error)

    def _report(self, name: str, hook: str, error: BaseException) -> None:
        self.failures += 1
        LOG.error("plugin %r: %s raised %s (%s)", name, hook, type(error).__name__, _place(error))
        _forget(error)


def _refused(name: str, what: str, error: BaseException) -> PluginFailed:
    return PluginFailed(
        f"plugin {name!r}: {what} raised {type(error).__name__}: {error}. To go on: start without "
        "it, or report this to its makers"
    )


def _place(error: BaseException) -> str:
    """Where it was raised, without what was at hand there."""
    frames = list(_frames(error))
    return frames[-1] if frames else "nowhere"


def _forget(error: BaseException) -> None:
    """Cut it off from the stack it was raised in: that holds what the hook was asked about, and
    would be garbage in a circle, for as long as it pleases, where a frame of it holds the error."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += [one.__cause__, one.__context__]


def _frames(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"{frame.filename}:{frame.lineno}"
