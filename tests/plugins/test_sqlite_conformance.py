"""``sqlite:`` keeps the contract of storages."""

from hermes.testing.storage import StorageContract


class TestSqlite(StorageContract):
    """In a file."""

    url = "sqlite:{tmp}/hermes.db"
