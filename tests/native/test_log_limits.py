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
from hermes.native.log import Hole, Log, Run

SEGMENT = 64 << 10
SEGMENTS = 40
SMALL = 8192
"""The smallest segment there is: its header, and one message of :func:`fill_small`."""
MANY = 500
MAPS_MAX = 440
"""Segment files that may be mapped: 400 sealed ones, the active one, spares, views."""
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


def log_maps(directory: Path) -> int:
    """How many segment files of the log this process maps."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(directory) in line and ".log" in line for line in lines)


def fill_small(log: Log, count: int, *, first: int = 1) -> None:
    """Append messages of which each fills a smallest segment; their payloads are their numbers."""
    for number in range(first, first + count):
        encoder = Encoder()
        encoder.encode(number.to_bytes(8, "little") * 400, topic="a", sequence=1, timestamp_ns=1)
        log.append(encoder.view, 1)


def payloads(log: Log) -> list[int]:
    """The number in every message that can be read; a hole is -1."""
    state = log.status()
    position, seen = state.start_position, []
    while position < log.status().end_position:
        found = log.read(position, 1 << 20)
        if isinstance(found, Hole):
            seen.append(-1)
            position = found.position
            continue
        assert found is not None
        seen.append(int.from_bytes(bytes(found.view[-8:]), "little"))
        position += len(found.view)
    return seen


def test_segments_that_nobody_reads_are_not_mapped(tmp_path: Path) -> None:
    """However many segments there are, few are mapped, whether written, read or recovered; all can
    be read, and found by sequence and by time."""
    with Log.open(tmp_path, segment_bytes=SMALL, spares=0) as log:
        fill_small(log, MANY)
        assert log.status().segments == MANY
        assert log_maps(tmp_path) <= MAPS_MAX
        assert payloads(log) == list(range(1, MANY + 1))
        log.sync()
        assert log.status().synced_sequence == MANY
        assert log_maps(tmp_path) <= MAPS_MAX
    with Log.open(tmp_path, segment_bytes=SMALL, spares=0) as log:
        assert (log.report.segments, log.report.damaged_ranges) == (MANY, 0)
        assert log_maps(tmp_path) <= MAPS_MAX
        assert [log.locate(sequence).first_sequence for sequence in range(1, MANY + 1)] == list(
            range(1, MANY + 1)
        )
        assert log.locate_time(1).first_sequence == 1
        assert payloads(log) == list(range(1, MANY + 1))
        assert log_maps(tmp_path) <= MAPS_MAX


def test_a_view_outlives_the_map_of_its_segment(tmp_path: Path) -> None:
    """Memory that a reader holds stays what it was, however many segments are read after it."""
    with Log.open(tmp_path, segment_bytes=SMALL, spares=0) as log:
        fill_small(log, MANY)
        first = log.read(log.status().start_position, 1 << 20)
        assert isinstance(first, Run)

        payloads(log)

        assert int.from_bytes(bytes(first.view[-8:]), "little") == 1


def test_an_unmapped_segment_whose_file_is_gone_is_a_hole(tmp_path: Path) -> None:
    """A segment file that was removed or cut while it was not mapped is reported as lost, and what
    stands behind it is read."""
    with Log.open(tmp_path, segment_bytes=SMALL, spares=0) as log:
        fill_small(log, MANY)
        (tmp_path / f"{1:020}.log").unlink()
        os.truncate(tmp_path / f"{2:020}.log", 0)

        assert payloads(log) == [-1, -1, *range(3, MANY + 1)]


def test_unmapped_segments_are_recycled(tmp_path: Path) -> None:
    """Retention takes segments that are not mapped, and what is written in their files is read."""
    with Log.open(
        tmp_path, segment_bytes=SMALL, spares=1, retention_bytes=MANY * (SMALL - 4096)
    ) as log:
        fill_small(log, 2 * MANY)
        state = log.status()
        assert state.recycled > 0
        assert payloads(log) == list(range(state.first_sequence, 2 * MANY + 1))
        assert log_maps(tmp_path) <= MAPS_MAX


def test_a_sync_covers_what_is_not_mapped(tmp_path: Path) -> None:
    """A sync marks segments as on disk though they are not mapped: damage in one is reported after
    a crash, never taken for a torn tail."""
    with Log.open(tmp_path, segment_bytes=SMALL, spares=0) as log:
        fill_small(log, MANY)
        log.sync()
        page = (tmp_path / f"{1:020}.log").read_bytes()[:4096]
        assert page[1024:1088] != bytes(64), "the first segment has no synced mark"
