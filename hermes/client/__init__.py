"""The client: publishers, subscriptions, and the connection they share.

:mod:`~hermes.client.session` is its core and does no I/O; :mod:`~hermes.client.connection` is the
synchronous shell around it, and :mod:`~hermes.client.client` what users call.
"""

from __future__ import annotations

from hermes.client.batch import Batch
from hermes.client.client import DEFAULT_URL, Client, connect
from hermes.client.position import Position
from hermes.client.publisher import Publisher
from hermes.client.session import Gap
from hermes.client.starts import StartPoint
from hermes.client.subscription import Subscription
from hermes.native.api import Message
from hermes.wire.messages import Start

__all__ = [
    "DEFAULT_URL",
    "Batch",
    "Client",
    "Gap",
    "Message",
    "Position",
    "Publisher",
    "Start",
    "StartPoint",
    "Subscription",
    "connect",
]
