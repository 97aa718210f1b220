"""Storage ``mmap``: a directory that one broker owns, with a log per stream and small state in
it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hermes.errors import (
    Closed,
    DirectoryLocked,
    InvalidConfig,
    InvalidUrl,
    StorageFailed,
    StorageFull,
)
from hermes.native import Encoder, Log, Run
from hermes.spi.storage import LogSettings, Storage, StorageBackend
from hermes.spi.url import parse_url
from hermes_mmaplog.engine import MmapBackend, MmapStorage, default_directory

SETTINGS = LogSettings(
    segment_bytes=65536, retention_bytes=10**7, retention_ns=0, message_max=16384
)


def opened(directory: Path, query: str = "") -> MmapStorage:
    """The storage in ``directory``."""
    return MmapBackend().open(parse_url(f"mmap:{directory}{query}"))


def frame(payload: bytes) -> bytes:
    """One MESSAGE frame."""
    encoder = Encoder()
    encoder.encode(payload, topic="t.a")
    return bytes(encoder.view)


def test_it_has_the_shape_of_the_spi() -> None:
    """The backend can be recognised for one, and works on this machine."""
    assert isinstance(MmapBackend(), StorageBackend)
    assert MmapBackend().probe() is None


def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    """Streams, messages and state outlive the storage."""
    with closing(opened(tmp_path / "data")) as storage:
        with storage.open_stream("md", SETTINGS, None) as log:
            log.append(frame(b"hello"), 1)
        storage.save_state("positions", b"\x01\x02")

    with closing(opened(tmp_path / "data")) as storage:
        typed: Storage = storage
        assert typed.streams() == ["md"]
        assert typed.load_state("positions") == b"\x01\x02"
        assert typed.load_state("nothing") is None
        with typed.open_stream("md", SETTINGS, None) as log:
            run = log.read(0, 1000)
            assert isinstance(run, Run)
            assert b"hello" in bytes(run.view)


def test_a_second_broker_is_refused_with_the_owners_pid(tmp_path: Path) -> None:
    """One owner at a time; who that is, is said."""
    with (
        closing(opened(tmp_path)),
        pytest.raises(DirectoryLocked, match=f"process {os.getpid()}"),
    ):
        opened(tmp_path)
    with closing(opened(tmp_path)):
        pass


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    """A lock dies with its process: nobody has to delete a file."""
    program = (
        "import os, sys; from hermes.spi.url import parse_url;"
        "from hermes_mmaplog.engine import MmapBackend;"
        "keep = MmapBackend().open(parse_url('mmap:' + sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    with closing(opened(tmp_path)) as storage:
        assert storage.streams() == []


def test_directories_are_private(tmp_path: Path) -> None:
    """Files of the broker are nobody else's to read."""
    place = tmp_path / "a" / "data"
    with closing(opened(place)) as storage, storage.open_stream("md", SETTINGS, None):
        modes = [stat.S_IMODE(p.stat().st_mode) for p in [place, place / "streams" / "md"]]
        assert modes == [0o700, 0o700]
        for path in place.rglob("*"):
            if path.is_file():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize(
    ("query", "interval_ns"),
    [
        ("", None),
        ("?sync=none", None),
        ("?sync=always", 0),
        ("?sync=interval:250", 250_000_000),
    ],
)
def test_sync_options(tmp_path: Path, query: str, interval_ns: int | None) -> None:
    """``sync`` says how long what was appended may wait for the disk."""
    with closing(opened(tmp_path, query)) as storage:
        assert storage.sync_interval_ns == interval_ns
        assert storage.durable


@pytest.mark.parametrize(
    "query",
    [
        "?sync=sometimes",
        "?sync=interval:0",
        "?sync=interval:x",
        "?sync=interval:99999999",
        "?hot=much",
        "?hot=-1",
        "?spares=-1",
        "?spares=17",
        "?disk=much",
        "?snyc=none",
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, query: str) -> None:
    """A wrong option is refused by name, and nothing is locked or made."""
    with pytest.raises(InvalidUrl):
        opened(tmp_path / "data", query)
    assert not (tmp_path / "data").exists()


def test_a_misspelt_option_is_answered_with_the_right_one(tmp_path: Path) -> None:
    """A user who writes ``snyc`` is told about ``sync``."""
    with pytest.raises(InvalidUrl, match="did you mean 'sync'"):
        opened(tmp_path, "?snyc=none")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", ".hidden", "a b", "ä", "x" * 129])
def test_names_that_are_no_file_names(tmp_path: Path, name: str) -> None:
    """A stream's name cannot reach outside its directory."""
    with closing(opened(tmp_path)) as storage:
        with pytest.raises(InvalidConfig):
            storage.open_stream(name, SETTINGS, None)
        with pytest.raises(InvalidConfig):
            storage.save_state(name, b"")


def test_relative_and_default_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mmap:./data`` is below the working directory, ``mmap:`` in the platform's data
    directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    with closing(MmapBackend().open(parse_url("mmap:./data"))) as storage:
        assert storage.directory == tmp_path / "data"
        assert storage.url == f"mmap:{tmp_path / 'data'}"
    with closing(MmapBackend().open(parse_url("mmap:"))) as storage:
        assert storage.directory == Path(default_directory()) == tmp_path / "share" / "hermes"


@pytest.mark.parametrize("data", ["", " ", "relative/share"])
def test_the_default_place_is_the_users(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data directory that is not set, or not absolute, is the one that the specification names."""
    monkeypatch.setenv("XDG_DATA_HOME", data)

    assert default_directory() == "~/.local/share/hermes"


def test_a_host_makes_no_sense() -> None:
    """Files have no host."""
    with pytest.raises(InvalidUrl, match="without a host"):
        MmapBackend().open(parse_url("mmap://host/data"))


def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    """An operating system's refusal becomes ours, saying where, and what to do."""
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file" / "data", Path("/proc/hermes")):
        with pytest.raises(StorageFailed, match=f"{place}: .*; name a directory .*mmap:DIR"):
            opened(place)


def test_state_is_replaced_whole(tmp_path: Path) -> None:
    """A half-written state file from a crash is never read, and does not stand in the way."""
    with closing(opened(tmp_path)) as storage:
        storage.save_state("positions", b"old")
        (tmp_path / "state" / ".positions.new").write_bytes(b"ha")

        assert storage.load_state("positions") == b"old"
        storage.save_state("positions", b"new")
        assert storage.load_state("positions") == b"new"


def fill(log: Log) -> None:
    """Append until the log refuses."""
    while True:
        log.append(frame(bytes(1000)), 1)


def test_the_disk_option_is_the_streams_quota(tmp_path: Path) -> None:
    """No stream takes more than ``disk`` bytes."""
    with closing(opened(tmp_path, "?disk=300000")) as storage:
        with storage.open_stream("md", SETTINGS, None) as log, pytest.raises(StorageFull):
            fill(log)
        used = sum(p.stat().st_size for p in (tmp_path / "streams").rglob("*") if p.is_file())
        assert used <= 300_000


def test_progress_is_reported(tmp_path: Path) -> None:
    """A caller that opens a stream can show how far verification has come."""
    with closing(opened(tmp_path)) as storage:
        with storage.open_stream("md", SETTINGS, None) as log:
            log.append(frame(bytes(10_000)), 1)
        seen: list[tuple[str, int, int]] = []
        with storage.open_stream("md", SETTINGS, lambda *what: seen.append(what)):
            pass
    assert seen
    assert all(name == "md" and done <= total for name, done, total in seen)


def test_a_closed_storage_opens_nothing(tmp_path: Path) -> None:
    """After ``close`` the directory is somebody else's."""
    storage = opened(tmp_path)
    storage.close()
    storage.close()
    with pytest.raises(Closed):
        storage.open_stream("md", SETTINGS, None)
    with pytest.raises(Closed):
        storage.save_state("x", b"")
