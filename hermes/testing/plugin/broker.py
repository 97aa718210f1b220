"""Broker: a real broker with the plugin, and its clients."""

from __future__ import annotations

from pathlib import Path

import pytest

import hermes
from hermes.broker import Broker
from hermes.errors import AuthenticationFailed
from hermes.testing.contract import needs, raises
from hermes.testing.plugin.contract import Contract


class BrokerContract(Contract):
    """Clients of a broker that runs the plugin."""

    @pytest.fixture
    def broker(self, tmp_path: Path) -> Broker:
        """A broker that has activated the plugin; to be entered."""
        return Broker(
            listeners=["tcp://127.0.0.1:0"],
            storage="memory",
            plugins={self.name: dict(self.prepare(tmp_path))},
        )

    @pytest.fixture(autouse=True)
    def _installed(self) -> object:
        """Register a plugin that is not installed."""
        if self.factory is None:
            yield
        else:
            with hermes.register_plugin(self.name, self.make):
                yield

    def test_a_broker_starts_and_stops_with_it(self, broker: Broker) -> None:
        """A client that the plugin accepts, or any client if it decides nothing, is served to the
        end."""
        identity, credentials = self.believed or (None, {})
        with (
            broker,
            hermes.connect(
                broker.url,
                identity=identity,
                credentials=dict(credentials),
                timeout=self.deadline_s,
            ) as client,
        ):
            client.ping()

    @needs("hermes_authenticate")
    def test_a_stranger_is_refused(self, broker: Broker) -> None:
        """A client without credentials is refused, and one that is believed is served beside it."""
        assert self.believed is not None, "name a client that the plugin lets in: believed = ..."
        identity, credentials = self.believed
        with (
            broker,
            hermes.connect(
                broker.url,
                identity=identity,
                credentials=dict(credentials),
                timeout=self.deadline_s,
            ) as client,
        ):
            with raises(AuthenticationFailed, "a client without credentials is turned away"):
                hermes.connect(broker.url, identity=identity, timeout=self.deadline_s)
            client.ping()
