"""A plugin's project as its ``pyproject.toml`` states it: installed or not, nothing is imported."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

from hermes.errors import UsageError
from hermes.plugins.discovery import KINDS
from hermes.testing.validation import Finding, Target

HERMES = "hermes-broker"
"""The distribution that a plugin depends on."""
BY_SCHEME = ("hermes.transports", "hermes.storages")
"""Groups in whose names a dot stands for a plus."""


class Project:
    """One project's folder."""

    def __init__(self, folder: Path) -> None:
        """Read its metadata.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        file = folder / "pyproject.toml"
        try:
            self._toml: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(
                f"{folder} has no pyproject.toml: name a project's folder, or an installed plugin "
                "(`hermes plugins list` shows those)"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} is not TOML: {error}") from error
        self._folder = folder
        self._project: dict[str, Any] = self._toml.get("project", {})
        self._groups: dict[str, dict[str, str]] = self._project.get("entry-points", {})

    @property
    def name(self) -> str:
        """Name of the distribution; empty if it has none."""
        return str(self._project.get("name", ""))

    @property
    def paths(self) -> list[str]:
        """Folders in which its packages lie."""
        setuptools = self._toml.get("tool", {}).get("setuptools", {})
        packages = setuptools.get("packages", {})
        found = packages.get("find", {}) if isinstance(packages, dict) else {}
        where = found.get("where") or [setuptools.get("package-dir", {}).get("", "src"), "."]
        return [str((self._folder / place).absolute()) for place in where]

    def targets(self) -> list[Target]:
        """Every plugin that it announces."""
        return [
            Target(
                kind=KINDS[group],
                name=name.replace(".", "+") if group in BY_SCHEME else name,
                module=module,
                paths=tuple(self.paths),
            )
            for group, points in sorted(self._groups.items())
            if group in KINDS
            for name, module in points.items()
        ]

    def findings(self) -> list[Finding]:
        """Findings from the metadata alone."""
        found = [
            Finding(
                "project",
                "problem",
                f"Hermes knows no group of entry points called {group!r}",
                f"did you mean {difflib.get_close_matches(group, KINDS, n=1, cutoff=0)[0]!r}?",
            )
            for group in self._groups
            if group.startswith("hermes.") and group not in KINDS
        ]
        if not self.targets():
            found.append(
                Finding(
                    "project",
                    "problem",
                    "it announces no plugin",
                    'add an entry point, as in: [project.entry-points."hermes.transports"] and '
                    'below it: NAME = "PACKAGE"',
                )
            )
        if self.name != HERMES and not any(map(_is_hermes, self._project.get("dependencies", []))):
            found.append(
                Finding(
                    "project",
                    "warning",
                    f"it does not depend on {HERMES}",
                    f'add it: dependencies = ["{HERMES}"]',
                )
            )
        return found or [Finding("project", "ok", self.name)]


def _is_hermes(requirement: str) -> bool:
    name = re.match(r"[\w.-]+", requirement)
    return name is not None and re.sub(r"[-_.]+", "-", name[0]).lower() == HERMES
