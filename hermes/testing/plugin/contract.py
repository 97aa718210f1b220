"""Base of the plugin kit's groups, beside that of all kits: the plugin activated for a broker."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from hermes.broker.hooks import Hooks
from hermes.plugins.discovery import Plugins
from hermes.spi.hooks import BrokerInfo, ConnectionInfo, ListenerInfo, Plugin
from hermes.spi.transport import Peer
from hermes.testing.contract import BaseContract

HOOKS = (
    "hermes_authenticate",
    "hermes_broker_started",
    "hermes_broker_stopping",
    "hermes_broker_stopped",
    "hermes_connection_opened",
    "hermes_connection_closed",
    "hermes_metrics",
)
"""The hooks of a broker: which of them a plugin implements is what it claims."""
STRANGER = Peer("tcp", "127.0.0.1:40312", local=False)
BROKER = BrokerInfo(
    broker_id=bytes(16),
    server="hermes 0",
    listeners=(ListenerInfo("tcp://127.0.0.1:7601", "tcp"),),
    storage="memory:",
    streams=("default",),
)
Believed = tuple[str | None, Mapping[str, str]]
"""An identity and credentials."""


def connection_of(number: int, identity: str | None = None) -> ConnectionInfo:
    """A client that has been welcomed."""
    return ConnectionInfo(number, STRANGER, "hermes 0", identity)


class Contract(BaseContract[Plugin]):
    """Base of every group; see :mod:`hermes.testing.plugin` for the attributes."""

    kit = "plugin"
    name: ClassVar[str]
    """Name of the plugin, as ``hermes serve --plugin`` takes it."""
    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Options that it is activated with."""
    believed: ClassVar[Believed | None] = None
    """Identity and credentials of a client that the plugin accepts; None: there is none."""

    def __init_subclass__(cls) -> None:
        """The kits of transports and storages find their subject by a URL."""
        super().__init_subclass__()
        if "name" in vars(cls):
            cls.url = f"{cls.name}:"

    @classmethod
    def prepare(cls, place: Path) -> Mapping[str, Any]:
        """The options of one activation, whose files are made in the directory ``place``."""
        return cls.options

    @classmethod
    def hooks(cls, place: Path) -> Hooks:
        """The plugin activated as a broker does."""
        plugins = Plugins(())
        plugins.register("plugin", cls.name, cls.make)
        return Hooks(plugins, {cls.name: dict(cls.prepare(place))})

    @classmethod
    def implemented(cls) -> dict[str, bool]:
        """Each hook, and whether the plugin implements it."""
        with tempfile.TemporaryDirectory(prefix="hermes-") as place:
            hooks = cls.hooks(Path(place))
            found = {hook: hooks.implements(hook) for hook in HOOKS}
            hooks.stopped()
        return found

    @classmethod
    def subject(cls) -> dict[str, Any]:
        """Name and hooks, for the report."""
        return {"name": cls.name, "url": cls.name, "capabilities": cls.implemented()}

    @classmethod
    def claims(cls) -> Any:
        """Its hooks, as attributes."""
        return type("Claims", (), cls.implemented())

    # What tests are given.

    @pytest.fixture
    def activate(self, tmp_path: Path) -> Iterator[Callable[[], Hooks]]:
        """``activate()``: the hooks of one more broker, stopped after the test."""
        with ExitStack() as undo:

            def make() -> Hooks:
                hooks = self.hooks(tmp_path)
                undo.callback(hooks.stopped)
                return hooks

            yield make

    @pytest.fixture
    def active(self, activate: Callable[[], Hooks]) -> Hooks:
        """The hooks of one broker."""
        return activate()
