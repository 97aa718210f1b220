"""Storage ``memory``: streams in anonymous memory, gone with the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes.spi.hooks import RegisterStorage, hookimpl

if TYPE_CHECKING:
    from hermes.spi.storage import StorageBackend


@hookimpl
def hermes_register_storages(register: RegisterStorage) -> None:
    """Announce the scheme ``memory``."""
    register("memory", _memory)


def _memory() -> StorageBackend:
    from hermes_memlog.engine import MemoryBackend  # deferred: costs nothing until a URL names it

    return MemoryBackend()
