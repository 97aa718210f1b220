"""Storage ``memory``: bounded, private to the process, promising nothing."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from hermes.errors import Closed, InvalidConfig, InvalidUrl
from hermes.native import Encoder
from hermes.spi.storage import LogSettings, Storage, StorageBackend
from hermes.spi.url import parse_url
from hermes_memlog.engine import LIMIT, MemoryBackend

MIB = 1024 * 1024
SETTINGS = LogSettings(
    segment_bytes=128 * MIB, retention_bytes=10 * 1024 * MIB, retention_ns=0, message_max=16384
)


def test_it_has_the_shape_of_the_spi() -> None:
    """The backend can be recognised for one, and works on this machine."""
    assert isinstance(MemoryBackend(), StorageBackend)
    assert MemoryBackend().probe() is None


def test_it_promises_nothing() -> None:
    """There is no disk, so no durable acknowledgement, and no sync."""
    storage: Storage = MemoryBackend().open(parse_url("memory:"))

    assert not storage.durable
    assert storage.sync_interval_ns is None
    assert storage.url == "memory:"


def test_streams_are_bounded() -> None:
    """A stream keeps at most the limit where no retention was asked for."""
    storage = MemoryBackend().open(parse_url(f"memory:?limit={2 * MIB}"))
    encoder = Encoder()
    for _ in range(100):
        encoder.encode(bytes(1000), topic="t")
    with storage.open_stream("md", replace(SETTINGS, retention_asked=False), None) as log:
        for _ in range(100):
            log.append(encoder.view, 100)
            status = log.status()
            assert status.end_position - status.start_position <= 2 * MIB
        assert status.end_position - status.start_position > MIB
    assert storage.streams() == ["md"]


@pytest.mark.parametrize(
    ("url", "asked", "kept"),
    [
        ("memory:", None, LIMIT),
        ("memory:", 0, LIMIT),
        ("memory:", 2 << 30, 2 << 30),
        ("memory:", MIB, MIB),
        ("memory:?limit=512MiB", None, 512 * MIB),
        ("memory:?limit=512MiB", 0, 512 * MIB),
        ("memory:?limit=512MiB", 64 * MIB, 64 * MIB),
    ],
)
def test_what_was_asked_for_is_kept(url: str, asked: int | None, kept: int) -> None:
    """A retention that was asked for holds; without one the limit does, and a default."""
    settings = replace(SETTINGS, retention_bytes=asked if asked is not None else 10 << 30)
    settings = replace(settings, retention_asked=asked is not None)
    storage = MemoryBackend().open(parse_url(url))
    with storage.open_stream("md", settings, None) as log:
        assert log.retention_bytes == kept


def test_more_than_the_limit_is_refused() -> None:
    """A retention beyond a limit that was given is refused, with both numbers."""
    storage = MemoryBackend().open(parse_url("memory:?limit=1MiB"))
    with pytest.raises(InvalidConfig, match=r"'md' is to keep 2GiB, more than .*limit=1MiB"):
        storage.open_stream("md", replace(SETTINGS, retention_bytes=2 << 30), None)


def test_state_lives_as_long_as_the_storage() -> None:
    """A saved state can be loaded; a new storage knows nothing of it."""
    storage = MemoryBackend().open(parse_url("memory"))
    storage.save_state("positions", b"1")

    assert storage.load_state("positions") == b"1"
    assert storage.load_state("other") is None
    assert MemoryBackend().open(parse_url("memory")).load_state("positions") is None


@pytest.mark.parametrize(
    "url", ["memory:/tmp", "memory:?limit=5", "memory:?limti=5", "memory:?limit=x"]
)
def test_what_makes_no_sense_is_refused(url: str) -> None:
    """A path, a limit too small, an option that is none."""
    with pytest.raises(InvalidUrl):
        MemoryBackend().open(parse_url(url))


def test_a_closed_storage_opens_nothing() -> None:
    """After ``close`` no stream is made."""
    storage = MemoryBackend().open(parse_url("memory:"))
    storage.close()
    storage.close()
    with pytest.raises(Closed):
        storage.open_stream("md", SETTINGS, None)


@pytest.mark.parametrize("module", ["hermes_memlog", "hermes_mmaplog"])
def test_importing_a_storage_plugin_is_cheap(module: str) -> None:
    """The native core is loaded when a URL names the storage, not when the plugin is looked at."""
    program = f"import sys, {module}; sys.exit('hermes.native._core' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
