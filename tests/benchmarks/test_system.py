"""The system benchmark still runs, and its page can be made from what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
QUESTIONS = ["tiny", "roundtrip"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A quick run of some questions: its result, and a document that it wrote its tables into."""
    place = tmp_path_factory.mktemp("benchmarks")
    document = place / "page.md"
    document.write_text((ROOT / "docs" / "benchmarks.md").read_text())
    chosen = ("--quick", *(word for name in QUESTIONS for word in ("--only", name)))
    files = ("--directory", place, "--output", place / "result.json", "--document", document)

    done = run("benchmarks.system", *chosen, *files)

    assert done.returncode == 0, done.stdout + done.stderr
    return place / "result.json", document


@pytest.mark.long
def test_every_contestant_is_measured(result: tuple[Path, Path]) -> None:
    """Each row has figures that can be, and no error, each target a verdict."""
    written: dict[str, Any] = json.loads(result[0].read_text())

    assert [question["name"] for question in written["questions"]] == QUESTIONS
    for question in written["questions"]:
        for row in question["rows"]:
            assert row["error"] is None, row
            for name, values in row["metrics"].items():
                short = name.endswith("_cpu_ns")  # less than a tick of the clock is nothing
                assert values["median"] > 0 or (short and values["median"] == 0), row
        assert all(target["reached"] is not None for target in question["targets"])
    assert {"commit", "cpu", "cores", "kernel", "python", "compiler", "versions"} <= set(
        written["environment"]
    )


@pytest.mark.long
def test_the_page_holds_the_tables(result: tuple[Path, Path]) -> None:
    """Tables stand between the markers, the prose around them is as before."""
    path, document = result
    before = (ROOT / "docs" / "benchmarks.md").read_text()
    text = document.read_text()

    tables = run("benchmarks.system.render", path).stdout

    assert tables in text
    assert "| Hermes, default (--idle adaptive) |" in tables
    assert text.partition("<!-- tables")[0] == before.partition("<!-- tables")[0]
    assert text.rpartition("<!-- end")[2] == before.rpartition("<!-- end")[2]


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    """Nothing is written into a file that has no place for tables."""
    page, numbers = tmp_path / "page.md", tmp_path / "result.json"
    page.write_text("# Mine\n")
    environment = {
        "date": "", "commit": "", "dirty": False, "cpu": "", "cores": 1, "memory_bytes": 0,
        "hypervisor": "", "kernel": "", "file_system": "", "python": "", "compiler": "",
        "versions": {},
    }  # fmt: skip
    numbers.write_text(json.dumps({"environment": environment, "quick": True, "questions": []}))

    done = run("benchmarks.system.render", numbers, page)

    assert done.returncode != 0
    assert "has no lines" in done.stderr
    assert page.read_text() == "# Mine\n"
