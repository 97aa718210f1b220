"""Registration: the plugin can be found, says what it is, and costs nothing until it is used."""

from __future__ import annotations

import msgspec

from hermes.spi.storage import API_VERSION, Capabilities, Storage, StorageBackend
from hermes.testing.registration import BaseRegistration
from hermes.testing.storage.contract import Contract


class RegistrationContract(BaseRegistration[StorageBackend], Contract):
    """The storage as the environment sees it."""

    def test_it_has_the_shape_of_a_backend(self, backend: StorageBackend) -> None:
        """The backend has all of a StorageBackend, implements this version of the interface, and
        states its capabilities."""
        assert isinstance(backend, StorageBackend), "it lacks something of StorageBackend"
        assert backend.api_version == API_VERSION
        assert isinstance(backend.capabilities, Capabilities)
        assert issubclass(backend.options, msgspec.Struct), "options is no msgspec struct"

    def test_a_storage_says_what_the_backend_claims(
        self, backend: StorageBackend, storage: Storage
    ) -> None:
        """``durable`` is the same on both, and only what is durable is synced by itself."""
        assert storage.durable == backend.capabilities.durable
        if not storage.durable:
            assert storage.sync_interval_ns is None, "nothing is there to be synced"
        assert backend.capabilities.persistent or not backend.capabilities.durable
