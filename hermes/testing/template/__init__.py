"""Projects to start from: the files that ``hermes plugins new`` writes.

They stand beside this module, a folder per kind, as they will be but for the suffix
``.template`` and for what :class:`string.Template` fills in.  In their paths ``PACKAGE`` and
``MODULE`` stand for the names of the project's package and module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from string import Template

from hermes.errors import UsageError

NAME = re.compile(r"[a-z][a-z0-9]*([+-][a-z0-9]+)*")
"""Legal names of a plugin here: a URL scheme that makes a module's name."""
NAME_MAX = 20
"""Characters: it becomes part of a distribution's, a package's and a class's name."""
SUFFIX = ".template"
RENAMED = {"gitignore": ".gitignore"}
"""Files whose own name would have a meaning where they stand."""


class Names:
    """Names of the parts of one plugin's project."""

    def __init__(self, kind: str, name: str) -> None:
        """Derive them from the plugin's name.

        Raises:
            UsageError: it cannot be one.
        """
        if not NAME.fullmatch(name) or len(name) > NAME_MAX:
            raise UsageError(
                f"{name!r} cannot name a {kind}: it becomes a URL scheme and part of a Python "
                f"name; expected at most {NAME_MAX} small letters and digits, a letter first, "
                "with single dashes between them, as in 'unixsock'"
            )
        words = re.split(r"[+-]", name)
        self.scheme = name
        self.entry = name.replace("+", ".")
        self.module = "_".join(words)
        self.package = f"hermes_{self.module}"
        self.title = "".join(word.capitalize() for word in words)
        self.distribution = f"hermes-{kind}-{'-'.join(words)}"


def project(
    kind: str, names: Names, *, hermes_version: str, medium: str = "stream"
) -> dict[str, str]:
    """The files of a new project, sorted: path relative to its folder, to text.

    A folder called after kind and medium lies over that of the kind.
    """
    values = {**vars(names), "hermes_version": hermes_version}
    folders = [files(__name__) / name for name in (kind, f"{kind}-{medium}")]
    written = {
        _path(parts, names): Template(text).substitute(values)
        for folder in folders
        if folder.is_dir()
        for parts, text in _templates(folder, ())
    }
    return dict(sorted(written.items()))


def _templates(
    folder: Traversable, above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, (*above, entry.name))
        elif entry.name.endswith(SUFFIX):
            yield (*above, entry.name.removesuffix(SUFFIX)), entry.read_text(encoding="utf-8")


def _path(parts: tuple[str, ...], names: Names) -> str:
    path = "/".join(RENAMED.get(part, part) for part in parts)
    return path.replace("PACKAGE", names.package).replace("MODULE", names.module)
