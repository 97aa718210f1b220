"""Opening of files that a crash, a disk or an operator left: each case has one
answer."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.native import Encoder, Hole, Log, Run, decode
from hermes.native.verify import ProblemKind, verify_log
from tests.effort import effort

pytestmark = pytest.mark.slow

SEGMENT_BYTES = 8192
HEADER = 4096
RECORD = 64
PUBLISHER = b"p" * 16


class Served(NamedTuple):
    """Messages that a log gives to a reader who starts at the beginning."""

    sequences: list[int]
    holes: list[tuple[int, int]]
    """First and last missing sequence of each."""


def payload(sequence: int) -> bytes:
    """Payload of message ``sequence``."""
    return random.Random(sequence).randbytes(random.Random(-sequence).randrange(0, 500))


def append(log: Log, sequence: int, publisher: bytes = PUBLISHER) -> None:
    """Append message ``sequence`` as its publisher's message of the same number."""
    encoder = Encoder()
    encoder.encode(payload(sequence), topic="t.abc")
    log.append(
        bytes(encoder.view),
        1,
        publisher=publisher,
        first_sequence=sequence,
        now_ns=10**9 + sequence * 2_000_000,
    )


def reopen(directory: Path) -> Log:
    """Open the log in ``directory`` as all tests here do."""
    return Log.open(directory, segment_bytes=SEGMENT_BYTES, spares=0)


def make(directory: Path, count: int, *, closed: bool) -> Path:
    """Messages 1..count, as a clean close or as a ``kill -9`` leaves them."""
    directory.mkdir()
    log = reopen(directory)
    for sequence in range(1, count + 1):
        append(log, sequence)
    if closed:
        log.close()
        return directory
    copy = directory.with_name(directory.name + "-killed")
    shutil.copytree(directory, copy)
    log.close()
    return copy


def served(log: Log) -> Served:
    """Read everything, checking each payload, and that the log tells where to go on."""
    status = log.status()
    position, expected = status.start_position, status.first_sequence
    found = Served([], [])
    while (run := log.read(position, 2000)) is not None:
        if isinstance(run, Hole):
            assert not run.gone
            assert run.position > position
            found.holes.append((expected, run.first_sequence - 1))
            position, expected = run.position, run.first_sequence
            continue
        assert run.first_sequence == expected
        for header, _, data in decode(run.view):
            assert bytes(data) == payload(header.sequence)
            found.sequences.append(header.sequence)
        position, expected = position + len(run.view), run.next_sequence
    assert (position, expected) == (status.end_position, status.next_sequence)
    return found


def segments(directory: Path) -> list[Path]:
    """Segment files, oldest first."""
    return sorted(directory.glob("*.log"))


def last_written(directory: Path) -> Path:
    """The newest segment file with messages."""
    infos = verify_log(directory).segments
    return directory / next(s.file for s in reversed(infos) if s.messages)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty messages in three segments, not closed."""
    return make(tmp_path_factory.mktemp("killed") / "log", 40, closed=False)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty messages in three segments, closed."""
    return make(tmp_path_factory.mktemp("closed") / "log", 40, closed=True)


def copy_of(directory: Path, tmp_path: Path) -> Path:
    """A copy to hurt."""
    return Path(shutil.copytree(directory, tmp_path / "hurt"))


def test_a_torn_last_record_costs_only_itself(killed: Path, tmp_path: Path) -> None:
    """Cut the last message at each of its bytes: all before it stay, and appending goes on in its
    place."""
    name = last_written(killed).name
    data = (killed / name).read_bytes()
    info = next(s for s in verify_log(killed).segments if s.file == name)
    start = HEADER + list(decode(data[HEADER : info.end]).frame_offset)[-1]
    for size in range(start, info.end):
        directory = copy_of(killed, tmp_path)
        (directory / name).write_bytes(data[:size])

        with reopen(directory) as log:
            assert served(log) == Served(list(range(1, 40)), [])
            assert log.publisher_sequence(PUBLISHER) == 39
            append(log, 40)
            assert served(log) == Served(list(range(1, 41)), [])
        assert verify_log(directory).sound
        with reopen(directory) as log:
            assert log.report.cut_bytes == 0
            assert served(log) == Served(list(range(1, 41)), [])
        shutil.rmtree(directory)


def test_frames_without_a_record_never_were(killed: Path, tmp_path: Path) -> None:
    """A process killed between the copy and the record leaves frames that nobody was told of: they
    go."""
    directory = copy_of(killed, tmp_path)
    index = last_written(directory).with_suffix(".index")
    data = bytearray(index.read_bytes())
    used = max(i for i in range(0, len(data), RECORD) if any(data[i + 48 : i + 56]))
    data[used + 48 : used + 56] = bytes(8)
    index.write_bytes(data)

    with reopen(directory) as log:
        assert served(log) == Served(list(range(1, 40)), [])
        assert log.report.cut_bytes > 0
        assert log.publisher_sequence(PUBLISHER) == 39


@pytest.mark.parametrize("last", [True, False])
@settings(max_examples=effort(25, 60), deadline=None)
@given(data=st.data())
def test_bit_flips_cost_what_they_hit(
    data: st.DataObject, last: bool, tmp_path_factory: pytest.TempPathFactory, closed: Path
) -> None:
    """Flip bits anywhere in the frames of a closed log: what is not hit is served, the rest is
    reported."""
    directory = copy_of(closed, tmp_path_factory.mktemp("flip"))
    path = segments(directory)[-1 if last else 0]
    contents = bytearray(path.read_bytes())
    end = next(s.end for s in verify_log(directory).segments if s.file == path.name)
    index = decode(bytes(contents[HEADER:end]))
    starts = [HEADER + offset for offset in index.frame_offset]
    hits = data.draw(st.lists(st.integers(HEADER, len(contents) - 1), min_size=1, max_size=4))
    lost = set()
    for hit in set(hits):
        contents[hit] ^= data.draw(st.integers(1, 255))
        if hit < end:
            frame = max(i for i, start in enumerate(starts) if start <= hit)
            lost.add(index.sequence[frame])
    path.write_bytes(contents)

    for _ in range(2):
        with reopen(directory) as log:
            found = served(log)
            assert sorted(set(range(1, 41)) - set(found.sequences)) == sorted(lost)
            assert log.status().next_sequence == 41
            assert log.report.missing == len(lost)
            assert sum(b - a + 1 for a, b in found.holes) == len(lost)
    shutil.rmtree(directory.parent)


def test_damage_to_the_very_last_frame_of_a_closed_log_is_damage(
    closed: Path, tmp_path: Path
) -> None:
    """A clean close states where the log ends: its last message cannot vanish as a torn tail."""
    directory = copy_of(closed, tmp_path)
    path = segments(directory)[-1]
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")

    with reopen(directory) as log:
        assert served(log) == Served(list(range(1, 40)), [(40, 40)])
        append(log, 41)
        assert served(log) == Served([*range(1, 40), 41], [(40, 40)])


def killed_after(directory: Path, *, synced: int, count: int) -> tuple[Path, list[int]]:
    """Files that a ``kill -9`` leaves of messages 1..count in one segment, of which some are synced; and
    where each begins, with the end of the last.  Two syncs at least."""
    directory.mkdir()
    log = Log.open(directory, segment_bytes=65536, spares=0)
    for sequence in range(1, count + 1):
        append(log, sequence)
        if sequence in {1, synced}:
            log.sync()
    copy = Path(shutil.copytree(directory, directory.with_name("killed")))
    log.close()
    info = verify_log(copy).segments[-1]
    data = (copy / info.file).read_bytes()[HEADER : info.end]
    return copy, [HEADER + at for at in (*decode(data).frame_offset, len(data))]


def hurt(directory: Path, *offsets: int) -> None:
    """Change bytes of the only segment."""
    (path,) = segments(directory)
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_damage_to_the_last_synced_frame_is_damage(tmp_path: Path, count: int) -> None:
    """Wherever it changes after a ``kill -9``: it was on disk, so it is a gap, and its
    sequence is not used again."""
    killed, starts = killed_after(tmp_path / "log", synced=count, count=count)
    before = list(range(1, count))
    for offset in (*range(starts[-2], starts[-2] + 32, 4), starts[-1] - 1):
        directory = copy_of(killed, tmp_path)
        hurt(directory, offset)

        assert [(p.kind, p.missing) for p in verify_log(directory).problems] == [
            (ProblemKind.FRAMES, 1)
        ]
        with reopen(directory) as log:
            assert served(log) == Served(before, [(count, count)])
            assert (log.report.missing, log.report.cut_bytes) == (1, 0)
            append(log, count + 1)
        with reopen(directory) as log:
            assert served(log) == Served([*before, count + 1], [(count, count)])
        shutil.rmtree(directory)


def test_what_is_unsound_behind_the_synced_mark_is_a_torn_tail(tmp_path: Path) -> None:
    """Damage that begins before the mark ends at it; what nobody was promised is cut."""
    killed, starts = killed_after(tmp_path / "log", synced=3, count=5)
    for first, kept, holes in [(4, [1, 2, 3], []), (3, [1, 2], [(3, 3)]), (2, [1], [(2, 3)])]:
        directory = copy_of(killed, tmp_path)
        hurt(directory, *(start + 1 for start in starts[first - 1 : 5]))

        with reopen(directory) as log:
            assert served(log) == Served(kept, holes)
            assert log.status().next_sequence == 4
            assert log.report.cut_bytes > 0
        shutil.rmtree(directory)


def test_a_synced_mark_that_is_cut_short_leaves_the_one_before(tmp_path: Path) -> None:
    """Marks are written in turn: killed in the middle of one, the last but one still counts."""
    killed, starts = killed_after(tmp_path / "log", synced=3, count=3)
    data = segments(killed)[-1].read_bytes()
    marks = [data[at : at + 32] for at in (1024, 1056)]
    assert [int.from_bytes(mark[8:16], "little") for mark in marks] in ([2, 4], [4, 2])
    newer = 1024 if marks[0][8] == 4 else 1056
    (killed / "end").unlink()  # it would know the end as well
    hurt(killed, newer + 8, starts[0] + 1, starts[1] + 1, starts[2] + 1)

    assert (ProblemKind.HEADER, newer) in [(p.kind, p.offset) for p in verify_log(killed).problems]
    with reopen(killed) as log:
        assert served(log) == Served([], [(1, 1)])
        assert log.status().next_sequence == 2


def test_a_wrong_sequence_field_is_damage(closed: Path, tmp_path: Path) -> None:
    """The checksum leaves the sequence out; continuity does not."""
    directory = copy_of(closed, tmp_path)
    path = segments(directory)[0]
    data = bytearray(path.read_bytes())
    data[HEADER + 8] ^= 2
    path.write_bytes(data)

    with reopen(directory) as log:
        assert served(log) == Served(list(range(2, 41)), [(1, 1)])


def test_a_frame_inside_a_payload_is_not_taken_for_one(tmp_path: Path) -> None:
    """Damage in front of a payload that holds frames with plausible sequences does not bring these
    up."""
    inner = Encoder()
    for sequence in range(2, 5):
        inner.encode(b"not a message", topic="t.fake", sequence=sequence)
    with reopen(tmp_path) as log:
        outer = Encoder()
        outer.encode(bytes(inner.view), topic="t.abc")
        log.append(bytes(outer.view), 1)
        for sequence in range(2, 10):
            append(log, sequence)
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[HEADER + 24] ^= 0xFF  # the length: where the next frame begins must be searched for
    path.write_bytes(data)

    with reopen(tmp_path) as log:
        assert served(log) == Served(list(range(2, 10)), [(1, 1)])


@pytest.mark.parametrize("what", ["header", "index", "both"])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("kind", ["closed", "killed"])
def test_a_lost_header_or_index_costs_no_message(
    kind: str, which: int, what: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Header page zeroed, index deleted, or both: every message is still served, with its
    sequence."""
    directory = copy_of(request.getfixturevalue(kind), tmp_path)
    path = segments(directory)[which]
    if what != "index":
        data = path.read_bytes()
        path.write_bytes(bytes(HEADER) + data[HEADER:])
    if what != "header":
        path.with_suffix(".index").unlink()

    for _ in range(2):
        with reopen(directory) as log:
            assert served(log) == Served(list(range(1, 41)), [])
            assert log.locate(25).first_sequence == 25


def test_a_deleted_segment_is_a_reported_hole(closed: Path, tmp_path: Path) -> None:
    """The messages of a file that is gone are missing, exactly those."""
    directory = copy_of(closed, tmp_path)
    first, second, third = (int(p.stem) for p in segments(directory)[:3])
    segments(directory)[1].unlink()

    with reopen(directory) as log:
        expected = [*range(first, second), *range(third, 41)]
        assert served(log) == Served(expected, [(second, third - 1)])
        assert log.report.missing == third - second
        assert log.locate(second).first_sequence == third


def test_a_start_by_time_comes_before_damage_and_holes(closed: Path, tmp_path: Path) -> None:
    """Nobody knows when lost messages came: a start by the time of the first one behind them begins
    with them, and one by a later time does not."""
    directory = copy_of(closed, tmp_path)
    first, second, third = segments(directory)[:3]
    second.unlink()
    second.with_suffix(".index").unlink()
    lost, behind = int(second.stem), int(third.stem)
    data = bytearray(first.read_bytes())
    data[HEADER] ^= 0xFF
    first.write_bytes(data)

    with reopen(directory) as log:
        times = {n: 10**9 + n * 2_000_000 for n in (2, lost, behind, behind + 1)}
        found = {n: log.locate_time(time_ns).first_sequence for n, time_ns in times.items()}
        hole = log.read(log.locate_time(times[behind]).position, 2000)

    assert found == {2: 1, lost: lost, behind: lost, behind + 1: behind + 1}
    assert isinstance(hole, Hole)
    assert hole.first_sequence == behind


def test_a_deleted_first_segment_is_like_retention(closed: Path, tmp_path: Path) -> None:
    """Without its oldest file a log begins later."""
    directory = copy_of(closed, tmp_path)
    second = int(segments(directory)[1].stem)
    segments(directory)[0].unlink()

    with reopen(directory) as log:
        assert served(log) == Served(list(range(second, 41)), [])
        assert log.read(0, 100) == Hole(log.status().start_position, second, gone=True)


def test_a_segment_damaged_from_end_to_end_is_kept_as_evidence(
    closed: Path, tmp_path: Path
) -> None:
    """Nothing sound in a middle file: its messages are a hole, and the file stays for a program that can
    read more."""
    directory = copy_of(closed, tmp_path)
    path = segments(directory)[1]
    path.write_bytes(random.Random(1).randbytes(len(path.read_bytes())))
    first, third = int(path.stem), int(segments(directory)[2].stem)

    with reopen(directory) as log:
        assert served(log).holes == [(first, third - 1)]
    assert path.exists()


def test_leftovers_are_removed(closed: Path, tmp_path: Path) -> None:
    """Spare files and an index without its segment are litter; other names are nobody's
    business."""
    directory = copy_of(closed, tmp_path)
    for name in ("spare-7.log", "spare-7.index", f"{77:020}.index", "README"):
        (directory / name).write_bytes(b"x" * 100)

    with reopen(directory) as log:
        assert served(log).sequences == list(range(1, 41))
    names = {p.name for p in directory.iterdir()}
    assert "README" in names
    assert not names & {"spare-7.log", "spare-7.index", f"{77:020}.index"}


def test_a_foreign_file_by_a_segments_name_is_set_aside(closed: Path, tmp_path: Path) -> None:
    """A foreign file is neither served nor overwritten."""
    directory = copy_of(closed, tmp_path)
    (directory / f"{41:020}.log").write_bytes(b"somebody's novel" * 1000)

    with reopen(directory) as log:
        append(log, 41)
        assert served(log).sequences == list(range(1, 42))
    assert (directory / f"{41:020}.log.unsound").read_bytes() == b"somebody's novel" * 1000


def test_a_recycled_file_under_its_old_name_is_not_a_segment(closed: Path, tmp_path: Path) -> None:
    """A header that names another segment means the rename was lost: the file never held this
    range."""
    directory = copy_of(closed, tmp_path)
    shutil.copy(segments(directory)[0], directory / f"{41:020}.log")

    with reopen(directory) as log:
        assert served(log).sequences == list(range(1, 41))
        append(log, 41)
        assert served(log).sequences == list(range(1, 42))


def test_numbering_and_publishers_survive_an_empty_log(tmp_path: Path) -> None:
    """When retention has taken everything, sequences go on and no publisher is forgotten."""
    options = {"segment_bytes": SEGMENT_BYTES, "retention_ns": 10**9, "spares": 0}
    with Log.open(tmp_path, **options) as log:
        for sequence in range(1, 41):
            append(log, sequence)
        log.trim(10**12)
        log.trim(10**13)
        assert log.status().first_sequence == log.status().next_sequence == 41
    for _ in range(2):
        with Log.open(tmp_path, **options) as log:
            status = log.status()
            assert status.first_sequence == status.next_sequence == 41
            assert status.start_position == status.end_position > 0
            assert log.publisher_sequence(PUBLISHER) == 40


def test_stale_frames_of_a_recycled_segment_never_come_back(tmp_path: Path) -> None:
    """A killed log whose segments had earlier lives serves what was appended, and nothing else."""
    options = {
        "segment_bytes": SEGMENT_BYTES,
        "retention_bytes": 3 * SEGMENT_BYTES,
        "spares": 2,
    }
    directory = tmp_path / "log"
    directory.mkdir()
    with Log.open(directory, **options) as log:
        for sequence in range(1, 400):
            append(log, sequence)
            if sequence % 37:
                continue
            copy = Path(shutil.copytree(directory, tmp_path / f"killed-{sequence}"))
            with Log.open(copy, **options) as again:
                status = log.status()
                assert served(again).sequences == list(range(status.first_sequence, sequence + 1))
                assert again.report.damaged_ranges == 0
        assert log.status().recycled > 0


def test_thousands_of_segments_open(tmp_path: Path) -> None:
    """More segments than a process may have open files are no trouble, nor are their reads."""
    count = 1500
    encoder = Encoder()
    encoder.encode(bytes(4000), topic="t")
    frame = bytes(encoder.view)
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES, spares=0) as log:
        for _ in range(count):
            log.append(frame, 1)
        assert log.status().segments == count
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES, spares=0) as log:
        assert log.report.segments == count
        place = log.locate(count // 2)
        assert place.first_sequence == count // 2
        run = log.read(place.position, 10_000)
        assert isinstance(run, Run)
        assert decode(run.view).sequence[0] == count // 2


def test_segment_sizes_may_change_between_lives(tmp_path: Path) -> None:
    """Segments of the old size are served beside those of the new."""
    sizes = [8192, 65536, 12288, 8192]
    for life, size in enumerate(sizes):
        with Log.open(tmp_path, segment_bytes=size, spares=1) as log:
            for sequence in range(life * 50 + 1, life * 50 + 51):
                append(log, sequence)

    with reopen(tmp_path) as log:
        assert served(log) == Served(list(range(1, 201)), [])
        assert log.publisher_sequence(PUBLISHER) == 200


def test_the_duplicate_filter_survives_trim_and_reopen(tmp_path: Path) -> None:
    """Publishers whose messages are long gone are still known, in the order of their last word."""
    options = {
        "segment_bytes": SEGMENT_BYTES,
        "retention_bytes": 2 * SEGMENT_BYTES,
        "spares": 0,
    }
    publishers = [number.to_bytes(16, "big") for number in range(1, 40)]
    with Log.open(tmp_path, **options) as log:
        for number, publisher in enumerate(publishers, 1):
            append(log, number, publisher)
        for sequence in range(1, 300):
            append(log, sequence)
        assert log.status().first_sequence > 100
    for _ in range(2):
        with Log.open(tmp_path, **options) as log:
            known = [log.publisher_sequence(publisher) for publisher in publishers]
            assert known == list(range(1, 40))
            assert log.publisher_sequence(PUBLISHER) == 299


def test_opening_is_repeatable(closed: Path, tmp_path: Path) -> None:
    """Opening and closing over and over neither grows the directory nor changes what is served."""
    directory = copy_of(closed, tmp_path)
    counts = []
    for _ in range(5):
        with reopen(directory) as log:
            assert served(log).sequences == list(range(1, 41))
        counts.append(len(list(directory.iterdir())))
    assert all(a == b for a, b in itertools.pairwise(counts))
