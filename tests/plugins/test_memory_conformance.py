"""``memory:`` keeps the contract of storages."""

from hermes.testing.storage import StorageContract


class TestMemory(StorageContract):
    """Streams of the usual size."""

    url = "memory:"
