"""A machine's settings as files: those of ``/proc`` and ``/sys``, or of a copy for a test."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hermes.base.platform import usable_cores

SETTING_MAX = 65536
"""Bytes read of one setting: they are lines, not files."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting, as it is and as it should be."""

    path: str
    """Absolute, as in ``/proc/sys/net/core/somaxconn``."""
    before: str
    after: str


class Machine:
    """Settings below ``root``; ``/`` is this machine."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    @property
    def cores(self) -> int:
        """Cores that this process may use."""
        return len(usable_cores())

    def read(self, path: str) -> str | None:
        """The setting without blanks around it; None if there is no such thing here, or we may not
        see it."""
        try:
            with self._at(path).open("rb") as file:
                return file.read(SETTING_MAX).decode(errors="replace").strip()
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The setting as a number; None if it is none."""
        try:
            return int(self.read(path) or "")
        except ValueError:
            return None

    def chosen(self, path: str) -> str | None:
        """Which of ``always [madvise] never`` is in force."""
        words = (self.read(path) or "").split()
        return next((word[1:-1] for word in words if word.startswith("[")), None)

    def matching(self, pattern: str) -> list[str]:
        """Paths below the root, numbers in the order of their value."""
        found = self._root.glob(pattern.removeprefix("/"))
        paths = [f"/{path.relative_to(self._root)}" for path in found]
        return sorted(paths, key=lambda path: (len(path), path))

    def write(self, path: str, value: str) -> None:
        """Set it.

        Raises:
            OSError: it cannot be set, or the kernel does not take this value.
        """
        descriptor = os.open(self._at(path), os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, value.encode() + b"\n")
        finally:
            os.close(descriptor)

    def _at(self, path: str) -> Path:
        return self._root / path.removeprefix("/")
