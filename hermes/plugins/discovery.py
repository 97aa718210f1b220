"""Discovery of plugins: entry points by kind, imported only when a URL, a flag or a configuration
names them.

Knows no plugin by name and calls none on its own.  What goes wrong inside one is turned into
:exc:`PluginFailed` with the cause and what to do, and remembered as its state; one that nobody names
cannot do harm, because it is not imported.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from types import ModuleType, TracebackType
from typing import Any, Literal

import pluggy

from hermes.base import checks
from hermes.base.closing import Closable
from hermes.base.rlimits import limited
from hermes.errors import PluginFailed, PluginNotFound, UsageError
from hermes.plugins.selection import VARIABLE, Selection
from hermes.spi import hooks as hookspecs
from hermes.spi import storage, transport
from hermes.spi.transport import Transport
from hermes.spi.url import Url, refuse_missing_scheme

KINDS = {
    "hermes.transports": "transport",
    "hermes.storages": "storage",
    "hermes.plugins": "plugin",
    "hermes.commands": "command",
}
"""Entry-point group to what people call its members."""
API_VERSIONS = {
    "transport": transport.API_VERSION,
    "storage": storage.API_VERSION,
    "plugin": hookspecs.API_VERSION,
}
"""Kinds that are announced with a factory, and the version of what it has to make."""
BUILT_IN = "hermes-broker"
"""The distribution whose plugins ship with Hermes: a name that is theirs is nobody else's."""
THIS_PROCESS = "this process"
"""Stands for the distribution of what was registered by a call."""

Factory = Callable[[], Any]
Key = tuple[str, str]
"""Kind and name."""
State = Literal["discovered", "loaded", "failed", "disabled"]
"""``discovered``: installed, and not looked into yet.  ``loaded``: imported, and it works here.
``failed``: it cannot be used, the reason says why.  ``disabled``: it may not be used."""


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed plugin, as its distribution's metadata states it; nothing of it has been
    imported."""

    kind: str
    """``transport``, ``storage``, ``plugin`` or ``command``."""
    name: str
    """The URL scheme, or the plugin's or command's name."""
    module: str
    """The module that will be imported."""
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} ({self.module}, from {self.distribution} {self.version})"

    @property
    def built_in(self) -> bool:
        """Whether it ships with Hermes, or this process has registered it itself."""
        return self.distribution in (BUILT_IN, THIS_PROCESS)


@dataclass(frozen=True, slots=True)
class Status:
    """State of a plugin in this process."""

    state: State
    reason: str = ""
    """Why it failed or is disabled, and what to do."""


class Registration(Closable):
    """A plugin that this process has registered; ends with :meth:`close` or its ``with`` block."""

    def __init__(self, factories: dict[Key, Factory], key: Key, factory: Factory) -> None:
        self._factories, self._key, self._factory = factories, key, factory

    def close(self) -> None:
        """Take it back.  What it has made already lives on.  Idempotent."""
        if self._factories.get(self._key) is self._factory:
            del self._factories[self._key]


@dataclass(slots=True)
class _Announced:
    """Factories that one module's hooks have announced."""

    factories: dict[Key, Factory] = field(default_factory=dict)

    def announce(self, kind: str) -> Callable[[str, Factory], None]:
        def register(name: str, factory: Factory) -> None:
            if (kind, name) in self.factories:
                raise ValueError(f"{kind} {name!r} is registered twice")
            if not callable(factory):
                raise TypeError(f"the factory of {kind} {name!r} cannot be called: {factory!r}")
            self.factories[kind, name] = factory

        return register


def listing() -> list[Installed]:
    """Every installed plugin, by kind and name, without importing any."""
    return default_plugins().listing()


@cache
def default_plugins() -> Plugins:
    """Plugins installed in this environment, looked up once per process."""
    points = (point for group in KINDS for point in metadata.entry_points(group=group))
    return Plugins(points, environ=os.environ)


def installed_names() -> set[str]:
    """The names of all plugins of this environment, of every kind."""
    return {plugin.name for plugin in default_plugins().listing()}


def register_transport(scheme: str, factory: Callable[[], transport.Transport]) -> Registration:
    """Have ``scheme`` served by what ``factory`` makes, in this process only: for tests, and for
    plugins of one file.  See :func:`hermes.spi.hooks.hermes_register_transports`.

    The answer is a context manager that takes it back.

    Raises:
        UsageError: the scheme is taken.
    """
    return default_plugins().register("transport", scheme, factory)


def register_storage(scheme: str, factory: Callable[[], storage.StorageBackend]) -> Registration:
    """As :func:`register_transport`, for a storage backend."""
    return default_plugins().register("storage", scheme, factory)


def register_plugin(name: str, factory: Callable[[], hookspecs.Plugin]) -> Registration:
    """As :func:`register_transport`, for a plugin that a broker's configuration may name."""
    return default_plugins().register("plugin", name, factory)


class Plugins:
    """The plugins of one environment: looked up by name, imported and registered when first asked
    for.

    ``environ`` is where :data:`hermes.plugins.selection.VARIABLE` is looked up, at each use.
    """

    def __init__(
        self,
        entry_points: Iterable[metadata.EntryPoint],
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._environ = {} if environ is None else environ
        self._points: dict[Key, list[metadata.EntryPoint]] = {}
        for point in entry_points:
            if point.group in KINDS:
                name = point.name.replace(".", "+") if _named_by_scheme(point.group) else point.name
                self._points.setdefault((KINDS[point.group], name), []).append(point)
        self._manager = pluggy.PluginManager("hermes")
        self._manager.add_hookspecs(hookspecs)
        self._factories: dict[Key, Factory] = {}
        self._registered: dict[Key, Factory] = {}
        self._states: dict[Key, Status] = {}

    # What there is.

    def listing(self) -> list[Installed]:
        """Every plugin of this environment, by kind and name; those of no use are there too."""
        found = [_installed(key, point) for key, points in self._points.items() for point in points]
        found += [_own(key, factory) for key, factory in self._registered.items()]
        return sorted(found, key=lambda plugin: (plugin.kind, plugin.name, plugin.distribution))

    def names(self, kind: str) -> list[str]:
        """The names of one kind, sorted."""
        return sorted(
            {name for of_kind, name in [*self._points, *self._registered] if of_kind == kind}
        )

    def selection(self) -> Selection:
        """Which of them may be used."""
        return Selection.parse(self._environ.get(VARIABLE))

    def status(self, plugin: Installed) -> Status:
        """Status of one row of :meth:`listing`, without importing anything."""
        objection = self._objection(plugin)
        if objection is not None:
            return Status("disabled", objection)
        try:
            owner, _ = self._find(plugin.kind, plugin.name)
        except PluginFailed as error:
            return Status("failed", str(error))
        if owner.distribution != plugin.distribution:
            return Status("failed", _hidden(plugin, owner))
        return self._states.get((plugin.kind, plugin.name), Status("discovered"))

    def strangers(self) -> list[str]:
        """Sentences about names in the selection that nothing installed has."""
        known = {name for _, name in [*self._points, *self._registered]}
        return [
            f"{VARIABLE} names {name!r}, which is not installed{_meant(name, known)}"
            for name in sorted(self.selection().names() - known)
        ]

    # Use.

    def transport(self, scheme: str) -> transport.Transport:
        """A new transport that serves ``scheme``, checked to work here.

        Raises:
            PluginNotFound: nothing installed serves it; the message says what is.
            PluginFailed: it is installed and cannot be used; the message says why and what to do.
        """
        made: transport.Transport = self.make("transport", scheme)
        return made

    def transport_of(self, url: Url) -> Transport:
        """A new transport that serves ``url``.

        Raises:
            InvalidUrl: it has no scheme, as ``localhost:7601``.
            And as :meth:`transport`.
        """
        try:
            return self.transport(url.scheme)
        except PluginNotFound:
            refuse_missing_scheme(url)
            raise

    def storage(self, scheme: str) -> storage.StorageBackend:
        """A new storage backend that serves ``scheme``.  Raises as :meth:`transport` does."""
        made: storage.StorageBackend = self.make("storage", scheme)
        return made

    def plugin(self, name: str) -> hookspecs.Plugin:
        """A new plugin for a broker.  Raises as :meth:`transport` does."""
        made: hookspecs.Plugin = self.make("plugin", name)
        return made

    def load(self, kind: str, name: str) -> Any:
        """Import what the entry point names: a plugin's module, or a command.  Raises as
        :meth:`transport` does."""
        plugin, point = self._usable(kind, name)
        with self._outcome(plugin):
            return _import(plugin, point)

    def make(self, kind: str, name: str) -> Any:
        """A new transport, storage backend or plugin, checked to work here.  Raises as
        :meth:`transport` does."""
        plugin, point = self._usable(kind, name)
        with self._outcome(plugin):
            factory = self._registered.get((kind, name)) or self._factories.get((kind, name))
            if factory is None:
                assert point is not None
                factory = self._announced(plugin, point)
            return _made(plugin, factory)

    def register(self, kind: str, name: str, factory: Factory) -> Registration:
        """Have ``factory`` make what ``name`` means, in this process.

        Raises:
            UsageError: the name is taken, or no name.
        """
        label = "name" if kind == "plugin" else "scheme"
        name = checks.text(name, label)
        if not callable(factory):
            checks.wrong_type("factory", f"a function that makes a {kind}", factory)
        key = kind, name
        if not re.fullmatch(r"[a-z][a-z0-9+.-]{0,63}", name):
            raise UsageError(
                f"{label}: {checks.shown(name)} cannot be a {kind}'s name: a letter, then up to 63 of "
                "a-z 0-9 + . -"
            )
        if key in self._registered or key in self._points:
            owner, _ = self._find(kind, name)
            raise UsageError(f"{owner} is there already: choose another name")
        self._registered[key] = factory
        self._states.pop(key, None)
        return Registration(self._registered, key, factory)

    # Inside.

    def _usable(self, kind: str, name: str) -> tuple[Installed, metadata.EntryPoint | None]:
        plugin, point = self._find(kind, name)
        objection = self._objection(plugin)
        if objection is not None:
            raise PluginFailed(f"{plugin} is disabled: {objection}")
        return plugin, point

    def _objection(self, plugin: Installed) -> str | None:
        return self.selection().objection(plugin.name, built_in=plugin.built_in)

    def _outcome(self, plugin: Installed) -> _Outcome:
        return _Outcome(self._states, (plugin.kind, plugin.name))

    def _announced(self, plugin: Installed, point: metadata.EntryPoint) -> Factory:
        """Import and register the plugin's module; the factory it announces for its name."""
        module = _import(plugin, point)
        announced = _Announced()
        try:
            self._admit(module)
            others = [other for other in self._manager.get_plugins() if other is not module]
            for kind in API_VERSIONS:
                hook = f"hermes_register_{kind}s"
                self._manager.subset_hook_caller(hook, others)(register=announced.announce(kind))
        except (Exception, SystemExit) as error:
            raise PluginFailed(_failure(plugin, "could not be registered", error)) from error
        self._check_announced(plugin, point, announced)
        for key, factory in announced.factories.items():
            if self._owns(point, key):
                self._factories[key] = factory
        return announced.factories[plugin.kind, plugin.name]

    def _owns(self, point: metadata.EntryPoint, key: Key) -> bool:
        try:
            _, owner = self._find(*key)
        except PluginFailed:
            return False
        return owner is not None and owner.value == point.value

    def _check_announced(
        self, plugin: Installed, point: metadata.EntryPoint, announced: _Announced
    ) -> None:
        names = sorted(announced.factories)
        if (plugin.kind, plugin.name) not in announced.factories:
            has = ", ".join(f"{kind} {name!r}" for kind, name in names) or "nothing"
            raise PluginFailed(
                f"{plugin} announces {has}, not what its entry point is named after: "
                f"report this to the makers of {plugin.distribution}"
            )
        for kind, name in names:
            if all(other.value != point.value for other in self._points.get((kind, name), [])):
                raise PluginFailed(
                    f"{plugin} also announces {kind} {name!r}, for which it has no entry point: "
                    f"report this to the makers of {plugin.distribution}"
                )

    def _admit(self, module: ModuleType) -> None:
        if self._manager.is_registered(module):
            return
        self._manager.register(module)
        try:
            self._manager.check_pending()
            for caller in self._manager.get_hookcallers(module) or []:
                if not caller.name.startswith("hermes_register_"):
                    raise ValueError(
                        f"{caller.name} stands in the module itself; it belongs to the object that "
                        "activate() of what is announced returns (docs/hooks.md)"
                    )
        except Exception:
            self._manager.unregister(module)  # or its mistakes would be found in the next one too
            raise

    def _find(self, kind: str, name: str) -> tuple[Installed, metadata.EntryPoint | None]:
        """The owner of a name: this process, Hermes, or the one distribution that offers it."""
        key = kind, name
        if key in self._registered:
            return _own(key, self._registered[key]), None
        offers = [(_installed(key, point), point) for point in self._points.get(key, [])]
        if not offers:
            raise PluginNotFound(self._absence(kind, name))
        ours = [offer for offer in offers if offer[0].distribution == BUILT_IN]
        if not ours and len({point.value for _, point in offers}) > 1:
            makers = " and ".join(sorted(plugin.distribution for plugin, _ in offers))
            raise PluginFailed(f"{kind} {name!r} is offered by {makers}: uninstall all but one")
        return (ours or offers)[0]

    def _absence(self, kind: str, name: str) -> str:
        names = self.names(kind)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        has = ", ".join(names) or "none"
        shape = " A URL begins with it, as in tcp://HOST:PORT." if kind == "transport" else ""
        return (
            f"no {kind} is called {name!r}{hint} Installed: {has}.{shape} "
            "Another comes with the distribution that offers it (pip install ...); `hermes "
            "plugins` lists them."
        )


class _Outcome:
    """Remembers how the use of a plugin inside a ``with`` block ended."""

    def __init__(self, states: dict[Key, Status], key: Key) -> None:
        self._states, self._key = states, key

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._states[self._key] = Status("loaded")
        elif isinstance(error, PluginFailed):
            self._states[self._key] = Status("failed", str(error))


def _named_by_scheme(group: str) -> bool:
    return group in ("hermes.transports", "hermes.storages")


def _installed(key: Key, point: metadata.EntryPoint) -> Installed:
    maker = point.dist
    return Installed(
        kind=key[0],
        name=key[1],
        module=point.value.partition("[")[0].strip(),
        distribution=maker.name if maker else "an unknown distribution",
        version=maker.version if maker else "",
    )


def _own(key: Key, factory: Factory) -> Installed:
    return Installed(
        kind=key[0],
        name=key[1],
        module=getattr(factory, "__module__", None) or type(factory).__module__,
        distribution=THIS_PROCESS,
        version="",
    )


def _hidden(plugin: Installed, owner: Installed) -> str:
    return (
        f"{plugin} is not used: the name belongs to {owner.distribution}. To go on: uninstall "
        f"{plugin.distribution}, or have its makers choose another name"
    )


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _import(plugin: Installed, point: metadata.EntryPoint | None) -> Any:
    assert point is not None
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        what = "could not be imported"
        raise PluginFailed(_failure(plugin, what, error, point)) from error


def _made(plugin: Installed, factory: Factory) -> Any:
    """The plugin that the factory makes, if it speaks our version and can work here."""
    try:
        made = factory()
        version = made.api_version
        obstacle = made.probe() if version == API_VERSIONS[plugin.kind] else None
    except (Exception, SystemExit) as error:
        raise PluginFailed(_failure(plugin, "could not be started", error)) from error
    ours = API_VERSIONS[plugin.kind]
    if version != ours:
        try:
            newer = version > ours
        except TypeError:
            newer = False
        upgrade, older = (BUILT_IN, plugin.distribution)[:: 1 if newer else -1]
        raise PluginFailed(
            f"{plugin} speaks version {version} of the {plugin.kind} interface, this Hermes speaks "
            f"{ours}: upgrade {upgrade} or install an older {older}"
        )
    if obstacle is not None:
        raise PluginFailed(f"{plugin} cannot work here: {obstacle}")
    return made


def _failure(
    plugin: Installed,
    what: str,
    error: BaseException,
    point: metadata.EntryPoint | None = None,
) -> str:
    if isinstance(error, PluginFailed):
        return f"{plugin} {what}: {error}"
    cause = f"{type(error).__name__}: {error}"
    if isinstance(
        error, MemoryError | ImportError
    ):  # a library that cannot be mapped is the latter
        cause += limited("RLIMIT_AS")
    if isinstance(error, ModuleNotFoundError) and error.name:
        cure = _installation(plugin, error.name, point)
    else:
        cure = f"reinstall or upgrade {plugin.distribution}, or choose another {plugin.kind}"
    return f"{plugin} {what}: {cause}. To go on: {cure}"


def _installation(plugin: Installed, module: str, point: metadata.EntryPoint | None) -> str:
    """Name what to install so that ``module`` is there."""
    if module.partition(".")[0] == plugin.module.partition(".")[0]:
        return f"reinstall {plugin.distribution}: it lacks its own module {module!r}"
    extra = _extra(plugin, module, point or _point_of(plugin))
    if extra is not None:
        return f"pip install '{plugin.distribution}[{extra}]' to use {plugin.name!r}"
    return f"install the module {module!r} into this environment to use {plugin.name!r}"


def _point_of(plugin: Installed) -> metadata.EntryPoint | None:
    group = next((group for group, kind in KINDS.items() if kind == plugin.kind), "")
    found = (
        point
        for point in metadata.entry_points(group=group)
        if _installed((plugin.kind, plugin.name), point) == plugin
    )
    return next(found, None)


def _extra(plugin: Installed, module: str, point: metadata.EntryPoint | None) -> str | None:
    """The distribution's extra that brings ``module``: what the entry point says, else the one
    that requires a distribution of that name, else the one that is called like the plugin."""
    if point is None or point.dist is None:
        return None
    if point.extras:
        return str(point.extras[0])
    extras = [str(name) for name in point.dist.metadata.get_all("Provides-Extra") or []]
    top = _normal(module.partition(".")[0])
    for requirement in point.dist.requires or []:
        wanted = re.match(r"[\w.-]+", requirement)
        named = re.search(r"extra\s*==\s*[\"']([^\"']+)", requirement)
        if wanted and named and _normal(wanted[0]) == top:
            return named[1]
    own = {_normal(part) for part in (plugin.name, *plugin.name.split("+"), top)}
    return next((extra for extra in extras if _normal(extra) in own), None)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
