"""Rivals beside Hermes: drivers that say what they lack, and one that runs for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes.bench.contestant import Contestant, Job
from hermes.cli import bench_rivals

ROOT = Path(__file__).parents[2]
DEADLINE_S = 250


@pytest.fixture
def rivals(monkeypatch: pytest.MonkeyPatch) -> list[Contestant]:
    """Rivals there are drivers for."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    return bench_rivals.load(ROOT)


def test_a_driver_says_what_it_measures_and_what_it_lacks(rivals: list[Contestant]) -> None:
    """Every driver has a note and calls to measure, and knows whether it can run here."""
    for rival in rivals:
        obstacle = rival.obstacle()

        assert rival.note, rival.name
        for measure in ("throughput", "latency", "round_trip"):
            assert rival.api(Job(measure, 64)), (rival.name, measure)
        assert obstacle is None or "make rivals" in obstacle


def test_names_are_unique(rivals: list[Contestant]) -> None:
    """No two rows of a table are called the same."""
    names = [rival.name for rival in rivals]

    assert len(set(names)) == len(names)


@pytest.mark.usefixtures("rivals")
def test_a_misspelt_rival_is_refused_with_the_nearest_name() -> None:
    """The error lists what there is."""
    result = CliRunner().invoke(bench_rivals.command, ["zenho", "--drivers", str(ROOT)])

    assert result.exit_code == 2
    assert "'zenoh'" in result.output


def test_without_a_checkout_the_error_says_where_drivers_come_from(tmp_path: Path) -> None:
    """A folder that is no checkout is named, with what to do."""
    result = CliRunner().invoke(bench_rivals.command, ["--drivers", str(tmp_path)])

    assert result.exit_code == 2
    assert str(tmp_path) in result.output
    assert "checkout" in result.output


def test_a_rival_is_measured_beside_hermes(tmp_path: Path) -> None:
    """Both have a row for every measure, and the lossless one loses nothing."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hermes", "bench", "rivals", "pyzmq proxy, no drop"),
            *("--quick", "--no-controls", "--drivers", str(ROOT), "--json"),
            *("--rate", "1000", "--duration", "100ms"),
        ],
        capture_output=True,
        cwd=tmp_path,
        timeout=DEADLINE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    measures = ["throughput", "latency", "round_trip", "fanout"]
    for name in ("tcp", "pyzmq proxy, no drop"):
        ours = {row["measure"]: row for row in rows if row["transport"] == name}
        assert sorted(ours) == sorted(measures)
        assert all(row["lost"] == 0 and row["delivered"] > 0 for row in ours.values())
