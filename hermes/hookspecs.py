"""The plugin contract: every hook Hermes calls, and nothing else.

A hook never runs per message.  Plugins are modules, found through the entry-point groups
``hermes.transports``, ``hermes.storages``, ``hermes.plugins`` and ``hermes.commands``, and imported only when a URL or
a flag names them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from hermes.storage import StorageBackend
    from hermes.transport import Transport

hookspec = pluggy.HookspecMarker("hermes")
hookimpl = pluggy.HookimplMarker("hermes")


class RegisterTransport(Protocol):
    """Announces a transport."""

    def __call__(self, scheme: str, factory: Callable[[], Transport]) -> None:
        """``factory`` makes the transport that serves ``scheme``."""


class RegisterStorage(Protocol):
    """Announces a storage backend."""

    def __call__(self, scheme: str, factory: Callable[[], StorageBackend]) -> None:
        """``factory`` makes the backend that serves ``scheme``."""


@hookspec
def hermes_register_transports(register: RegisterTransport) -> None:
    """Call ``register(scheme, factory)`` once per URL scheme the plugin serves.

    ``factory`` takes no argument; it may import what it needs then, so that installing a plugin costs nothing until a
    URL names it.  Registering a scheme twice raises :exc:`ValueError`.
    """


@hookspec
def hermes_register_storages(register: RegisterStorage) -> None:
    """Call ``register(scheme, factory)`` once per storage scheme the plugin serves."""
