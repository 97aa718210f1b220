"""Offline tools: they name what is wrong, find what is sound, and change nothing."""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
from pathlib import Path

import pytest

from hermes.errors import StorageDamaged, StorageFailed
from hermes.native import Encoder, Log, decode
from hermes.native.verify import (
    Problem,
    ProblemKind,
    dump_log,
    find_logs,
    inspect_log,
    verify_log,
)
from tests.effort import effort

pytestmark = pytest.mark.slow

SEGMENT_BYTES = 8192
MESSAGES = 30
HEADER = 4096
PUBLISHER = b"p" * 16
BYTE_STEP = effort(5, 1)
"""Bytes from one that is hurt to the next: 5 comes to every offset of a field, from frame to frame."""


def payload(sequence: int) -> bytes:
    """Payload of message ``sequence``; lengths are mixed, some need padding and some do not."""
    return random.Random(sequence).randbytes(random.Random(-sequence).randrange(0, 400))


def fill(log: Log, count: int = MESSAGES) -> None:
    """Append messages 1..count, one by one, as one publisher."""
    for sequence in range(1, count + 1):
        encoder = Encoder()
        encoder.encode(payload(sequence), topic="t.abc")
        log.append(
            bytes(encoder.view),
            1,
            publisher=PUBLISHER,
            first_sequence=sequence,
            now_ns=10**9 + sequence * 2_000_000,
        )


def make(
    directory: Path, *, closed: bool = True, synced: bool = False, count: int = MESSAGES
) -> Path:
    """A log of a few segments, as a clean close or as a crash leaves it."""
    directory.mkdir()
    log = Log.open(directory, segment_bytes=SEGMENT_BYTES, spares=0)
    fill(log, count)
    if closed:
        log.close()
        return directory
    if synced:
        log.sync()
    copy = directory.with_name(directory.name + "-crashed")
    shutil.copytree(directory, copy)
    log.close()
    return copy


def digest(directory: Path) -> dict[str, str]:
    """Names and contents of everything in a directory."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}


def frame_starts(directory: Path) -> dict[str, list[int]]:
    """Offset of each frame, and the end of the last, per segment file."""
    starts = {}
    for segment in verify_log(directory).segments:
        data = (directory / segment.file).read_bytes()[HEADER : segment.end]
        index = decode(data)
        offsets = [HEADER + offset for offset in index.frame_offset]
        starts[segment.file] = [*offsets, segment.end]
    return starts


@pytest.mark.parametrize("closed", [True, False])
def test_a_sound_log_has_no_problems(tmp_path: Path, closed: bool) -> None:
    """Everything that was appended is counted, and nothing is reported."""
    directory = make(tmp_path / "log", closed=closed)
    before = digest(directory)

    found = verify_log(directory)

    assert found.sound
    assert not found.torn
    assert found.messages == MESSAGES
    assert found.missing == 0
    assert [s.sealed for s in found.segments] == [True] * (len(found.segments) - 1) + [closed]
    assert digest(directory) == before


@pytest.mark.thorough
@pytest.mark.parametrize("closed", [True, False])
def test_one_flipped_byte_is_traced_to_its_frame(tmp_path: Path, closed: bool) -> None:
    """Whichever byte of a frame is hurt, its segment and offset are named and all others are counted."""
    directory = make(tmp_path / "log", closed=closed, synced=True)
    chance = random.Random(7)
    for name, starts in frame_starts(directory).items():
        sound = (directory / name).read_bytes()
        for first, end in itertools.pairwise(starts):
            for offset in range(first, end, BYTE_STEP):
                hurt = bytearray(sound)
                hurt[offset] ^= chance.randrange(1, 256)
                (directory / name).write_bytes(hurt)

                found = verify_log(directory)

                assert [(p.file, p.offset, p.missing) for p in found.problems] == [(name, first, 1)]
                assert found.messages == MESSAGES - 1
        (directory / name).write_bytes(sound)


def test_where_nothing_was_synced_the_log_ends_at_the_first_unsound_frame(tmp_path: Path) -> None:
    """Verifying judges as opening does: sound frames behind it in the last segment do not count."""
    directory = make(tmp_path / "log", closed=False)
    name, starts = list(frame_starts(directory).items())[-1]
    hurt = bytearray((directory / name).read_bytes())
    hurt[starts[2] + 1] ^= 1
    (directory / name).write_bytes(hurt)
    lost = len(starts) - 1 - 2

    found = verify_log(directory)

    assert [(p.kind, p.offset, p.missing) for p in found.problems] == [
        (ProblemKind.TORN, starts[2], lost)
    ]
    assert found.messages == MESSAGES - lost
    with Log.open(directory, segment_bytes=SEGMENT_BYTES) as log:
        assert log.status().next_sequence == MESSAGES - lost + 1
        assert log.publisher_sequence(PUBLISHER) == MESSAGES - lost


@pytest.mark.thorough
def test_every_flipped_byte_beside_the_frames_is_noticed(tmp_path: Path) -> None:
    """Header page, seal and append records are covered by a check as well, and cost no message."""
    directory = make(tmp_path / "log")
    for path in sorted(directory.iterdir()):
        sound = path.read_bytes()
        for offset in range(0, min(len(sound), HEADER), BYTE_STEP):
            hurt = bytearray(sound)
            hurt[offset] ^= 0x20
            path.write_bytes(hurt)

            found = verify_log(directory)

            assert {p.file for p in found.problems} == {path.name}, offset
            assert found.messages == MESSAGES, offset
        path.write_bytes(sound)


def test_a_torn_tail_is_told_from_damage(tmp_path: Path) -> None:
    """The end of an unsealed segment that never reached the disk is a torn tail; the next open cuts it."""
    directory = make(tmp_path / "log", closed=False)
    last = verify_log(directory).segments[-1]
    starts = frame_starts(directory)[last.file]
    path = directory / last.file
    data = path.read_bytes()
    path.write_bytes(data[: starts[-2]] + bytes(len(data) - starts[-2]))

    found = verify_log(directory)

    assert found.torn
    assert not found.sound
    assert [(p.kind, p.offset) for p in found.problems] == [(ProblemKind.TORN, starts[-2])]
    Log.open(directory, segment_bytes=SEGMENT_BYTES).close()
    assert verify_log(directory).sound


def test_a_deleted_segment_is_a_hole(tmp_path: Path) -> None:
    """Sequences that stood in a deleted file are reported as missing, at the segment behind it."""
    directory = make(tmp_path / "log", count=60)
    segments = verify_log(directory).segments
    (directory / segments[1].file).unlink()

    found = verify_log(directory)

    (problem,) = found.problems
    assert problem.kind is ProblemKind.HOLE
    assert problem.file == segments[2].file
    assert (problem.first_missing, problem.last_missing) == (
        segments[1].base_sequence,
        segments[1].next_sequence - 1,
    )


def test_dump_gives_every_sound_message_and_every_problem(tmp_path: Path) -> None:
    """Sound messages come in order with their payload; what is not sound stands in its place as a problem."""
    directory = make(tmp_path / "log")
    name, starts = next(iter(frame_starts(directory).items()))
    data = bytearray((directory / name).read_bytes())
    data[starts[2] + 20] ^= 1
    (directory / name).write_bytes(data)

    dumped = list(dump_log(directory))

    numbers = [item if isinstance(item, Problem) else item[0].sequence for item in dumped]
    assert isinstance(numbers[2], Problem)
    assert numbers[:2] + numbers[3:] == [1, 2, *range(4, MESSAGES + 1)]
    for item in dumped:
        if not isinstance(item, Problem):
            assert bytes(item[2]) == payload(item[0].sequence)
            assert item[1] == "t.abc"


def test_dump_begins_where_it_is_told(tmp_path: Path) -> None:
    """A first sequence leaves out what stands before it."""
    directory = make(tmp_path / "log")

    dumped = list(dump_log(directory, first_sequence=17))

    assert [item[0].sequence for item in dumped if not isinstance(item, Problem)] == list(
        range(17, MESSAGES + 1)
    )


def test_verify_works_beside_a_writer(tmp_path: Path) -> None:
    """Everything appended when the look began is sound, although the segment is open and written to."""
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES, retention_bytes=4 * SEGMENT_BYTES) as log:
        fill(log, 200)

        found = verify_log(tmp_path)

        assert found.sound, list(map(str, found.problems))
        assert found.segments[-1].next_sequence == 201
        assert found.segments[0].base_sequence == log.status().first_sequence


def test_inspect_knows_bounds_without_reading_frames(tmp_path: Path) -> None:
    """Headers, seals and records alone give the same bounds as a full verification of a sound log."""
    directory = make(tmp_path / "log", closed=False)

    assert inspect_log(directory) == verify_log(directory)


def test_logs_are_found_below_a_data_directory(tmp_path: Path) -> None:
    """Every directory that holds segment files is a log, named after itself."""
    (tmp_path / "streams").mkdir()
    make(tmp_path / "streams" / "default")
    make(tmp_path / "streams" / "md")

    found = find_logs(tmp_path)

    assert list(found) == ["default", "md"]
    assert found["md"] == tmp_path / "streams" / "md"


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A directory that is not there is said to be unreadable."""
    with pytest.raises(StorageFailed, match="nowhere"):
        verify_log(tmp_path / "nowhere")
    with pytest.raises(StorageFailed, match="nowhere"):
        find_logs(tmp_path / "nowhere")


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    """A sound header of another version is not guessed at, neither offline nor when opened."""
    from hermes.native._core import ffi, lib

    directory = make(tmp_path / "log")
    path = sorted(directory.glob("*.log"))[0]
    page = bytearray(path.read_bytes())
    page[8] = 2
    page[56:60] = int(lib.hm_crc32c(0, ffi.from_buffer(page), 56)).to_bytes(4, "little")
    path.write_bytes(page)

    with pytest.raises(StorageDamaged, match="newer"):
        verify_log(directory)
    with pytest.raises(StorageDamaged, match="newer"):
        Log.open(directory)
