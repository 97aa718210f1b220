"""The broker: streams, subscriptions, and the loop that joins transports, wire protocol and
storage."""

from __future__ import annotations

from hermes.broker.broker import Broker, Listener
from hermes.broker.config import Config, Limits, Retention, StreamConfig, load

__all__ = ["Broker", "Config", "Limits", "Listener", "Retention", "StreamConfig", "load"]
