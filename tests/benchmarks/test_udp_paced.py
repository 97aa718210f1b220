"""Rows of a paced question take turns, and nothing is left out of what is said of them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, which is no part of what is installed."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.system.udp_paced")


class Fake:
    """A role that reports each pass at once, and notes whose turn it was."""

    def __init__(self, name: str, played: list[str]) -> None:
        self._name = name
        self._played = played

    def tell(self, what: dict[str, Any]) -> None:
        self._played.append(self._name)

    def hear(self, timeout_s: float = 0.0) -> dict[str, Any]:
        return {"one_way_ns": [len(self._played) * 1_000] * 4}


def test_the_median_pass_and_all_messages_are_both_told(paced: ModuleType) -> None:
    """A pass that was held up does not move the median, and shows in what is said of all."""
    passes = [[10_000] * 100, [20_000] * 100, [10_000] * 49 + [7_000_000] * 51]

    found = paced.figures(passes)

    assert found["p50_us"] == pytest.approx(20, rel=0.001)
    assert found["p99_us"] == pytest.approx(20, rel=0.001)
    assert found["all_p99_us"] == found["max_us"] == pytest.approx(7_000, rel=0.001)
    assert found["over_300_us_percent"] == pytest.approx(100 * 51 / 300)


def test_passes_take_turns(paced: ModuleType) -> None:
    """Whichever row is asked for first has one pass of each played after the other; the next round
    plays again."""
    played: list[str] = []
    rows = {name: lambda stage, passes, name=name: Fake(name, played) for name in "ab"}
    turns = paced.Turns(rows, paced.Passes(number=3, messages=4))

    first, second = turns.row(None, name="a"), turns.row(None, name="b")
    once = list(played)
    turns.row(None, name="a")

    assert once == ["a", "b"] * 3
    assert played == once * 2
    assert (first["p50_us"], second["p50_us"]) == pytest.approx((3, 4), rel=0.001)
