"""``hermes bench compare``: a row for each contestant, in the promised form."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hermes.bench import machine, raw
from hermes.bench.controls import CONTROLS
from hermes.bench.histogram import merged
from hermes.errors import SystemFault
from tests.bench.conftest import processes_with

if TYPE_CHECKING:
    from tests.bench.conftest import Bench

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
PAGE_BYTES = 1 << 20
MEASURES = {"throughput", "latency", "round_trip", "fanout"}
CONTESTANTS = {"tcp", "inproc"} | {one.name for one in CONTROLS if one.obstacle() is None}


class Compared:
    """One quick comparison, and its files."""

    def __init__(self, bench: Bench, place: Path) -> None:
        self.logs = place / "logs"
        self.logs.mkdir()
        self.html, self.hgrm = place / "out.html", place / "hgrm"
        output = place / "out.json"
        self.done = bench(
            *("compare", "tcp", "inproc", "--quick", "--duration", "0.1", "--rate", "1000,4000"),
            *("--directory", self.logs),
            *("--output", output, "--html", self.html, "--hgrm", self.hgrm),
        )
        assert self.done.returncode == 0, self.done.stderr
        self.result: dict[str, Any] = json.loads(output.read_text())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows that were measured."""
        return [row for row in self.result["rows"] if row["measure"] is not None]


@pytest.fixture(scope="module")
def compared(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two transports and the controls."""
    return Compared(bench, tmp_path_factory.mktemp("compare"))


def test_each_contestant_has_a_row_for_each_measure(compared: Compared) -> None:
    """Transports and controls, each in every measure."""
    found = {(row["transport"], row["measure"]) for row in compared.rows}

    assert found == {(name, measure) for name in CONTESTANTS for measure in MEASURES}


def test_rows_hold_what_is_promised(compared: Compared) -> None:
    """Counts add up, rates and percentiles are there where they apply, and in order."""
    for row in compared.rows:
        assert row["sent"] > 0, row
        assert row["delivered"] + row["lost"] == row["sent"] * row["subscribers"], row
        assert row["kind"] == "control" or row["lost"] == 0, row
        assert row["msgs_per_s"] > 0, row
        assert row["size"] == 256
        assert row["error"] is None
        low, high = row["spread"]["msgs_per_s"]
        assert low <= row["msgs_per_s"] <= high
        if row["measure"] in ("latency", "round_trip"):
            percentiles = [row[name] for name in ("p50_us", "p99_us", "p999_us", "max_us")]
            assert percentiles == sorted(percentiles)
            assert percentiles[0] > 0
        else:
            assert "p50_us" not in row
        assert (row["rate"] is not None) == (row["measure"] == "latency")


def test_processor_time_is_of_each_kind_of_process(compared: Compared) -> None:
    """A transport has broker, publisher and subscriber; one that cannot leave its process says
    that it has all in one."""
    kinds = {
        row["transport"]: set(row["cpu_s_per_million"])
        for row in compared.rows
        if row["measure"] == "throughput"
    }

    assert kinds["tcp"] == {"broker", "publisher", "subscriber"}
    assert kinds["inproc"] == {"all in one"}
    assert all(
        "one process" in row["note"] for row in compared.rows if row["transport"] == "inproc"
    )
    spent = [
        row["cpu_s_per_million"]["broker"] for row in compared.rows if row["transport"] == "tcp"
    ]
    assert all(seconds > 0 for seconds in spent)


def test_the_environment_says_what_the_figures_depend_on(compared: Compared) -> None:
    """Machine, software and state, with warnings in words."""
    environment = compared.result["environment"]

    assert {"cpu", "cores", "kernel", "governor", "python", "versions", "commit", "date"} <= set(
        environment
    )
    assert environment["clock_step_ns"] > 0
    trip = environment["core_round_trip_ns"]
    assert trip is None or trip > 0
    assert all(isinstance(warning, str) for warning in environment["warnings"])
    assert len(compared.result["method"]) > 5


def test_histograms_hold_every_message(compared: Compared) -> None:
    """Each latency row's histogram, and its ``.hgrm`` file, counts what was delivered."""
    rows = [row for row in compared.rows if "histogram" in row]

    assert len(rows) == sum(row["measure"] in ("latency", "round_trip") for row in compared.rows)
    for row in rows:
        assert merged([row["histogram"]]).count == row["delivered"]
    files = sorted(compared.hgrm.glob("*.hgrm"))
    assert len(files) == len(rows)
    counts = [int(re.findall(r"TotalCount +=\s+(\d+)", file.read_text())[0]) for file in files]
    assert sorted(counts) == sorted(row["delivered"] for row in rows)


def test_nothing_is_left_behind(compared: Compared) -> None:
    """No directory and no process of a visit outlives it."""
    assert list(compared.logs.iterdir()) == []
    assert processes_with(str(compared.logs)) == []


def test_the_terminal_shows_tables_and_strips(compared: Compared) -> None:
    """Every contestant has a line in every table; percentiles are drawn."""
    for name in CONTESTANTS:
        assert len(re.findall(rf"^{re.escape(name)} ", compared.done.stdout, re.M)) >= 4
    assert "● median" in compared.done.stdout
    if compared.result["environment"]["cores"] > 1:
        assert "core to core" in compared.done.stdout


def test_json_has_the_documented_keys(compared: Compared) -> None:
    """The example in docs/cli.md has the keys of the real thing, in its order."""
    section = re.search(r"^## `hermes bench`\n(.*?)(?=^## )", PAGE.read_text(), re.M | re.S)
    assert section
    (documented,) = (json.loads(b) for b in re.findall(r"```json\n(.*?)```", section[1], re.S))
    real = next(
        row for row in compared.rows if row["measure"] == "latency" and row["transport"] == "tcp"
    )

    assert list(documented) == list(compared.result)
    assert list(documented["rows"][0]) == list(real)
    for part in ("spread", "cpu_s_per_million"):
        assert list(documented["rows"][0][part]) == list(real[part])
    assert list(documented["rows"][0]["rounds"][0]) == list(real["rounds"][0])
    assert list(documented["plan"]) == list(compared.result["plan"])


class Elements(HTMLParser):
    """Elements of a page, and addresses that it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_else(compared: Compared) -> None:
    """One file under a megabyte, with plots for every measure, that fetches nothing."""
    text = compared.html.read_text()
    elements = Elements()
    elements.feed(text)

    assert len(text) < PAGE_BYTES
    assert elements.fetched == []
    assert not re.findall(r"url\(|@import|https?://", text)
    assert {"script", "link", "iframe"}.isdisjoint(elements.tags)
    rates = {row["rate"] for row in compared.rows if row["rate"]}
    bars, loads, curves = 2, 2, len(rates) + 1
    assert elements.tags.count("svg") == bars + loads + curves
    for name in CONTESTANTS:
        assert name in text


def test_a_busy_core_costs_one_figure_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When the other core does not answer in time, its figure is missing, and all else is there."""

    def too_long(*_: int) -> list[int]:
        raise SystemFault("the other core took too long")

    monkeypatch.setattr(raw, "core_round_trip_ns", too_long)

    assert machine.environment(tmp_path)["core_round_trip_ns"] is None
