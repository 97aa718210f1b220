"""A result of ``hermes bench`` becomes a part of a page, with plots beside it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.test_page import rows

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "date": "2026-01-31T09:30:00Z", "commit": None, "cpu": "A CPU", "cores": 8, "kernel": "6.8",
    "python": "3.11", "versions": {"hermes-broker": "0.1.0"}, "core_round_trip_ns": 120,
    "warnings": ["a warning"],
}  # fmt: skip


def markers(name: str) -> tuple[str, str]:
    """The lines that a page has where a result belongs."""
    return f"<!-- {name}: written by benchmarks.publish, do not edit -->", f"<!-- end of {name} -->"


def publish(document: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """Put rows of all kinds into ``document``."""
    result = place / "result.json"
    result.write_text(json.dumps({"rows": rows(), "environment": ENVIRONMENT}))
    return subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.publish", "compare", str(result)),
            *("--document", str(document)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_tables_and_plots_stand_between_the_markers(tmp_path: Path) -> None:
    """Every row is in a table, every plot linked is there; the rest of the page is as it was."""
    page, (begin, end) = tmp_path / "page.md", markers("compare")
    page.write_text(f"# Before\n\n{begin}\nold\n{end}\n\n# After\n")

    done = publish(page, tmp_path)

    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{begin}\n")
    assert text.endswith(f"{end}\n\n# After\n")
    assert "old" not in text
    assert len(re.findall(r"^\| (?:tcp|inproc|C relay, TCP) \|", text, re.M)) == len(rows()) - 1
    assert "- udp: no <network> here" in text
    linked = re.findall(r"\]\((page/compare-[^)]+\.svg)\)", text)
    assert len(linked) == len(set(linked)) >= 5
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.svg")} == set(linked)


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    """Nothing is written into a page that has no place for it."""
    page = tmp_path / "page.md"
    page.write_text("# Mine\n")

    done = publish(page, tmp_path)

    assert done.returncode != 0
    assert "has no line" in done.stderr
    assert page.read_text() == "# Mine\n"
    assert not list(tmp_path.rglob("*.svg"))


@pytest.mark.parametrize("name", ["compare", "rivals"])
def test_the_page_has_a_place_for_each(name: str) -> None:
    """docs/benchmarks.md has both pairs of markers, once."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()

    assert all(text.count(marker) == 1 for marker in markers(name))
