"""Histograms: what they say is what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.bench.histogram import (
    DIGITS,
    HGRM_TICKS,
    LATENCY_MAX_NS,
    curve,
    encoded,
    histogram_of,
    merged,
    summary,
    write_hgrm,
)
from tests.effort import effort

LATENCIES = st.lists(st.integers(1, 10**12), min_size=1, max_size=60)
EXACT = 0.002
"""Three significant digits."""


@settings(max_examples=effort(12, 30))
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


@settings(max_examples=effort(12, 30))
@given(LATENCIES, LATENCIES)
def test_merging_adds(some: list[int], others: list[int]) -> None:
    """Two encoded histograms together are that of all values."""
    together = merged([encoded(histogram_of(some)), encoded(histogram_of(others))])

    assert together.count == len(some) + len(others)
    assert summary(together) == summary(histogram_of(some + others))


def recorded(values: list[int]) -> HdrHistogram:
    """A histogram of HdrHistogram's own code."""
    histogram = HdrHistogram(1, LATENCY_MAX_NS, DIGITS)
    for value in values:
        histogram.record_value(value)
    return histogram


@settings(max_examples=10)
@given(LATENCIES)
def test_hdrhistogram_says_the_same(values: list[int]) -> None:
    """Bounds, percentiles and mean are those of HdrHistogram's own code."""
    ours, theirs = histogram_of(values), recorded(values)

    assert (ours.lowest, ours.highest) == (theirs.get_min_value(), theirs.get_max_value())
    for percentile in (1, 50, 90, 99, 99.9, 100):
        assert ours.at(percentile) == theirs.get_value_at_percentile(percentile)
    assert ours.mean == pytest.approx(theirs.get_mean_value(), rel=EXACT)


@given(LATENCIES)
def test_lines_for_plotters_climb_to_the_maximum(values: list[int]) -> None:
    """Each line has the first value that its share of all values reaches, and the number of those;
    the distance to 100 % halves with a few lines."""
    histogram = histogram_of(values)

    lines = list(histogram.levels(HGRM_TICKS))

    assert lines[-1] == (histogram.highest, 100, len(values))
    levels = [level for _, level, _ in lines]
    assert levels == sorted(levels)
    assert sum(level < 50 for level in levels) <= HGRM_TICKS
    for value, level, through in lines:
        assert through == histogram.through(value)
        assert 100 * through / len(values) >= level
        below = histogram.through(value - 1)
        assert below == through or 100 * below / len(values) <= level


@settings(max_examples=10)
@given(LATENCIES)
def test_hdrhistogram_reads_and_writes_the_same_text(values: list[int]) -> None:
    """Each side reads all that the other encodes."""
    read = HdrHistogram.decode(encoded(histogram_of(values)))
    written = merged([recorded(values).encode().decode()])

    assert [item.count_at_value_iterated_to for item in read.get_recorded_iterator()] == [
        count for _, count in histogram_of(values).counts()
    ]
    assert list(written.counts()) == list(histogram_of(values).counts())


@settings(max_examples=effort(12, 30))
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
