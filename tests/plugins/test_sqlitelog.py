"""What ``sqlite:`` adds to the contract of storages: others have the file open too."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from hermes.errors import StorageFull
from hermes.native import Encoder
from hermes.plugins import default_plugins
from hermes.storage import LogSettings
from hermes.url import parse_url

SETTINGS = LogSettings(
    segment_bytes=1 << 20, retention_bytes=0, retention_ns=0, message_max=1 << 16
)


def test_a_program_that_holds_the_database_does_not_hold_the_broker(tmp_path: Path) -> None:
    """An append says at once that there is no room now, long before the two seconds that opening
    would wait, and succeeds when the other program has let go."""
    file = tmp_path / "hermes.db"
    encoder = Encoder()
    encoder.encode(b"x", topic="a", sequence=1, timestamp_ns=1)
    storage = default_plugins().storage("sqlite").open(parse_url(f"sqlite:{file}"))
    with (
        closing(storage),
        closing(storage.open_stream("default", SETTINGS, None)) as log,
        closing(sqlite3.connect(file, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()

        with pytest.raises(StorageFull):
            log.append(encoder.view, 1)

        assert time.monotonic() - begun < 1.5
        other.execute("ROLLBACK")
        log.append(encoder.view, 1)
        assert log.status().next_sequence == 2
