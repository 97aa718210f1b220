"""``mmap:`` keeps the contract of storages."""

from hermes.testing.storage import StorageContract


class TestMmap(StorageContract):
    """In a directory."""

    url = "mmap:{tmp}/data"
