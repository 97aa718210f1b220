"""Where a subscription begins, in all its forms."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hermes.client.starts import start_of
from hermes.errors import UsageError
from hermes.wire.messages import Start


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("latest", Start(at="latest")),
        ("earliest", Start(at="earliest")),
        ("last", Start(at="last")),
        (0, Start(at="sequence", sequence=0)),
        (7, Start(at="sequence", sequence=7)),
        (
            datetime(2026, 1, 31, 9, 30, 0, 123456, tzinfo=UTC),
            Start(at="time", time_ns=1_769_851_800_123_456_000),
        ),
        ({"md": 5}, Start(at="positions", positions={"md": 5})),
        (Start(at="last"), Start(at="last")),
    ],
)
def test_forms(point, expected):  # type: ignore[no-untyped-def]
    """Each form becomes the protocol's, times without losing a nanosecond of what they say."""
    assert start_of(point, None) == expected


@pytest.mark.parametrize(
    "point", ["Earliest", "", True, -1, 2**63, 5.0, 10 / 2, 1e9, None, [1], 1j]
)
def test_nonsense(point):  # type: ignore[no-untyped-def]
    """Anything else is an error that lists the forms."""
    with pytest.raises(UsageError, match="expected one of latest, earliest, last"):
        start_of(point, None)


@pytest.mark.parametrize(
    "point",
    [
        datetime(1969, 12, 31, tzinfo=UTC),
        datetime(5138, 11, 16, tzinfo=UTC),
    ],
)
def test_times_out_of_range(point):  # type: ignore[no-untyped-def]
    """A time that no clock of the protocol can show is an error that says so, not an overflow."""
    with pytest.raises(UsageError, match="from 1970 to 2262"):
        start_of(point, None)


def test_a_durable_name_decides():
    """With a durable name, the word says only where to begin the first time."""
    assert start_of("earliest", "app") == Start(at="durable", otherwise="earliest")
    with pytest.raises(UsageError, match="stored position decides"):
        start_of(7, "app")
