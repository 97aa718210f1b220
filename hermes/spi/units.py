"""Sizes and durations as people write them: ``10GiB``, ``64KiB``, ``7d``, ``250ms``.

They are plain integers of bytes and nanoseconds once read; fields of configuration and URL options
are declared with these types, and :func:`decode` is the hook that reads them.
"""

from __future__ import annotations

import math
import re
from typing import Any

from hermes.base.checks import FOR_EVER_NS, shown

_NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)\Z")

BYTES = {
    "": 1,
    "b": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "w": 7 * 86400 * 10**9,
}


class ByteSize(int):
    """Bytes; read from ``10GiB`` and the like, or from a plain number of bytes."""

    __slots__ = ()

    def __str__(self) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            factor = BYTES[unit.lower()]
            if self and self % factor == 0:
                return f"{self // factor}{unit}"
        return f"{int(self)}B"


class Duration(int):
    """Nanoseconds; read from ``7d``, ``250ms`` and the like.  A number without unit is refused, but
    0."""

    __slots__ = ()

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s", "ms", "us"):
            factor = NANOSECONDS[unit]
            if self and self % factor == 0:
                return f"{self // factor}{unit}"
        return f"{int(self)}ns" if self else "0"


SIZE_MAX = 2**62
"""Bytes of the largest size: sums of two fit 64 signed bits."""


def byte_size(text: str | int) -> ByteSize:
    """Read a size.

    Raises:
        ValueError: it is none; the message says what one looks like.
    """
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= SIZE_MAX:
        return ByteSize(text)
    match = _NUMBER.match(text) if isinstance(text, str) else None
    if match is None or match[2].lower() not in BYTES:
        raise ValueError(
            f"{shown(text)} is not a size: expected bytes as in 4096, 64KiB, 128MiB or 10GiB"
        )
    if not match[2] and "." in match[1]:
        raise ValueError(f"{shown(text)} is not a number of bytes: it has a fraction and no unit")
    size = float(match[1]) * BYTES[match[2].lower()]
    if size > SIZE_MAX:
        raise ValueError(f"{shown(text)} is over the largest size, which is 4194304TiB")
    return ByteSize(round(size) if match[2] else int(size))


def duration(text: str | float | None) -> Duration:
    """Read a duration: at most a hundred years, which ``inf`` means too, and so does None.

    Raises:
        ValueError: it is none; the message says what one looks like.
    """
    if (isinstance(text, str) and text == "0") or (type(text) is int and text == 0):
        return Duration(0)
    if text is None or (isinstance(text, str | float) and text in ("inf", math.inf)):
        return Duration(FOR_EVER_NS)
    match = _NUMBER.match(text) if isinstance(text, str) else None
    if match is None or match[2].lower() not in NANOSECONDS:
        raise ValueError(
            f"{shown(text)} is not a duration: expected one as in 250ms, 30s, 12h or 7d, or inf"
        )
    ns = float(match[1]) * NANOSECONDS[match[2].lower()]
    return Duration(FOR_EVER_NS if ns >= FOR_EVER_NS else round(ns))


def decode(kind: type, value: Any) -> Any:
    """The ``dec_hook`` with which msgspec reads these types."""
    if kind is ByteSize:
        return byte_size(value)
    if kind is Duration:
        return duration(value)
    raise TypeError(f"{kind.__name__} is not a type of hermes.spi.units")


def encode(value: Any) -> Any:
    """The ``enc_hook`` with which msgspec writes these types: as people write them."""
    if isinstance(value, ByteSize | Duration):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a type of hermes.spi.units")
