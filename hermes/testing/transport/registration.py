"""Registration: the plugin can be found, says what it is, and costs nothing until it is used."""

from __future__ import annotations

import msgspec

from hermes.spi.transport import API_VERSION, Capabilities, Transport
from hermes.testing.registration import BaseRegistration
from hermes.testing.transport.contract import Contract


class RegistrationContract(BaseRegistration[Transport], Contract):
    """The transport as the environment sees it."""

    def test_it_has_the_shape_of_a_transport(self, transport: Transport) -> None:
        """The transport has all of a Transport, implements this version of the interface, and
        states its capabilities."""
        assert isinstance(transport, Transport), (
            "it lacks something of hermes.spi.transport.Transport"
        )
        assert transport.api_version == API_VERSION
        assert isinstance(transport.capabilities, Capabilities)
        for options in (transport.listen_options, transport.dial_options):
            assert issubclass(options, msgspec.Struct), f"{options} is no msgspec struct"
