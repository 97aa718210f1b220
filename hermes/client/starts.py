"""Where a subscription begins, as people write it and as the protocol says it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, cast

from hermes.errors import UsageError
from hermes.wire.messages import SEQUENCE_MAX, Start

StartPoint = Literal["latest", "earliest", "last"] | int | datetime | Mapping[str, int] | Start
"""A word; a sequence (int); a time (datetime); stream name to the last sequence already had; or the
protocol's own form.  No float: one that was meant for a sequence would be a time in 1970."""

Word = Literal["latest", "earliest", "last"]
WORDS = ("latest", "earliest", "last")
NS_PER_S = 1_000_000_000
TIME_MAX_S = SEQUENCE_MAX // NS_PER_S
"""The end of time: nanoseconds since 1970 as a signed integer of 64 bits last until 2262."""


def start_of(point: StartPoint, durable: str | None) -> Start:
    """The protocol's form of ``point``.

    With a durable name the position stored under it decides; ``point`` says where to begin in a
    stream that has none, and is ``latest`` or ``earliest``.

    Raises:
        UsageError: it is none of the forms.
    """
    if durable is not None and not isinstance(point, Start):
        if isinstance(point, str) and point in ("latest", "earliest"):
            return Start(at="durable", otherwise=point)
        raise UsageError(
            f"with a durable name the stored position decides: start is 'latest' or 'earliest' for "
            f"the first time, not {point!r}"
        )
    match point:
        case Start():
            return point
        case "latest" | "earliest" | "last":
            return Start(at=cast(Word, point))
        case bool() | str():
            raise UsageError(_forms(point))
        case int() if 0 <= point <= SEQUENCE_MAX:
            return Start(at="sequence", sequence=point)
        case datetime() if 0 <= point.timestamp() < TIME_MAX_S:
            return Start(at="time", time_ns=_time_ns(point))
        case datetime():
            raise UsageError(f"{point} is no time to start at: expected one from 1970 to 2262")
        case Mapping():
            return Start(at="positions", positions=dict(point))
    raise UsageError(_forms(point))


def _time_ns(moment: datetime) -> int:
    # A datetime without a zone is local time, as everywhere in Python.  Integers: no rounding.
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * NS_PER_S + moment.microsecond * 1000


def _forms(point: object) -> str:
    return (
        f"{point!r} is no place to start: expected one of {', '.join(WORDS)}, a sequence (int), a "
        "time (datetime; seconds since 1970 are datetime.fromtimestamp(SECONDS)) or a dict of stream "
        "name to position"
    )
