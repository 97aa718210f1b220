"""Logs in which a wrong clock has stamped messages: starts by time and retention by age go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hermes.native import Encoder
from hermes.plugins.discovery import default_plugins
from hermes.spi.storage import LogSettings, Storage, StreamLog
from hermes.spi.url import parse_url

S = 1_000_000_000
HOUR = 3600 * S
YEAR = 365 * 24 * HOUR
SETTINGS = LogSettings(
    segment_bytes=1 << 16, retention_bytes=1 << 30, retention_ns=HOUR, message_max=1 << 14
)


@pytest.fixture(params=["memory", "mmap", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """A storage of each kind."""
    text = "memory:" if request.param == "memory" else f"{request.param}:{tmp_path}/data"
    with closing(default_plugins().storage(request.param).open(parse_url(text))) as storage:
        yield storage


def append(log: StreamLog, count: int, now_ns: int) -> None:
    """Append messages one by one, a hundredth of a second apart."""
    for number in range(count):
        encoder = Encoder()
        encoder.encode(bytes(1000), topic="a", sequence=1, timestamp_ns=1)
        log.append(encoder.view, 1, now_ns=now_ns + number * S // 100)


def test_a_year_ahead(storage: Storage) -> None:
    """Between the right times before and after, what a wrong time stamped is found, not later."""
    begun = time.time_ns() - 2 * HOUR
    with closing(storage.open_stream("a", SETTINGS, None)) as log:
        append(log, 5, begun)
        append(log, 5, begun + YEAR)
        append(log, 5, begun + 60 * S)
        append(log, 5, begun + 120 * S)

        assert log.locate_time(begun).first_sequence == 1
        assert log.locate_time(begun + 30 * S).first_sequence == 6
        assert log.locate_time(begun + 100 * S).first_sequence == 16
        assert log.locate_time(begun + 121 * S).first_sequence == 21
        assert log.locate_time(begun + YEAR).first_sequence == 21
        log.trim(begun + 60 * 60 * S)
        assert log.status().first_sequence == 1, "the youngest of them is no hour old"
        log.trim(begun + 2 * HOUR)
        assert log.status().first_sequence > 10


def test_an_hour_back(storage: Storage) -> None:
    """A message with an earlier time hides nothing that was appended before or after."""
    begun = time.time_ns() - 3 * HOUR
    with closing(storage.open_stream("a", SETTINGS, None)) as log:
        append(log, 5, begun)
        append(log, 5, begun - HOUR)
        append(log, 5, begun + 60 * S)

        assert log.locate_time(begun - HOUR).first_sequence == 1
        assert log.locate_time(begun).first_sequence == 1
        assert log.locate_time(begun + 60 * S).first_sequence <= 11
        assert log.locate_time(begun + 62 * S).first_sequence == 16
        log.trim(begun + HOUR - 60 * S)
        assert log.status().first_sequence == 1, "nothing of it is an hour old"
        log.trim(begun + 3 * HOUR)
        assert log.status().first_sequence > 10


@pytest.mark.parametrize("scheme", ["mmap", "sqlite"])
def test_a_restart_after_a_year_ahead(scheme: str, tmp_path: Path) -> None:
    """After a restart append times are right, and retention by age takes what a wrong time
    stamped."""
    now = time.time_ns()
    backend = default_plugins().storage(scheme)
    url = parse_url(f"{scheme}:{tmp_path}/data")
    with closing(backend.open(url)) as storage:
        with closing(storage.open_stream("a", SETTINGS, None)) as log:
            append(log, 5, now + YEAR)
        with closing(storage.open_stream("a", SETTINGS, None)) as log:
            append(log, 5, now)
            assert log.locate_time(now - 60 * S).first_sequence == 1
            assert log.locate_time(now + 2 * S).first_sequence == 11

            log.trim(now + 30 * 60 * S)
            assert log.status().first_sequence == 1
            log.trim(now + 2 * HOUR)
            assert log.status().first_sequence > 5


def test_a_small_step_back_is_held(storage: Storage) -> None:
    """Half a second back is no reason to begin anything again."""
    begun = time.time_ns() - 2 * HOUR
    with closing(storage.open_stream("a", SETTINGS, None)) as log:
        append(log, 1, begun)
        append(log, 1, begun - S // 2)
        append(log, 1, begun + S)

        assert log.locate_time(begun).first_sequence == 1
        assert log.locate_time(begun + S // 2).first_sequence == 3
        assert getattr(log.status(), "segments", 1) == 1
