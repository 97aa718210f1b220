"""Everything of one broker that its connections share.

Made by the kernel, and handed to each part of each connection; so none of them knows the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hermes.broker.clock import Clock
from hermes.broker.config import Config
from hermes.broker.counters import Counters
from hermes.broker.durables import Durables
from hermes.broker.guard import Guard
from hermes.broker.hooks import Hooks
from hermes.broker.loop import Loop
from hermes.broker.publishers import PublisherClaims
from hermes.broker.refusals import Refusals
from hermes.broker.streams import Streams
from hermes.broker.syncs import Syncs
from hermes.broker.turns import Turns
from hermes.spi.storage import Storage
from hermes.spi.transport import Agent
from hermes.wire.messages import Limits


class Described(Protocol):
    """A connection, as far as ``hermes stats`` shows it."""

    def describe(self) -> dict[str, object]:
        """Its state and counters."""


@dataclass(slots=True)
class Context:
    """The parts of a broker below its connections.  Belongs to the loop's thread."""

    config: Config
    hooks: Hooks
    storage: Storage
    streams: Streams
    loop: Loop
    limits: Limits
    """Limits that the protocol of a connection enforces."""
    server: str
    """Name and version of this program."""
    broker_id: bytes
    durable: bool
    """The storage puts messages on a disk."""
    started_ns: int
    scratch: memoryview
    """The buffer that connections read into, in turn."""
    scratch_address: Any
    clock: Clock
    counters: Counters
    guard: Guard
    turns: Turns
    refusals: Refusals
    syncs: Syncs
    durables: Durables
    publishers: PublisherClaims
    agents: list[Agent]
    connections: Mapping[int, Described]
    serve_spin_ns: int = 0
    """How long native code may poll for more input of one connection."""
