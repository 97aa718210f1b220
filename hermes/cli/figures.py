"""Sizes, counts and durations as people read them.  What they write is read by
:mod:`hermes.spi.units`.
"""

from __future__ import annotations

UNITS_NS = (
    ("d", 86_400 * 10**9),
    ("h", 3_600 * 10**9),
    ("min", 60 * 10**9),
    ("s", 10**9),
    ("ms", 10**6),
    ("us", 10**3),
)


def three_digits(value: float) -> str:
    """``1.23``, ``12.3``, ``123``, ``1,234``."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def plural(count: int, noun: str) -> str:
    """``1 message``, ``2,000 messages``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_bytes(size: float) -> str:
    """Three digits and a binary unit: ``1.50 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{three_digits(size)} {unit}"
        size /= 1024
    return f"{three_digits(size)} TiB"


def format_count(count: float) -> str:
    """``12,345`` or, from a million on, ``1.23 M``."""
    if count < 1_000_000:
        return f"{count:,.0f}"
    return f"{count / 1e6:,.2f} M" if count < 1e9 else f"{count / 1e9:,.2f} G"


def format_duration(ns: float) -> str:
    """Three digits and the unit that fits: ``12.3 us``, ``4 h``."""
    for unit, factor in UNITS_NS:
        if ns >= factor:
            return f"{three_digits(ns / factor)} {unit}"
    return f"{three_digits(ns)} ns"
