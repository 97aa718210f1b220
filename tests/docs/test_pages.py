"""The documents hang together: links lead somewhere, and each has the form it promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "examples/README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
EXPECTED = {
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/architecture.md",
    "docs/cli.md",
    "docs/client.md",
    "docs/configuration.md",
    "docs/glossary.md",
    "docs/log-format.md",
    "docs/plugin-reference.md",
    "docs/wire-protocol.md",
    "docs/writing-plugins.md",
}


def anchor(heading: str) -> str:
    """The anchor that a heading gets on the usual code hosts."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return kept.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Every anchor of a page."""
    text = FENCE.sub("", page.read_text())
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


def test_the_documents_are_there() -> None:
    """Each document that others point to exists."""
    assert {str(page.relative_to(ROOT)) for page in PAGES} >= EXPECTED


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file or a heading of this repository has a target."""
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name}: {target}"
        if heading:
            assert heading in anchors(place), f"{page.name}: {target}"


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    """Under 150 lines; `make demo` and `make test` stand before everything else."""
    lines = (ROOT / "README.md").read_text().splitlines()

    assert len(lines) < 150
    code = [line.strip() for line in lines if line.startswith("    ")]
    assert code[0].startswith("make demo")
    assert code[1].startswith("make test")


def test_each_term_is_defined_once() -> None:
    """No term has two rows in the glossary."""
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs/glossary.md").read_text(), re.M)

    assert terms
    assert len(terms) == len(set(terms))


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda page: page.name
)
def test_a_decision_has_context_choice_and_cost(page: Path) -> None:
    """Each is NNNN-title.md, is titled with its number, and says all three."""
    number = re.match(r"(\d{4})-[a-z0-9-]+\.md$", page.name)
    assert number, page.name
    text = page.read_text()

    assert text.startswith(f"# {number[1]} ")
    assert re.findall(r"^## (.+)$", text, re.M)[:3] == ["Context", "Choice", "Cost"]


def test_decisions_have_numbers_of_their_own() -> None:
    """No number is given twice."""
    numbers = [page.name[:4] for page in (ROOT / "docs/decisions").glob("*.md")]

    assert len(numbers) == len(set(numbers))


def test_change_fragments_are_named_by_kind() -> None:
    """Every fragment is named SUBJECT.KIND.md and holds a sentence."""
    for page in sorted((ROOT / "docs/changes").glob("*")):
        if page.name != "README.md":
            assert re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed)\.md", page.name)
            assert page.read_text().strip().endswith("."), page.name


def test_the_index_lists_every_page() -> None:
    """docs/README.md links to each page beside it, once, and README links to docs/README.md."""
    index = (ROOT / "docs/README.md").read_text()
    pages = sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")

    assert sorted(re.findall(r"^- \[[^]]+\]\(([\w-]+\.md)\)", index, re.M)) == pages
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()
