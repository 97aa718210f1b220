"""Histograms of latencies, in the format of HdrHistogram: their size is bounded, and nothing in them
is averaged away.

Values are ns, three significant digits, from 1 ns to an hour.  A *slot* counts values that share
their first eleven bits: the first 2,048 slots are for one value each, and every 1,024 further ones
are twice as wide as those before them.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from pathlib import Path

LATENCY_MAX_NS = 3_600_000_000_000
"""Top of the histogram, one hour: nothing is clipped."""
DIGITS = 3
HALF_BITS = 10
"""Binary digits of the slots of one width: 1,024, the fewest for three decimal digits."""
PERCENTILES = (("p50_us", 50.0), ("p99_us", 99.0), ("p999_us", 99.9))
"""Percentiles of a row, beside the maximum."""
CURVE_STEPS = 20
"""Points of a percentile curve between one nine and the next."""
HGRM_TICKS = 5
"""Lines of a .hgrm file per halving of the distance to 100 %."""
NS_PER_US = 1000.0

PACKED, PLAIN = 0x1C849314, 0x1C849313
"""Marks of HdrHistogram's version 2, compressed and not."""
PACKED_HEAD = struct.Struct(">II")
"""Mark, and bytes that follow."""
PLAIN_HEAD = struct.Struct(">IIIIQQd")
"""Mark, bytes that follow, offset of the slots, digits, lowest and highest value, unit."""


class Histogram:
    """Counts of latencies by slot; does not change."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        self._slots = sorted(counts)
        self._through = [*accumulate(counts[slot] for slot in self._slots)]

    @property
    def count(self) -> int:
        """Values that were recorded."""
        return self._through[-1] if self._through else 0

    @property
    def lowest(self) -> int:
        """The smallest value, ns, to three digits.  Not of an empty histogram."""
        return _bounds(self._slots[0])[0]

    @property
    def highest(self) -> int:
        """The largest value, ns, to three digits.  Not of an empty histogram."""
        return _bounds(self._slots[-1])[1]

    @property
    def mean(self) -> float:
        """The mean, ns.  Not of an empty histogram."""
        return sum(_middle(slot) * count for slot, count in self.counts()) / self.count

    @property
    def deviation(self) -> float:
        """The standard deviation, ns.  Not of an empty histogram."""
        mean = self.mean
        squares = ((_middle(slot) - mean) ** 2 * count for slot, count in self.counts())
        return math.sqrt(sum(squares) / self.count)

    def at(self, percentile: float) -> int:
        """The value, ns, that so many per cent of the values are at or below.  Not of an empty
        histogram."""
        rank = max(1, int(self.count * percentile / 100 + 0.5))
        return _bounds(self._slots[bisect_left(self._through, rank)])[1]

    def through(self, ns: float) -> int:
        """How many values are at or below ``ns``, to three digits."""
        found = bisect_right(self._slots, _slot(int(ns)))
        return self._through[found - 1] if found else 0

    def counts(self) -> Iterator[tuple[int, int]]:
        """Each slot that counted something, from the lowest, and its count."""
        steps = pairwise([0, *self._through])
        return (
            (slot, after - before) for slot, (before, after) in zip(self._slots, steps, strict=True)
        )

    def levels(self, ticks: int) -> Iterator[tuple[int, float, int]]:
        """Value, ns, percentile, and how many are at or below: ``ticks`` lines per halving of the
        distance to 100 %, which is the last."""
        level = 0.0
        for through, slot in zip(self._through, self._slots, strict=True):
            while level <= 100 * through / self.count:
                yield _bounds(slot)[1], level, through
                if through == self.count:
                    yield _bounds(slot)[1], 100.0, through
                    return
                level += 100 / (ticks * 2 ** (int(math.log2(100 / (100 - level))) + 1))


def _slot(value: int) -> int:
    shift = max(0, value.bit_length() - HALF_BITS - 1)
    return (shift << HALF_BITS) + (value >> shift)


def _bounds(slot: int) -> tuple[int, int]:
    """The lowest and the highest value that a slot counts."""
    shift = max(0, (slot >> HALF_BITS) - 1)
    lowest = (slot - (shift << HALF_BITS)) << shift
    return lowest, lowest + (1 << shift) - 1


def _middle(slot: int) -> float:
    return sum(_bounds(slot)) / 2


def histogram_of(values_ns: Iterable[int]) -> Histogram:
    """A histogram of these values."""
    return Histogram(Counter(_slot(min(max(value, 1), LATENCY_MAX_NS)) for value in values_ns))


def encoded(histogram: Histogram) -> str:
    """As HdrHistogram's tools read it: version 2, compressed, base64."""
    body, following = bytearray(), 0
    for slot, count in histogram.counts():
        if slot > following:
            body += _packed(following - slot if slot > following + 1 else 0)
        body += _packed(count)
        following = slot + 1
    head = PLAIN_HEAD.pack(PLAIN, len(body), 0, DIGITS, 1, LATENCY_MAX_NS, 1.0)
    packed = zlib.compress(head + body)
    return base64.b64encode(PACKED_HEAD.pack(PACKED, len(packed)) + packed).decode()


def _packed(number: int) -> bytes:
    """A count; or, below 0, how many slots are empty.  The sign is the last bit; seven bits a byte,
    the lowest first."""
    left, found = number << 1 if number >= 0 else (-number << 1) - 1, bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*found, left])


def merged(texts: Iterable[str]) -> Histogram:
    """One histogram of all values in several encoded ones."""
    counts: Counter[int] = Counter()
    for text in texts:
        packed = base64.b64decode(text)
        slot = number = shift = 0
        for byte in zlib.decompress(packed[PACKED_HEAD.size :])[PLAIN_HEAD.size :]:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte > 0x7F:
                continue
            if number & 1:
                slot += (number + 1) >> 1
            else:
                counts[slot] += number >> 1
                slot += 1
            number = shift = 0
    return Histogram(+counts)


def summary(histogram: Histogram) -> dict[str, float]:
    """The percentiles of a row and the maximum, us; nothing if it is empty."""
    if histogram.count == 0:
        return {}
    found = {name: histogram.at(percentile) / NS_PER_US for name, percentile in PERCENTILES}
    return found | {"max_us": histogram.highest / NS_PER_US}


def curve(histogram: Histogram) -> list[tuple[float, float]]:
    """Points (percentile, us), from the median up to the last message; the last is the maximum.

    Evenly spaced on a scale where 90, 99, 99.9 are one step apart, and never more finely than the
    number of values allows.
    """
    total = histogram.count
    if total == 0:
        return []
    points = []
    step = 0
    while True:
        share = 0.5 * 10 ** (-step / CURVE_STEPS)
        if share * total < 1:
            break
        percentile = 100.0 * (1 - share)
        points.append((percentile, histogram.at(percentile) / NS_PER_US))
        step += 1
    return [*points, (100.0 * (1 - 0.5 / total), histogram.highest / NS_PER_US)]


def write_hgrm(histogram: Histogram, path: Path) -> None:
    """The percentile distribution in us, in the text format of HdrHistogram's plotters."""
    lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
    for value, percentile, through in histogram.levels(HGRM_TICKS):
        share = percentile / 100
        line = f"{value / NS_PER_US:12.3f} {share:2.12f} {through:10d}"
        lines.append(line if share >= 1 else f"{line} {1 / (1 - share):14.2f}")
    mean, deviation = histogram.mean / NS_PER_US, histogram.deviation / NS_PER_US
    slots = _slot(LATENCY_MAX_NS) >> HALF_BITS
    lines += [
        f"#[Mean    = {mean:12.3f}, StdDeviation   = {deviation:12.3f}]",
        f"#[Max     = {histogram.highest / NS_PER_US:12.3f}, "
        f"TotalCount     = {histogram.count:12d}]",
        f"#[Buckets = {slots:12d}, SubBuckets     = {2 << HALF_BITS:12d}]",
    ]
    path.write_text("\n".join(lines) + "\n")
