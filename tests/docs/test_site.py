"""The documentation site has a place for every page and every public name; checked without
building it."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

import hermes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
API = (DOCS / "api.md").read_text()
REFERENCE = {path.name: path.read_text() for path in sorted((DOCS / "reference").glob("*.rst"))}
DIRECTIVE = re.compile(
    r"^\.\. (?:auto(?:class|exception|function|module)|py:data):: ([\w.]+)$", re.M
)
EXPORTED: list[str] = vars(hermes)["__all__"]
PARTS = [
    "Start here",
    "Client guide",
    "How-to",
    "Plugins",
    "Reference",
    "Explanation",
]


@pytest.mark.parametrize("name", EXPORTED)
def test_a_public_name_has_its_place(name: str) -> None:
    """One page of the reference documents the name; a class has a page of its own."""
    homes = [
        page for page, text in REFERENCE.items() if f"hermes.{name}" in DIRECTIVE.findall(text)
    ]

    assert len(homes) == 1
    if inspect.isclass(getattr(hermes, name)):
        assert homes == [f"{name}.rst"]


def test_the_reference_documents_public_names_only() -> None:
    """Each directive names something that `hermes` exports."""
    found = [name for text in REFERENCE.values() for name in DIRECTIVE.findall(text)]

    ours = ["Client", "Publisher", "Subscription", "connect"]  # the others are those of hermes
    expected = [f"hermes.{name}" for name in EXPORTED] + [f"hermes.aio.{name}" for name in ours]
    assert sorted(found) == sorted([*expected, "hermes.aio"])


def test_the_api_page_lists_every_page_of_the_reference() -> None:
    """docs/api.md, whose list is the navigation, links to each page of the reference once."""
    listed = re.findall(r"^- \[[^]]+\]\(reference/(\w+\.rst)\)", API, re.M)

    assert sorted(listed) == sorted(REFERENCE)


def test_the_index_has_the_parts_of_the_site() -> None:
    """The sections of docs/README.md are the parts of the navigation."""
    index = (DOCS / "README.md").read_text()

    assert re.findall(r"^## (.+)$", index, re.M) == PARTS


def test_the_site_needs_a_group_of_its_own() -> None:
    """Sphinx is in the group `docs`, and neither among what Hermes needs nor in `dev`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {name: " ".join(wanted) for name, wanted in project["dependency-groups"].items()}

    assert [name for name, wanted in groups.items() if "sphinx" in wanted] == ["docs"]
    assert not [wanted for wanted in project["project"]["dependencies"] if "sphinx" in wanted]
