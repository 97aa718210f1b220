"""Storage ``mmap``: streams in mapped segment files below one data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes.spi.hooks import RegisterStorage, hookimpl

if TYPE_CHECKING:
    from hermes.spi.storage import StorageBackend


@hookimpl
def hermes_register_storages(register: RegisterStorage) -> None:
    """Announce the scheme ``mmap``."""
    register("mmap", _mmap)


def _mmap() -> StorageBackend:
    from hermes_mmaplog.engine import MmapBackend  # deferred: costs nothing until a URL names it

    return MmapBackend()
