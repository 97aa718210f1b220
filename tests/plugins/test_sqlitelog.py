"""Behaviour that ``sqlite:`` adds to the contract of storages: others have the file open too."""

from __future__ import annotations

import os
import select
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from hermes.broker.owners import stored_publisher_id
from hermes.errors import DirectoryLocked, StorageDamaged, StorageFailed, StorageFull
from hermes.native import Encoder, Hole
from hermes.plugins.discovery import default_plugins
from hermes.spi.storage import LogSettings
from hermes.spi.url import parse_url
from hermes_sqlitelog import log as module

SETTINGS = LogSettings(
    segment_bytes=1 << 20, retention_bytes=0, retention_ns=0, message_max=1 << 16
)


@pytest.mark.timing
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
        waits = []
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(StorageFull):
                log.append(encoder.view, 1)
            waits.append(time.monotonic() - begun)

        assert min(waits) < 1.5, "the best of some tries, because the machine may be busy"
        other.execute("ROLLBACK")
        log.append(encoder.view, 1)
        assert log.status().next_sequence == 2


def test_damage_that_sqlite_quotes_is_damage(tmp_path: Path) -> None:
    """A message of SQLite's with bytes of a damaged schema in it is told as damage, of the database and of
    the states beside it."""
    for name in ("hermes.db", "hermes.db.state"):
        default_plugins().storage("sqlite").open(parse_url(f"sqlite:{tmp_path}/hermes.db")).close()
        file = tmp_path / name
        whole = file.read_bytes()
        assert b"CREATE TABLE state" in whole
        file.write_bytes(whole.replace(b"CREATE TABLE state", b"CREATE T\xf5BLE state"))

        with pytest.raises(StorageDamaged, match=f"opening .*{name}: .*sqlite3 PATH .recover"):
            default_plugins().storage("sqlite").open(parse_url(f"sqlite:{tmp_path}/hermes.db"))
        file.write_bytes(whole)


def _filled(file: Path, count: int) -> list[bytes]:
    """Make a database with so many messages, in a row each; returns their frames."""
    frames = []
    storage = default_plugins().storage("sqlite").open(parse_url(f"sqlite:{file}"))
    with closing(storage), closing(storage.open_stream("default", SETTINGS, None)) as log:
        for number in range(1, count + 1):
            encoder = Encoder()
            encoder.encode(b"x" * number, topic="a", sequence=number, timestamp_ns=1)
            frames.append(bytes(encoder.view))
            log.append(memoryview(frames[-1]), 1, publisher=b"p" * 16, first_sequence=number)
    return frames


def _damaged(file: Path, condition: str) -> None:
    """Change the checksums of the rows that meet ``condition``."""
    with closing(sqlite3.connect(file)) as other, other:
        other.execute(f"UPDATE batch SET crc = crc + 1 WHERE {condition}")


def test_however_much_is_damaged_the_sound_rest_is_served(tmp_path: Path) -> None:
    """A read and a lookup find the sound row behind a thousand damaged ones."""
    file = tmp_path / "hermes.db"
    storage = default_plugins().storage("sqlite").open(parse_url(f"sqlite:{file}"))
    with closing(storage), closing(storage.open_stream("default", SETTINGS, None)) as log:
        places = []
        for number in range(1, 1003):
            encoder = Encoder()
            encoder.encode(b"x", topic="a", sequence=number, timestamp_ns=1)
            places.append(log.append(encoder.view, 1, now_ns=number))
        _damaged(file, "first_sequence BETWEEN 2 AND 1001")

        hole = log.read(places[1].position, 1 << 16)
        found = log.locate(500)

    assert hole == Hole(places[-1].position, 1002, gone=False)
    assert found == (places[-1].position, 1002)


@pytest.mark.parametrize("value", ["NULL", "1.5", "'text'", "x'00'", "-1"])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_damaged_column_of_any_type_is_a_gap(tmp_path: Path, place: int, value: str) -> None:
    """A row is a gap, and the sound ones are served, if damage leaves another type in any of its columns."""
    columns = [column.strip() for column in module.ROW.split(",")]
    for column in columns:
        file = tmp_path / f"{column}.db"
        frames = _filled(file, 3)
        with closing(sqlite3.connect(file)) as other, other:
            other.execute("PRAGMA writable_schema = ON")
            other.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")
        with closing(sqlite3.connect(file)) as other, other:
            other.execute("PRAGMA ignore_check_constraints = ON")
            other.execute(f"UPDATE batch SET {column} = {value} WHERE first_sequence = {place}")

        storage = default_plugins().storage("sqlite").open(parse_url(f"sqlite:{file}"))
        with closing(storage), closing(storage.open_stream("default", SETTINGS, None)) as log:
            log.trim(time.time_ns())
            log.locate(2)
            log.locate_time(1)
            found, position = [], log.status().start_position
            while (run := log.read(position, 1)) is not None:
                if isinstance(run, Hole):
                    assert run.position > position
                    position = run.position
                else:
                    found.append(bytes(run.view))
                    position += len(run.view)
        assert found == [frame for number, frame in enumerate(frames, 1) if number != place]


def test_a_start_by_time_begins_with_the_damage_before_it(tmp_path: Path) -> None:
    """When a damaged row was written is not known: it comes before the first that is sound."""
    file = tmp_path / "hermes.db"
    storage = default_plugins().storage("sqlite").open(parse_url(f"sqlite:{file}"))
    with closing(storage), closing(storage.open_stream("default", SETTINGS, None)) as log:
        places = []
        for number in range(1, 6):
            encoder = Encoder()
            encoder.encode(b"x", topic="a", sequence=number, timestamp_ns=1)
            places.append(log.append(encoder.view, 1, now_ns=number * 10_000_000))
        _damaged(file, "first_sequence IN (1, 3)")

        found = [log.locate_time(n * 10_000_000).first_sequence for n in range(6)]

    assert found == [1, 1, 1, 3, 3, 5]


READ = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
print(database.execute("SELECT count(*) FROM batch").fetchone()[0])
database.close()
"""


def test_a_reader_takes_no_log_away_after_a_sync(tmp_path: Path) -> None:
    """A program that reads the database beside the broker, and closes it, leaves the write-ahead
    log where it is, also after a sync and after a second storage was refused."""
    file = tmp_path / "hermes.db"
    url, backend = parse_url(f"sqlite:{file}"), default_plugins().storage("sqlite")
    encoder = Encoder()
    encoder.encode(b"x", topic="a", sequence=1, timestamp_ns=1)
    with (
        closing(backend.open(url)) as storage,
        closing(storage.open_stream("default", SETTINGS, None)) as log,
    ):
        log.append(encoder.view, 1)
        log.sync_begin()
        select.select([log], [], [], 60)
        with pytest.raises(DirectoryLocked):
            backend.open(url)

        program = [sys.executable, "-c", READ, str(file)]
        seen = subprocess.run(program, capture_output=True, timeout=60, check=True).stdout

        assert seen == b"1\n"
        assert file.with_name("hermes.db-wal").exists()


def test_an_identity_with_many_publishers_has_its_own_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more publishers than are remembered, those of the identity with most go first, from the
    longest silent on; then the longest silent of all."""
    monkeypatch.setattr(module, "PUBLISHERS_MAX", 40)
    monkeypatch.setattr(module, "OWNER_SHARE", 8)
    encoder = Encoder()
    encoder.encode(b"x", topic="a", sequence=1, timestamp_ns=1)
    storage = default_plugins().storage("sqlite").open(parse_url(f"sqlite:{tmp_path / 'a.db'}"))

    def ids(owner: str | None, count: int) -> list[bytes]:
        return [stored_publisher_id(owner, b"number %09d" % number) for number in range(count)]

    with closing(storage), closing(storage.open_stream("default", SETTINGS, None)) as log:
        for publisher in ids(None, 20) + ids("alice", 8) + ids("mallory", 60):
            log.append(encoder.view, 1, publisher=publisher, first_sequence=1)
        log.trim()
        first = {
            owner: [i for i, id in enumerate(ids(owner, 60)) if log.publisher_sequence(id)]
            for owner in (None, "alice", "mallory")
        }
        for publisher in ids("bob", 3):
            log.append(encoder.view, 1, publisher=publisher, first_sequence=1)
        log.trim()
        later = [i for i, id in enumerate(ids("mallory", 60)) if log.publisher_sequence(id)]

    assert first == {None: list(range(20)), "alice": list(range(8)), "mallory": list(range(48, 60))}
    assert later == list(range(51, 60))


FORKING = """
import gc, multiprocessing, os, sys
import hermes
from hermes.broker import Broker

place = sys.argv[1]
directory = os.path.dirname(place)
with Broker(listeners=["tcp://127.0.0.1:0"], storage="sqlite:" + place).start() as broker:
    with hermes.connect(broker.url, timeout=60) as client:
        publisher = client.publisher("a", ack="durable")
        for _ in range(3):
            publisher.send(b"x")
            publisher.flush()
            files = sorted(os.listdir(directory))
            child = os.fork()
            if child == 0:
                gc.collect()
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
            worker = multiprocessing.get_context("fork").Process(target=gc.collect)
            worker.start()
            worker.join()
            assert worker.exitcode == 0
            assert sorted(os.listdir(directory)) == files, "a child took the write-ahead log away"
        assert publisher.acked == 3
with Broker(listeners=["tcp://127.0.0.1:0"], storage="sqlite:" + place).start() as broker:
    with hermes.connect(broker.url, timeout=60) as client:
        with client.subscribe("a", start="earliest") as subscription:
            print([subscription.receive(timeout=60).sequence for _ in range(3)])
"""


def test_children_that_end_leave_the_database_to_their_parent(tmp_path: Path) -> None:
    """A forked child that ends, with the parent's connections open, takes neither file nor message
    away."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path / "log.db")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[1, 2, 3]"), done.stderr


@pytest.mark.parametrize("name", ["a.db", "a.db.state"])
@pytest.mark.parametrize("kind", ["directory", "device", "fifo"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    """A database, or what belongs to it, at the path of a directory, device or FIFO is refused by that
    path at once, and what is there stays."""
    place = tmp_path / name
    if kind == "directory":
        place.mkdir()
    elif kind == "device":
        place.symlink_to("/dev/null")
    else:
        os.mkfifo(place)
    before = place.stat()

    with pytest.raises(StorageFailed, match=rf"{name} is no regular file"):
        default_plugins().storage("sqlite").open(parse_url(f"sqlite:{tmp_path / 'a.db'}"))

    assert place.stat().st_mode == before.st_mode
