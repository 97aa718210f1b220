"""Starts of subscriptions, in the forms that programs write and in the protocol's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, cast

from msgspec.structs import replace

from hermes.base import checks
from hermes.client.position import Position, epochs_of
from hermes.errors import UsageError, WrongType
from hermes.wire.messages import NAME_MAX, SEQUENCE_MAX, Start

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
    if isinstance(point, Start):
        try:
            point.check()
        except UsageError as error:
            raise type(error)(f"start: {error}") from error
        positions, epochs = dict(point.positions), dict(point.epochs)
        return replace(point, positions=positions, epochs=epochs)  # the client moves them on
    if durable is not None:
        if isinstance(point, str) and point in ("latest", "earliest"):
            word: Literal["latest", "earliest"] = "latest" if point == "latest" else "earliest"
            return Start(at="durable", otherwise=word)
        kind = UsageError if isinstance(point, str) else WrongType
        raise kind(
            f"with a durable name the stored position decides: start is 'latest' or 'earliest' for "
            f"the first time, not {checks.shown(point)}"
        )
    if isinstance(point, str) and point in WORDS:
        return Start(at=cast(Word, str(point)))
    if isinstance(point, str):
        raise UsageError(_forms(point))
    if isinstance(point, datetime):
        return Start(at="time", time_ns=_time_ns(point))
    if isinstance(point, Mapping):
        found = checked_positions(point, "start")
        return Start(at="positions", positions=_plain(found), epochs=epochs_of(found))
    if hasattr(point, "__index__") and not checks.is_bool(point):
        try:
            return Start(at="sequence", sequence=checks.integer(point, "start", most=SEQUENCE_MAX))
        except UsageError:
            raise UsageError(_forms(point)) from None
    raise WrongType(_forms(point))


def checked_positions(positions: Mapping[str, int], name: str) -> dict[str, int]:
    """Positions as the protocol takes them: stream name to sequence.

    Raises:
        UsageError: they are none; the message names the argument ``name``.
    """
    if not isinstance(positions, Mapping):
        checks.wrong_type(name, "a dict of stream name to sequence", positions)
    found = {}
    for stream, sequence in positions.items():
        stream = checks.text(stream, f"a stream's name in {name}", least=1, most=NAME_MAX)
        found[stream] = (
            sequence
            if isinstance(sequence, Position)
            else checks.integer(sequence, f"{name}[{stream!r}]", most=SEQUENCE_MAX)
        )
    return found


def _plain(positions: Mapping[str, int]) -> dict[str, int]:
    return {stream: int(sequence) for stream, sequence in positions.items()}


def _time_ns(moment: datetime) -> int:
    # A datetime without a zone is local time, as everywhere in Python.  Integers: no rounding.
    try:
        whole = int(moment.replace(microsecond=0).timestamp())
    except (OverflowError, ValueError, OSError):  # far from our time, where no zone is known
        whole = -1
    if not 0 <= whole < TIME_MAX_S:
        raise UsageError(f"start takes a time from 1970 to 2262, not {moment}")
    return whole * NS_PER_S + moment.microsecond * 1000


def _forms(point: object) -> str:
    return (
        f"start is not {checks.shown(point)}: expected one of {', '.join(WORDS)}, a sequence (int), a "
        "time (datetime; seconds since 1970 are datetime.fromtimestamp(SECONDS)) or a dict of stream "
        "name to position"
    )
