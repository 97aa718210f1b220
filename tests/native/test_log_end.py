"""The end of a log: what opening and verifying make of newest segments that are gone or cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.native import Log
from hermes.native.verify import END_FILE, ProblemKind, dump_log, verify_log
from tests.effort import effort
from tests.native.test_log_recovery import append, make, reopen, served

pytestmark = pytest.mark.slow

COUNT = 60


def logs(directory: Path) -> list[Path]:
    """The segment files, oldest first."""
    return sorted(directory.glob("*.log"))


def emptied(directory: Path) -> None:
    """The newest segment file has no bytes."""
    logs(directory)[-1].write_bytes(b"")


def removed(directory: Path) -> None:
    """The newest segment file is gone, its index is there."""
    logs(directory)[-1].unlink()


def both_removed(directory: Path) -> None:
    """The newest segment is gone, with its index."""
    newest = logs(directory)[-1]
    newest.with_suffix(".index").unlink()
    newest.unlink()


def both_emptied(directory: Path) -> None:
    """The newest segment and its index have no bytes."""
    newest = logs(directory)[-1]
    newest.with_suffix(".index").write_bytes(b"")
    newest.write_bytes(b"")


def cut_to_header(directory: Path) -> None:
    """Only the header page of the newest segment is left."""
    with logs(directory)[-1].open("r+b") as file:
        file.truncate(4096)


def cut_in_the_midst(directory: Path) -> None:
    """Half of the newest segment is left."""
    newest = logs(directory)[-1]
    with newest.open("r+b") as file:
        file.truncate((4096 + newest.stat().st_size) // 2)


def zeroed(directory: Path) -> None:
    """The newest segment has its size and only zeros."""
    newest = logs(directory)[-1]
    newest.write_bytes(bytes(newest.stat().st_size))


def several_removed(directory: Path) -> None:
    """The three newest segments are gone, with their indexes."""
    for newest in logs(directory)[-3:]:
        newest.with_suffix(".index").unlink()
        newest.unlink()


def all_removed(directory: Path) -> None:
    """No segment is left."""
    for segment in logs(directory):
        segment.with_suffix(".index").unlink()
        segment.unlink()


def only_one_emptied(directory: Path) -> None:
    """Every segment file has no bytes."""
    for segment in logs(directory):
        segment.write_bytes(b"")


LOSSES = [
    emptied,
    removed,
    both_removed,
    both_emptied,
    cut_to_header,
    cut_in_the_midst,
    zeroed,
    several_removed,
    all_removed,
    only_one_emptied,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_end_is_named_and_its_sequences_are_not_used_again(
    lose: Callable[[Path], None], tmp_path: Path
) -> None:
    """A part that was closed in order and is gone is counted by verify, told by opening, and a hole."""
    directory = make(tmp_path / "log", COUNT, closed=True)
    lose(directory)

    found = verify_log(directory)
    dumped = [item for item in dump_log(directory) if isinstance(item, tuple)]

    assert found.missing == COUNT - len(dumped) > 0
    assert not found.torn
    for _ in range(2):  # the second time there is a segment behind the hole
        with reopen(directory) as log:
            got = served(log)
            assert log.report.missing == found.missing
            assert got.holes == [(len(dumped) + 1, COUNT)]
            append(log, log.status().next_sequence)
    assert got.sequences == [*range(1, len(dumped) + 1), COUNT + 1]
    assert verify_log(directory).missing == found.missing


@pytest.mark.parametrize("left", range(6))
def test_a_segment_cut_anywhere_is_one_hole(left: int, tmp_path: Path) -> None:
    """Wherever the newest file was cut, also where no frame can end, the loss is one hole, and the
    positions behind it are the same at each opening."""
    directory = make(tmp_path / "log", COUNT, closed=True)
    newest = logs(directory)[-1]
    with newest.open("r+b") as file:
        file.truncate(newest.stat().st_size - 200 - left)

    ends = list[int]()
    for more in range(3):
        with reopen(directory) as log:
            got = served(log)
            assert [hole[1] for hole in got.holes] == [COUNT]
            assert got.sequences[-1] == COUNT + more or more == 0
            assert log.report.missing == got.holes[0][1] - got.holes[0][0] + 1
            status = log.status()
            ends.append(log.locate(COUNT + 1).position)
            append(log, status.next_sequence)

    assert len(set(ends)) == 1
    assert ends[0] % 8 == 0


def test_what_a_sync_covered_counts_after_a_kill(tmp_path: Path) -> None:
    """A process that was killed after a sync: its newest segment is missed as well."""
    directory = tmp_path / "log"
    directory.mkdir()
    log = reopen(directory)
    for sequence in range(1, COUNT + 1):
        append(log, sequence)
    log.sync()
    killed = tmp_path / "killed"
    shutil.copytree(directory, killed)
    log.close()
    both_removed(killed)

    with reopen(killed) as again:
        status = again.status()

    assert status.next_sequence == COUNT + 1
    assert again.report.end_missing > 0


def test_what_was_delivered_is_not_given_to_other_messages(tmp_path: Path) -> None:
    """The owner knows of sequences beyond the end: they are a hole, and the log goes on behind."""
    directory = make(tmp_path / "log", 20, closed=True)

    with Log.open(directory, segment_bytes=8192, spares=0, given_out=25) as log:
        append(log, 26)
        got = served(log)

    assert got.sequences == [*range(1, 21), 26]
    assert got.holes == [(21, 25)]
    assert log.report.end_missing == 5


def test_an_old_directory_has_no_mark(tmp_path: Path) -> None:
    """A log without the mark opens without complaint, and has one from then on."""
    directory = make(tmp_path / "log", COUNT, closed=True)
    (directory / END_FILE).unlink()

    assert verify_log(directory).sound
    with reopen(directory) as log:
        assert log.report.missing == log.report.end_damaged == 0
    assert (directory / END_FILE).stat().st_size == 576


def test_each_bit_of_the_mark_is_checked(tmp_path: Path) -> None:
    """Any flipped bit is noticed, and the other copy still says where the log ended."""
    directory = make(tmp_path / "log", 12, closed=True)
    mark = directory / END_FILE
    sound = mark.read_bytes()

    for byte in (*range(64), *range(512, 576)):
        for bit in range(8):
            data = bytearray(sound)
            data[byte] ^= 1 << bit
            mark.write_bytes(data)
            problems = verify_log(directory).problems
            assert [problem.kind for problem in problems] == [ProblemKind.MARK], (byte, bit)


def test_a_damaged_mark_still_guards_the_end(tmp_path: Path) -> None:
    """One copy is enough."""
    for number, at in enumerate((8, 520)):
        directory = make(tmp_path / str(number), COUNT, closed=True)
        both_removed(directory)
        data = bytearray((directory / END_FILE).read_bytes())
        data[at] ^= 1
        (directory / END_FILE).write_bytes(data)

        with reopen(directory) as log:
            assert log.status().next_sequence == COUNT + 1
            assert log.report.end_damaged == 1


@pytest.fixture(scope="module")
def closed_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten messages, closed in order."""
    return make(tmp_path_factory.mktemp("end") / "log", 10, closed=True)


@settings(max_examples=effort(25, 60), deadline=None)
@given(data=st.binary(max_size=700))
def test_whatever_stands_in_the_mark_no_message_is_lost(
    closed_log: Path, tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """Foreign bytes in the mark change nothing but that they are reported."""
    directory = tmp_path_factory.mktemp("foreign") / "log"
    shutil.copytree(closed_log, directory)
    (directory / END_FILE).write_bytes(data)

    with reopen(directory) as log:
        assert served(log).sequences == list(range(1, 11))
        assert log.report.end_damaged == any(data)
