"""Histograms: what they say is what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.bench.histogram import curve, encoded, histogram_of, merged, summary, write_hgrm

LATENCIES = st.lists(st.integers(1, 10**12), min_size=1, max_size=60)
EXACT = 0.002
"""Three significant digits."""


@settings(max_examples=30)
@given(LATENCIES)
def test_percentiles_are_those_of_the_values(values: list[int]) -> None:
    """Each is the value of its rank, to three digits."""
    found = summary(histogram_of(values))

    ordered = sorted(values)
    for name, share in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)):
        rank = max(1, int(share * len(values) + 0.5))
        near = ordered[max(0, rank - 2) : rank + 1]
        assert near[0] * (1 - EXACT) <= found[name] * 1e3 <= near[-1] * (1 + EXACT)
    assert found["max_us"] * 1e3 == pytest.approx(ordered[-1], rel=EXACT)


@settings(max_examples=30)
@given(LATENCIES, LATENCIES)
def test_merging_adds(some: list[int], others: list[int]) -> None:
    """Two encoded histograms together are that of all values."""
    together = merged([encoded(histogram_of(some)), encoded(histogram_of(others))])

    assert together.get_total_count() == len(some) + len(others)
    assert summary(together) == summary(histogram_of(some + others))


@settings(max_examples=30)
@given(LATENCIES)
def test_a_curve_climbs_to_the_maximum(values: list[int]) -> None:
    """From the median on, both coordinates never fall; the last point is the maximum."""
    histogram = histogram_of(values)

    points = curve(histogram)

    assert points == sorted(points)
    assert [us for _, us in points] == sorted(us for _, us in points)
    assert points[-1][1] == summary(histogram)["max_us"]
    assert all(50 <= share < 100 for share, _ in points)


def test_nothing_has_no_percentiles() -> None:
    """An empty histogram says nothing, and fails nowhere."""
    empty = histogram_of([])

    assert summary(empty) == {}
    assert curve(empty) == []


def test_a_hgrm_file_is_what_plotters_read(tmp_path: Path) -> None:
    """A head, lines of value, percentile, count and inverse, and a foot; the last is 100 %."""
    path = tmp_path / "one.hgrm"

    write_hgrm(histogram_of(range(1000, 101_000)), path)

    head, _, *lines = path.read_text().splitlines()
    assert head.split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    body = [line.split() for line in lines if not line.startswith("#")]
    assert all(len(line) == 4 for line in body[:-1])
    value, share, count = body[-1]
    assert (float(share), int(count)) == (1.0, 100_000)
    assert float(value) == pytest.approx(101, rel=EXACT)
    assert len([line for line in lines if line.startswith("#[")]) == 3
