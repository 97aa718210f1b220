"""Brokers to talk to, and clients of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from hermes.broker import Broker
from tests.broker.rawclient import RawClient


@pytest.fixture
def serve() -> Iterator[Callable[..., Broker]]:
    """Start a broker: ``serve(**settings)``; in memory and in process unless told otherwise."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Broker:
            settings = {"listeners": ["inproc:"], "storage": "memory:", "idle": "block", **settings}
            return stack.enter_context(Broker(**settings))

        yield start


@pytest.fixture
def connect() -> Iterator[Callable[..., RawClient]]:
    """Connect a raw client: ``connect(broker_or_url)``."""
    clients: list[RawClient] = []

    def dial(to: Broker | str, **options: Any) -> RawClient:
        clients.append(RawClient(to if isinstance(to, str) else to.url, **options))
        return clients[-1]

    yield dial
    for client in clients:
        client.close()
