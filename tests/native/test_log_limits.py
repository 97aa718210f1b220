"""A log and the limits of the machine: maps and descriptors."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hermes.errors import StorageFull
from hermes.native import Encoder
from hermes.native.log import Log

SEGMENT = 64 << 10
SEGMENTS = 40
MAPPED_MAX = 8
"""Index files that may be mapped: those of the newest segments and of spares."""


def append(log: Log, count: int, *, publisher: bytes, first: int) -> None:
    """Append messages of a third of a segment, one by one."""
    for number in range(count):
        encoder = Encoder()
        encoder.encode(bytes(20_000), topic="a", sequence=1, timestamp_ns=1)
        log.append(encoder.view, 1, publisher=publisher, first_sequence=first + number)


def index_maps(directory: Path) -> int:
    """How many index files of the log this process maps."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(directory) in line and ".index" in line for line in lines)


@contextmanager
def descriptors(more: int) -> Iterator[None]:
    """In the block this process can open so many descriptors more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_old_segments_map_no_index(tmp_path: Path) -> None:
    """However many segments there are, few index files are mapped, also after a restart; nothing is
    forgotten, and what was not synced is."""
    publisher = bytes(range(16))
    with Log.open(tmp_path, segment_bytes=SEGMENT) as log:
        append(log, 3 * SEGMENTS, publisher=publisher, first=1)
        assert log.status().segments >= SEGMENTS
        assert index_maps(tmp_path) <= MAPPED_MAX
        log.sync()
        assert log.status().synced_sequence == 3 * SEGMENTS
    with Log.open(tmp_path, segment_bytes=SEGMENT) as log:
        assert log.report.damaged_ranges == 0
        assert index_maps(tmp_path) <= MAPPED_MAX
        assert log.publisher_sequence(publisher) == 3 * SEGMENTS
        for sequence in range(1, 3 * SEGMENTS + 1):
            assert log.locate(sequence).first_sequence == sequence
        append(log, 30, publisher=publisher, first=3 * SEGMENTS + 1)
        log.sync()
        assert log.status().synced_sequence == 3 * SEGMENTS + 30


def test_no_descriptor_is_told_as_such_and_passes(tmp_path: Path) -> None:
    """Without a descriptor for another segment the refusal names the limit; with one it goes on."""
    publisher = bytes(range(16))
    with Log.open(tmp_path, segment_bytes=SEGMENT, spares=0) as log:
        append(log, 1, publisher=publisher, first=1)
        with descriptors(0), pytest.raises(StorageFull, match=r"no file descriptor .* `ulimit -n`"):
            append(log, 12, publisher=publisher, first=2)
        first = log.status().next_sequence
        append(log, 12, publisher=publisher, first=first)
        assert log.status().next_sequence == first + 12
