"""Histograms of latencies, in the format of HdrHistogram: what they cost is bounded, and nothing in
them is averaged away.

Values are ns, three significant digits, from 1 ns to an hour.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hermes.errors import UsageError

try:
    from hdrh.histogram import HdrHistogram
except ImportError as error:
    raise UsageError(
        "hermes bench needs the package hdrhistogram: pip install 'hermes-broker[bench]'"
    ) from error

LATENCY_MAX_NS = 3_600_000_000_000
"""Top of the histogram, one hour: nothing is clipped."""
DIGITS = 3
PERCENTILES = (("p50_us", 50.0), ("p99_us", 99.0), ("p999_us", 99.9))
"""Those that a row has, beside the maximum."""
CURVE_STEPS = 20
"""Points of a percentile curve between one nine and the next."""
HGRM_TICKS = 5
"""Lines of a .hgrm file per halving of the distance to 100 %."""
NS_PER_US = 1000.0


def new() -> HdrHistogram:
    """An empty one."""
    return HdrHistogram(1, LATENCY_MAX_NS, DIGITS)


def histogram_of(values_ns: Iterable[int]) -> HdrHistogram:
    """One of these values."""
    histogram = new()
    for value in values_ns:
        histogram.record_value(min(max(value, 1), LATENCY_MAX_NS))
    return histogram


def encoded(histogram: HdrHistogram) -> str:
    """As HdrHistogram's tools read it: version 2, compressed, base64."""
    text: bytes = histogram.encode()
    return text.decode()


def merged(texts: Iterable[str]) -> HdrHistogram:
    """One of all values in several encoded ones."""
    histogram = new()
    for text in texts:
        histogram.decode_and_add(text)
    return histogram


def summary(histogram: HdrHistogram) -> dict[str, float]:
    """The percentiles of a row and the maximum, us; nothing if it is empty."""
    if histogram.get_total_count() == 0:
        return {}
    found = {
        name: histogram.get_value_at_percentile(percentile) / NS_PER_US
        for name, percentile in PERCENTILES
    }
    return found | {"max_us": histogram.get_max_value() / NS_PER_US}


def curve(histogram: HdrHistogram) -> list[tuple[float, float]]:
    """Points (percentile, us), from the median up to the last message; the last is the maximum.

    Evenly spaced on a scale where 90, 99, 99.9 are one step apart, and never more finely than the
    number of values allows.
    """
    total = histogram.get_total_count()
    if total == 0:
        return []
    points = []
    step = 0
    while True:
        share = 0.5 * 10 ** (-step / CURVE_STEPS)
        if share * total < 1:
            break
        percentile = 100.0 * (1 - share)
        points.append((percentile, histogram.get_value_at_percentile(percentile) / NS_PER_US))
        step += 1
    return [*points, (100.0 * (1 - 0.5 / total), histogram.get_max_value() / NS_PER_US)]


def write_hgrm(histogram: HdrHistogram, path: Path) -> None:
    """The percentile distribution in us, in the text format of HdrHistogram's plotters."""
    lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
    for item in histogram.get_percentile_iterator(HGRM_TICKS):
        share = item.percentile_level_iterated_to / 100
        line = (
            f"{item.value_iterated_to / NS_PER_US:12.3f} {share:2.12f} "
            f"{item.total_count_to_this_value:10d}"
        )
        lines.append(line if share >= 1 else f"{line} {1 / (1 - share):14.2f}")
    mean, deviation = histogram.get_mean_value() / NS_PER_US, histogram.get_stddev() / NS_PER_US
    lines += [
        f"#[Mean    = {mean:12.3f}, StdDeviation   = {deviation:12.3f}]",
        f"#[Max     = {histogram.get_max_value() / NS_PER_US:12.3f}, "
        f"TotalCount     = {histogram.get_total_count():12d}]",
        f"#[Buckets = {histogram.bucket_count:12d}, "
        f"SubBuckets     = {histogram.sub_bucket_count:12d}]",
    ]
    path.write_text("\n".join(lines) + "\n")
