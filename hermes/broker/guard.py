"""An unexpected error in serving one connection ends that one; the others are served on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from hermes.base.faults import Faults


class GuardHost(Protocol):
    """A connection, as far as it can be ended."""

    @property
    def number(self) -> int:
        """Its number in the broker."""

    def fail(self, error: Exception) -> None:
        """End it in order because of an unexpected error."""

    def connection_lost(self, error: Exception | None) -> None:
        """End it at once."""


S = TypeVar("S", bound=GuardHost)


class Guard:
    """Calls something for connections, each on its own.  Belongs to the loop's thread."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def each(self, connections: dict[int, S], do: Callable[[S], object]) -> None:
        """Call ``do`` for each connection; one for which it raises ends."""
        for connection in list(connections.values()):
            try:
                do(connection)
            except Exception as error:
                self.failed(connection, error)

    def failed(self, connection: GuardHost, error: Exception) -> None:
        """End ``connection``, in order if that is possible."""
        try:
            connection.fail(error)
        except Exception as again:
            self.faults.caught(f"ending connection {connection.number}", again)
            connection.connection_lost(again)
