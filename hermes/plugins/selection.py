"""Which of the installed plugins may be used: ``HERMES_PLUGINS`` and ``--no-plugin``.

Knows names only, imports no plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

VARIABLE = "HERMES_PLUGINS"
"""Names separated by commas: beside what ships with Hermes only these may be used.  With a ``-`` in
front, a name is excluded instead, built-in or not; where all names are, the rest may be used."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Plugins that the environment allows."""

    allowed: frozenset[str] | None
    """Names that may be used beside the built-in ones; None: all."""
    excluded: frozenset[str]

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read the variable's value; None: it is not set."""
        if text is None:
            return cls(None, frozenset())
        names = [name.strip() for name in text.split(",") if name.strip()]
        excluded = frozenset(name[1:].strip() for name in names if name.startswith("-"))
        allowed = frozenset(name for name in names if not name.startswith("-"))
        return cls(None if excluded and not allowed else allowed, excluded)

    def objection(self, name: str, *, built_in: bool) -> str | None:
        """Why ``name`` may not be used, and what to do; None: it may."""
        if name in self.excluded:
            return f"it is excluded by --no-plugin or {VARIABLE}: take it out there"
        if self.allowed is None or built_in or name in self.allowed:
            return None
        return f"{VARIABLE} allows only what it names: add {name!r} to it"

    def names(self) -> frozenset[str]:
        """Every name it mentions."""
        return self.excluded | (self.allowed or frozenset())


def excluding(text: str | None, names: tuple[str, ...]) -> str:
    """The variable's value with ``names`` excluded too."""
    return ",".join([*([text] if text is not None else []), *(f"-{name}" for name in names)])
