"""How flags become values: no process and no broker."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from hermes.cli.options import Bytes, Duration, StartPoint
from hermes.cli.pub import generated, repeated
from hermes.cli.serve import configure, parse_stream


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("latest", "latest"),
        ("earliest", "earliest"),
        ("last", "last"),
        ("17", 17),
        ("@0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("@1.5", datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
        ("2026-01-31T09:30:00Z", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("2026-01-31T09:30:00+01:00", datetime(2026, 1, 31, 8, 30, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31).astimezone()),
    ],
)
def test_start_points(text: str, value: object) -> None:
    """A word, a bare integer (a sequence), or a time; a time without offset is local."""
    assert StartPoint().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["", "first", "-1", "1.5", "@", "2026-13-01"])
def test_other_start_points_are_refused(text: str) -> None:
    """Text that is neither is a usage error."""
    with pytest.raises(click.BadParameter, match="ISO 8601"):
        StartPoint().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2", 2_000_000_000),
        ("0.5", 500_000_000),
        (".5", 500_000_000),
        ("250ms", 250_000_000),
        ("1m", 60 * 10**9),
    ],
)
def test_a_bare_duration_is_seconds(text: str, ns: int) -> None:
    """Seconds unless a unit is given."""
    assert Duration().convert(text, None, None) == ns


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("64KiB", 65536), ("2kB", 2000)])
def test_sizes(text: str, size: int) -> None:
    """Bytes, or with a unit."""
    assert Bytes().convert(text, None, None) == size


@pytest.mark.parametrize("count", [1, 2, 65_536, 65_537, 200_001])
def test_repeated_messages_are_as_many_as_asked(count: int) -> None:
    """Batches add up to the count, and each is its payload repeated."""
    batches = [(bytes(joined), list(lengths)) for joined, lengths in repeated(b"ab", count)]

    assert sum(len(lengths) for _, lengths in batches) == count
    assert all(joined == b"ab" * len(lengths) for joined, lengths in batches)
    assert all(set(lengths) == {2} for _, lengths in batches)


def test_empty_messages_can_be_repeated() -> None:
    """An empty payload is a message like any other."""
    assert sum(len(lengths) for _, lengths in repeated(b"", 3)) == 3


@pytest.mark.parametrize("size", [0, 1, 36, 37, 1000])
def test_generated_payloads_have_the_size_asked_for(size: int) -> None:
    """Exactly that many bytes."""
    assert len(generated(size)) == size


def test_a_stream_flag_is_a_name_and_patterns() -> None:
    """NAME=PATTERN[,PATTERN]."""
    assert parse_stream("md=md.>,quotes.*") == {"name": "md", "patterns": ["md.>", "quotes.*"]}


@pytest.mark.parametrize("text", ["md", "=md.>", "md=", "md=a,,b"])
def test_other_stream_flags_are_refused(text: str) -> None:
    """The message says what one looks like."""
    with pytest.raises(click.BadParameter, match="NAME=PATTERN"):
        parse_stream(text)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    """A flag replaces what the file says; what neither says is the default."""
    file = tmp_path / "broker.toml"
    file.write_text(
        'idle = "block"\nretention = "1GiB,1h"\nlisteners = ["tcp://127.0.0.1:1"]\n'
        '[[streams]]\nname = "md"\npatterns = ["md.>"]\nretention = "5GiB"\n[limits]\nmessage '
        '= "1MiB"\n'
    )

    config = configure(
        file,
        {"idle": "spin", "retention": None, "listeners": ["tcp", "inproc"]},
        [parse_stream("md=a.>"), parse_stream("log=log.>")],
    )

    assert config.idle == "spin"
    assert str(config.retention) == "1GiB,1h"
    assert config.listeners == ["tcp", "inproc"]
    assert config.limits.message == 1 << 20
    named = {stream.name: stream for stream in config.streams}
    assert named["md"].patterns == ["a.>"]
    assert str(named["md"].retention) == "5GiB"
    assert named["log"].patterns == ["log.>"]
