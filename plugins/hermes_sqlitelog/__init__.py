"""Storage ``sqlite``: streams in one SQLite database, for programs that query them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes.spi.hooks import RegisterStorage, hookimpl

if TYPE_CHECKING:
    from hermes.spi.storage import StorageBackend


@hookimpl
def hermes_register_storages(register: RegisterStorage) -> None:
    """Announce the scheme ``sqlite``."""
    register("sqlite", _sqlite)


def _sqlite() -> StorageBackend:
    from hermes_sqlitelog.engine import (
        SqliteBackend,
    )  # deferred: costs nothing until a URL names it

    return SqliteBackend()
