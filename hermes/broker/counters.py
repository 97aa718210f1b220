"""The broker's counters, which its parts raise and ``hermes stats`` shows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Counts since the broker was opened.  Belongs to the loop's thread."""

    connections: int = 0
    """Connections made, those that were refused among them."""
    copied_bytes: int = 0
    """Output copied because its log memory was wanted back."""
    denials: int = 0
    """Clients refused by an authentication hook."""
    served_rounds: int = 0
    """Rounds that native code made alone."""
    refusals: int = 0
    """Publishers that were refused something they sent."""
    violations: int = 0
    """Breaches of the wire protocol."""
    lost_listeners: list[str] = field(default_factory=list)
    """URLs of listeners that were closed because polling them failed again and again."""
