"""Settings of Sphinx for the documentation site: ``make docs`` builds it into build/site.

The source is the whole repository, so that links between README, docs and examples lead to pages.
Sections of docs/README.md become the parts of the navigation; there is no second list of pages.
"""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
INDEX = "docs/README"
INDEXES = {INDEX, "docs/api"}
"""Pages whose lists of links are the navigation."""

RETURNED = {
    "hermes.Batch",
    *(
        f"{home}.{name}"
        for home in ("hermes", "hermes.aio")
        for name in ("Client", "Publisher", "Subscription")
    ),
}
"""Classes that no program calls: other calls return their objects."""

project = "Hermes"
author = "the maintainers of Hermes"
version = release = version_of("hermes-broker")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = INDEX
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "docs/**.rst",
    "examples/README.md",
]
exclude_patterns = [".*", "build", "dist", "**/__pycache__", "docs/changes/*.*.md"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_heading_anchors = 6
suppress_warnings = ["myst.header"]  # measured tables in benchmarks.md are two levels deep
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"Hermes {version}"
html_additional_pages = {"index": "index.html"}
html_copy_source = False
templates_path = ["templates"]


def navigation(text: str, folder: Path) -> str:
    """The pages that a list links to, as hidden tables of contents: one for each heading."""
    parts = []
    for section in text.split("\n## ")[1:]:
        caption, _, rest = section.partition("\n")
        links = re.findall(r"^- \[[^]]+\]\(([^)#]+)\.(?:md|rst)\)", rest, re.M)
        pages = [(folder / link).resolve().relative_to(ROOT).as_posix() for link in links]
        lines = "\n".join(f"/{page}" for page in pages)
        parts.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n")
    return "\n".join(parts)


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the navigation to an index; a link to a directory, which is no page, becomes text."""
    folder = (ROOT / name).parent

    def link(match: re.Match[str]) -> str:
        return match[1] if (folder / match[2]).is_dir() else match[0]

    if Path(app.env.doc2path(name)).suffix != ".md":
        return
    if name in INDEXES:
        source[0] += "\n" + navigation(source[0], folder)
    if name == "docs/decisions":
        source[0] += "\n```{toctree}\n:glob:\n:titlesonly:\n\ndecisions/*\n```\n"
    source[0] = re.sub(r"\[([^]]+)\]\(([^)\s:#]+)\)", link, source[0])


def attribute(
    app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Keep an attribute's first sentence whole: napoleon takes text before a colon on the first
    line for a type, so an empty comment stands there."""
    if kind in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def errors(
    app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Name errors in full on the page of hermes.aio: hermes has them, and hermes.errors too."""
    if name.startswith("hermes.aio"):
        lines[:] = [
            re.sub(
                r"(:raises |:exc:`)(ConnectionLost|GapDetected|Refused|Timeout)\b",
                r"\1hermes.\2",
                line,
            )
            for line in lines
        ]


def signature(
    app: Sphinx, kind: str, name: str, thing: object, options: object, text: str, result: str
) -> tuple[str, None] | None:
    """Hide the constructors of classes that programs get from other calls."""
    return ("", None) if name in RETURNED else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the above; blocks of hexadecimal bytes are shown as they are."""
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", attribute, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", errors, priority=900)  # behind napoleon
    app.connect("autodoc-process-signature", signature)
    app.add_lexer("hex", TextLexer)
    return {"parallel_read_safe": True}
