"""Base of the storage kit's groups, beside that of all kits: the place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from hermes.spi.storage import LogSettings, Storage, StorageBackend, StreamLog
from hermes.spi.url import Url, parse_url
from hermes.testing.contract import BaseContract
from hermes.testing.scribe import SETTINGS, Scribe

QUOTA_OPTIONS = ("quota", "size", "disk")


class Ground:
    """One place, which may be opened, left behind and opened again."""

    def __init__(self, contract: Contract, undo: ExitStack) -> None:
        self._contract = contract
        self._undo = undo
        self.directory = Path(tempfile.mkdtemp(prefix="hermes-"))
        """Directory that replaced ``{tmp}`` of the URL."""
        undo.callback(shutil.rmtree, self.directory, ignore_errors=True)

    def url(self, **options: str) -> Url:
        """The place."""
        url = parse_url(self._contract.url.replace("{tmp}", str(self.directory)))
        return parse_url(
            str(url)
            + "".join(
                f"{'&' if url.query or number else '?'}{name}={value}"
                for number, (name, value) in enumerate(options.items())
            )
        )

    def open(self, **options: str) -> Storage:
        """Open it; it is closed after the test at the latest."""
        storage = self._contract.make().open(self.url(**options))
        self._undo.callback(storage.close)
        return storage

    def log(
        self, storage: Storage, name: str = "kit", settings: LogSettings = SETTINGS
    ) -> StreamLog:
        """Open a stream's log; it is closed before the storage at the latest."""
        log = storage.open_stream(name, settings, None)
        self._undo.callback(log.close)
        return log

    def copy(self) -> Ground:
        """All files of the place as they are now, as another place."""
        other = Ground(self._contract, self._undo)
        shutil.copytree(self.directory, other.directory, dirs_exist_ok=True)
        return other

    def files(self) -> list[Path]:
        """Every file of the place that holds something, but for locks."""
        return sorted(
            path
            for path in self.directory.rglob("*")
            if path.is_file() and path.stat().st_size and "lock" not in path.name
        )


class Contract(BaseContract[StorageBackend]):
    """Base of every group; see :mod:`hermes.testing.storage` for the attributes."""

    kit = "storage"
    url: ClassVar[str]
    """A place that is empty each time: ``{tmp}`` becomes a new directory."""
    quota_option: ClassVar[str] = ""
    """The option that bounds the place, in bytes; empty: the first there is of QUOTA_OPTIONS."""
    flips: ClassVar[int] = 60
    """Bytes that the damage group changes."""

    @classmethod
    def quota(cls, size: int) -> dict[str, str]:
        """The option that bounds the place at ``size`` bytes."""
        names = [field.encode_name for field in msgspec.structs.fields(cls.make().options)]
        found = [cls.quota_option] if cls.quota_option else [n for n in QUOTA_OPTIONS if n in names]
        assert found, f"name the option that bounds the place: quota_option, one of {names}"
        return {found[0]: str(size)}

    # What tests are given.

    @pytest.fixture
    def backend(self) -> StorageBackend:
        """The backend that is tested."""
        return self.make()

    @pytest.fixture
    def make_ground(self) -> Iterator[Callable[[], Ground]]:
        """``make_ground()``: a place that nobody has used yet."""
        with ExitStack() as undo:
            yield lambda: Ground(self, undo)

    @pytest.fixture
    def ground(self, make_ground: Callable[[], Ground]) -> Ground:
        """A place that nobody has used yet."""
        return make_ground()

    @pytest.fixture
    def storage(self, ground: Ground) -> Storage:
        """The storage of the place, opened."""
        return ground.open()

    @pytest.fixture
    def log(self, ground: Ground, storage: Storage) -> StreamLog:
        """A stream's empty log."""
        return ground.log(storage)

    @pytest.fixture
    def scribe(self, log: StreamLog) -> Scribe:
        """A writer of the log that records what it appends."""
        return Scribe(log, self.deadline_s)
