"""Discovery of plugins: entry points by kind, imported only when a URL or a flag names them.

Knows no plugin by name and calls none on its own.  What goes wrong inside one is turned into
:exc:`PluginFailed` with the cause and the cure; one that nobody names cannot do harm, because it is
not imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from types import ModuleType
from typing import Any

import pluggy

from hermes import hookspecs, storage, transport
from hermes.errors import PluginFailed, PluginNotFound

KINDS = {
    "hermes.transports": "transport",
    "hermes.storages": "storage",
    "hermes.plugins": "plugin",
    "hermes.commands": "command",
}
"""Entry-point group to what people call its members."""

Factory = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed plugin, as its distribution's metadata states it; nothing of it has been
    imported."""

    kind: str
    """``transport``, ``storage``, ``plugin`` or ``command``."""
    name: str
    """What names it: the URL scheme, or the plugin's or command's name."""
    module: str
    """What will be imported."""
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.module}, from {self.distribution} {self.version})"


def listing() -> list[Installed]:
    """Every installed plugin, by kind and name, without importing any."""
    return default_plugins().listing()


@cache
def default_plugins() -> Plugins:
    """What is installed in this environment, looked up once per process."""
    return Plugins(point for group in KINDS for point in metadata.entry_points(group=group))


class Plugins:
    """The plugins of one environment: looked up by name, imported and registered when first asked
    for."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        self._points: dict[tuple[str, str], list[metadata.EntryPoint]] = {}
        for point in entry_points:
            if point.group in KINDS:
                name = point.name.replace(".", "+") if _named_by_scheme(point.group) else point.name
                self._points.setdefault((KINDS[point.group], name), []).append(point)
        self._manager = pluggy.PluginManager("hermes")
        self._manager.add_hookspecs(hookspecs)
        self._factories: dict[tuple[str, str], Factory] = {}

    def listing(self) -> list[Installed]:
        """Every plugin of this environment, by kind and name."""
        found = [_installed(key, point) for key, points in self._points.items() for point in points]
        return sorted(found, key=lambda plugin: (plugin.kind, plugin.name, plugin.distribution))

    def names(self, kind: str) -> list[str]:
        """The names of one kind, sorted."""
        return sorted(name for of_kind, name in self._points if of_kind == kind)

    def transport(self, scheme: str) -> transport.Transport:
        """A new transport that serves ``scheme``, checked to work here.

        Raises:
            PluginNotFound: nothing installed serves it; the message says what is.
            PluginFailed: it is installed and cannot be used; the message says why and what to do.
        """
        made: transport.Transport = self._make("transport", scheme, transport.API_VERSION)
        return made

    def storage(self, scheme: str) -> storage.StorageBackend:
        """A new storage backend that serves ``scheme``.  Raises as :meth:`transport` does."""
        made: storage.StorageBackend = self._make("storage", scheme, storage.API_VERSION)
        return made

    def load(self, kind: str, name: str) -> Any:
        """Import what the entry point names: a plugin's module, or a command.  Raises as
        :meth:`transport` does."""
        plugin, point = self._find(kind, name)
        try:
            return point.load()
        except (Exception, SystemExit) as error:
            raise PluginFailed(_failure(plugin, "could not be imported", error)) from error

    def _make(self, kind: str, scheme: str, api_version: int) -> Any:
        plugin, _ = self._find(kind, scheme)
        factory = self._factories.get((kind, scheme)) or self._register(plugin)
        try:
            made = factory()
            version, obstacle = made.api_version, made.probe()
        except (Exception, SystemExit) as error:
            raise PluginFailed(_failure(plugin, "could not be started", error)) from error
        if version != api_version:
            newer, older = ("hermes-broker", plugin.distribution)[
                :: 1 if version > api_version else -1
            ]
            raise PluginFailed(
                f"{plugin} speaks version {version} of the {kind} interface, this Hermes speaks "
                f"{api_version}: "
                f"upgrade {newer} or install an older {older}"
            )
        if obstacle is not None:
            raise PluginFailed(f"{plugin} cannot work here: {obstacle}")
        return made

    def _register(self, plugin: Installed) -> Factory:
        module = self.load(plugin.kind, plugin.name)
        announced: dict[tuple[str, str], Factory] = {}

        def announce(kind: str) -> Callable[[str, Factory], None]:
            def register(scheme: str, factory: Factory) -> None:
                if (kind, scheme) in announced:
                    raise ValueError(f"{kind} {scheme!r} is registered twice")
                announced[kind, scheme] = factory

            return register

        try:
            self._admit(module)
            others = [other for other in self._manager.get_plugins() if other is not module]
            for kind in ("transport", "storage"):
                hook = f"hermes_register_{kind}s"
                self._manager.subset_hook_caller(hook, others)(register=announce(kind))
        except Exception as error:
            raise PluginFailed(_failure(plugin, "could not be registered", error)) from error
        for key, made in announced.items():
            self._factories.setdefault(key, made)
        factory = announced.get((plugin.kind, plugin.name))
        if factory is None:
            has = ", ".join(f"{kind} {scheme!r}" for kind, scheme in sorted(announced)) or "nothing"
            raise PluginFailed(
                f"{plugin} announces {has}, not what its entry point is named after: "
                f"report this to the makers of {plugin.distribution}"
            )
        return factory

    def _admit(self, module: ModuleType) -> None:
        if not self._manager.is_registered(module):
            self._manager.register(module)
            self._manager.check_pending()

    def _find(self, kind: str, name: str) -> tuple[Installed, metadata.EntryPoint]:
        points = self._points.get((kind, name), [])
        if not points:
            raise PluginNotFound(self._absence(kind, name))
        if len({point.value for point in points}) > 1:
            makers = " and ".join(sorted(_installed((kind, name), p).distribution for p in points))
            raise PluginFailed(f"{kind} {name!r} is offered by {makers}: uninstall all but one")
        return _installed((kind, name), points[0]), points[0]

    def _absence(self, kind: str, name: str) -> str:
        names = self.names(kind)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        has = ", ".join(names) or "none"
        return (
            f"no {kind} is called {name!r}: {hint}Installed: {has}. "
            f"Another comes with the distribution that offers it (pip install ...); `hermes "
            "plugins` lists them."
        )


def _named_by_scheme(group: str) -> bool:
    return group in ("hermes.transports", "hermes.storages")


def _installed(key: tuple[str, str], point: metadata.EntryPoint) -> Installed:
    maker = point.dist
    return Installed(
        kind=key[0],
        name=key[1],
        module=point.value,
        distribution=maker.name if maker else "an unknown distribution",
        version=maker.version if maker else "",
    )


def _failure(plugin: Installed, what: str, error: BaseException) -> str:
    cause = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        cure = f"install the module {error.name!r} into this environment"
    else:
        cure = f"reinstall or upgrade {plugin.distribution}, or choose another {plugin.kind}"
    return f"{plugin} {what}: {cause}. To go on: {cure}"
