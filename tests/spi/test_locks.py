"""The lock of a place on disk: one broker at a time, whatever is removed beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hermes.errors import DirectoryLocked
from hermes.plugins.discovery import default_plugins
from hermes.spi.locks import PlaceLock
from hermes.spi.url import parse_url

TRY = """
import sys
from pathlib import Path
from hermes.errors import DirectoryLocked
from hermes.spi.locks import PlaceLock
try:
    PlaceLock(Path(sys.argv[1]), Path(sys.argv[2]), cure="go elsewhere").close()
except DirectoryLocked as error:
    print(error)
else:
    print("locked")
"""


def elsewhere(place: Path, lock_file: Path) -> str:
    """Error of another process that wants the lock."""
    program = [sys.executable, "-c", TRY, str(place), str(lock_file)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(params=["directory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place to be locked."""
    place = tmp_path / "place"
    if request.param == "directory":
        place.mkdir()
    else:
        place.touch()
    return place


def test_another_process_is_refused_with_the_owners(place: Path, tmp_path: Path) -> None:
    """The refusal names place, process and what to do; afterwards the lock is free."""
    lock_file = tmp_path / "lock"
    with PlaceLock(place, lock_file, cure="go elsewhere"):
        said = elsewhere(place, lock_file)
        assert f"{place} belongs to a running broker (process {os.getpid()}): go elsewhere" in said
    assert elsewhere(place, lock_file) == "locked\n"
    assert lock_file.read_bytes() == b""


def test_removing_the_lock_file_gives_nothing_away(place: Path, tmp_path: Path) -> None:
    """Without its lock file the place stays locked, and the owner is still named."""
    lock_file = tmp_path / "lock"
    with PlaceLock(place, lock_file, cure="go elsewhere"):
        lock_file.unlink()
        assert f"process {os.getpid()}" in elsewhere(place, lock_file)
    assert elsewhere(place, lock_file) == "locked\n"


def test_the_same_process_is_refused(place: Path, tmp_path: Path) -> None:
    """Two owners in one process are two all the same."""
    lock_file = tmp_path / "lock"
    with PlaceLock(place, lock_file, cure="go elsewhere"):
        with pytest.raises(DirectoryLocked, match=f"process {os.getpid()}"):
            PlaceLock(place, lock_file, cure="go elsewhere")
        assert "process" in elsewhere(place, lock_file)
    PlaceLock(place, lock_file, cure="go elsewhere").close()


@pytest.mark.parametrize("scheme", ["mmap", "sqlite"])
def test_a_storage_is_locked_without_its_lock_file(scheme: str, tmp_path: Path) -> None:
    """A storage whose lock file is removed is not opened a second time."""
    url = parse_url(f"{scheme}:{tmp_path}/data")
    backend = default_plugins().storage(scheme)
    with closing(backend.open(url)):
        (lock_file,) = [path for path in tmp_path.rglob("*") if path.name.endswith("lock")]
        lock_file.unlink()
        with pytest.raises(DirectoryLocked, match=f"process {os.getpid()}"):
            backend.open(url)
    backend.open(url).close()
