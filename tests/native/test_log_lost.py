"""Messages that a log has lost: their publishers can send them again, and nothing is in the log twice.

A power loss keeps any pages of what was not synced; a disk may change what was.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hermes.native import Encoder, Hole, Log, decode, encode_batch
from hermes.native.stream import Ingest, Router, Stream
from hermes.native.verify import ProblemKind, verify_log

HEADER = 4096
PAGE = 4096
RECORD = 64
SIZE = 1500
ALICE, BOB = b"alice's 16 bytes", b"bob's 16 bytes, "
OPTIONS: dict[str, Any] = {"segment_bytes": 65536, "spares": 0}
FILLED: dict[str, Any] = {"segment_bytes": 16384, "spares": 0}
"""Ten messages fill a segment."""


def frame(number: int, sequence: int = 0) -> bytes:
    """One message that says its number."""
    encoder = Encoder()
    encoder.encode((b"%d " % number).ljust(SIZE, b"."), topic="t.abc", sequence=sequence)
    return bytes(encoder.view)


def append(log: Log, numbers: range, publisher: bytes = ALICE) -> None:
    """Each number is its publisher's sequence, and has a record of its own."""
    for number in numbers:
        now_ns = log.status().next_sequence * 2_000_000
        log.append(frame(number), 1, publisher=publisher, first_sequence=number, now_ns=now_ns)


def numbers(log: Log) -> list[int | None]:
    """Numbers that the log gives to a reader; None: a gap."""
    position, found = log.status().start_position, list[int | None]()
    while (run := log.read(position, 2000)) is not None:
        if isinstance(run, Hole):
            found.append(None)
            position = run.position
            continue
        found += [int(bytes(data).split()[0]) for data in decode(run.view).payloads()]
        position += len(run.view)
    return found


def missed(log: Log, publisher: bytes = ALICE) -> list[int]:
    """Sequences of the publisher that the log would take again."""
    last = log.publisher_sequence(publisher)
    return [n for n in range(1, last + 1) if log.misses(publisher, n)]


def killed(log: Log, tmp_path: Path, name: str = "image") -> Path:
    """The files as they are now."""
    return Path(shutil.copytree(tmp_path / "log", tmp_path / name))


def starts(directory: Path, which: int = 0) -> list[int]:
    """Offsets of the frames of a segment."""
    info = verify_log(directory).segments[which]
    data = (directory / info.file).read_bytes()[HEADER : info.end]
    return [HEADER + at for at in decode(data).frame_offset]


def equal_starts(number: int) -> int:
    """Offset of the ``number``-th frame of a segment: all have one size."""
    return HEADER + (number - 1) * len(frame(1))


def change(path: Path, offset: int, data: bytes) -> None:
    """Overwrite a part of a file."""
    contents = bytearray(path.read_bytes())
    contents[offset : offset + len(data)] = data
    path.write_bytes(contents)


def segment(directory: Path, which: int = 0) -> Path:
    """A segment file, oldest first."""
    return sorted(directory.glob("0*.log"))[which]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log in ``tmp_path / "log"``."""
    (tmp_path / "log").mkdir()
    return Log.open(tmp_path / "log", **OPTIONS)


def test_behind_the_synced_mark_the_log_ends_at_the_first_missing_page(
    log: Log, tmp_path: Path
) -> None:
    """Sound frames behind it were promised to nobody: they go, so that the publisher can send all
    of them again, in order and once."""
    append(log, range(1, 4))
    log.sync()
    append(log, range(4, 21))
    image = killed(log, tmp_path)
    log.close()
    offset = starts(image)[9] // PAGE * PAGE  # of message 10, and the end of one before it
    change(segment(image), offset, bytes(PAGE))
    kept = sum(start + len(frame(1)) <= offset for start in starts_before(offset, tmp_path))

    with Log.open(image, **OPTIONS) as again:
        assert numbers(again) == list(range(1, kept + 1))
        assert 3 <= kept < 10
        assert again.publisher_sequence(ALICE) == kept
        assert missed(again) == []
        append(again, range(kept + 1, 21))
    with Log.open(image, **OPTIONS) as again:
        assert numbers(again) == list(range(1, 21))
        assert again.report.missing == 0


def starts_before(offset: int, tmp_path: Path) -> list[int]:
    """Frames of the whole log that begin before ``offset``."""
    return [start for start in starts(tmp_path / "log") if start < offset]


def test_what_a_disk_has_lost_of_synced_messages_can_be_sent_again(
    log: Log, tmp_path: Path
) -> None:
    """Damage before the synced mark is a gap and what stands behind it stays: only what is lost is
    no repetition, until it has been taken again."""
    append(log, range(1, 11))
    log.sync()
    image = killed(log, tmp_path)
    log.close()
    for number in (4, 5):
        change(segment(image), equal_starts(number), b"damaged!")

    with Log.open(image, **OPTIONS) as again:
        assert numbers(again) == [1, 2, 3, None, *range(6, 11)]
        assert again.publisher_sequence(ALICE) == 10
        assert missed(again) == [4, 5]
        assert not again.misses(BOB, 4)
        append(again, range(4, 5))
        assert missed(again) == [5]
        assert again.publisher_sequence(ALICE) == 10
    with Log.open(image, **OPTIONS) as again:
        assert missed(again) == [5]
        append(again, range(5, 6))
        append(again, range(11, 13))
    with Log.open(image, **OPTIONS) as again:
        assert numbers(again) == [1, 2, 3, None, *range(6, 11), 4, 5, 11, 12]
        assert missed(again) == []
        assert again.publisher_sequence(ALICE) == 12


def test_what_is_lost_is_remembered_when_its_segment_is_gone(tmp_path: Path) -> None:
    """The checkpoint of a new segment carries it over a trim, for each publisher."""
    directory = tmp_path / "log"
    directory.mkdir()
    with Log.open(directory, **FILLED) as log:
        for number in range(1, 5):
            append(log, range(number, number + 1))
            append(log, range(number, number + 1), BOB)
        for name in range(3):
            log.append(frame(0), 1, publisher=bytes([name + 1]) * 16, first_sequence=7)
    for number in (3, 4, 7):  # alice's 2, bob's 2, alice's 4
        change(segment(directory), equal_starts(number), b"damaged!")
    with Log.open(directory, **FILLED) as log:
        assert (missed(log), missed(log, BOB)) == ([2, 4], [2])
    keep: dict[str, Any] = {**FILLED, "retention_bytes": 2 * 16384}
    with Log.open(directory, **keep) as log:
        append(log, range(1, 61), b"somebody else's ")
        assert log.status().first_sequence > 11
        append(log, range(4, 5))

    for _ in range(2):
        with Log.open(directory, **keep) as log:
            assert log.publisher_sequence(ALICE) == log.publisher_sequence(BOB) == 4
            assert (missed(log), missed(log, BOB)) == ([2], [2])


def test_what_stood_in_a_segment_that_is_gone_can_be_sent_again(tmp_path: Path) -> None:
    """No record says who sent what was in it: what a publisher had behind it and not before it."""
    directory = tmp_path / "log"
    directory.mkdir()
    with Log.open(directory, **FILLED) as log:
        append(log, range(1, 31))
    first, gone, behind = (int(segment(directory, which).stem) for which in range(3))
    segment(directory, 1).unlink()

    with Log.open(directory, **FILLED) as log:
        assert numbers(log) == [*range(first, gone), None, *range(behind, 31)]
        assert missed(log) == list(range(gone, behind))
        append(log, range(gone, behind))
        assert missed(log) == []


@pytest.mark.parametrize("synced", [3, 0])
def test_frames_without_a_record_never_were_behind_a_roll_as_well(
    tmp_path: Path, synced: int
) -> None:
    """The seal says how many records there were: where they are not on disk, the frames are nobody's
    and are taken again."""
    (tmp_path / "log").mkdir()
    log = Log.open(tmp_path / "log", **FILLED)
    append(log, range(1, 4))
    if synced:
        log.sync()
    append(log, range(4, 12))
    image = killed(log, tmp_path)
    log.close()
    last = segment(image, 1)
    rolled = int(last.stem)
    last.unlink()
    last.with_suffix(".index").unlink()
    index = segment(image).with_suffix(".index")
    change(index, 3 * RECORD, bytes(index.stat().st_size - 3 * RECORD))

    assert [p.kind for p in verify_log(image).problems] == [ProblemKind.TORN, ProblemKind.INDEX]
    with Log.open(image, **FILLED) as again:
        assert numbers(again) == [1, 2, 3]
        assert again.publisher_sequence(ALICE) == 3
        assert again.report.cut_bytes > 0
        append(again, range(4, 12))
    with Log.open(image, **FILLED) as again:
        assert numbers(again) == list(range(1, 12))
        assert again.publisher_sequence(ALICE) == 11
    assert 4 < rolled < 12


def test_frames_without_a_record_before_other_segments_are_a_gap(tmp_path: Path) -> None:
    """Messages that nobody is known to have sent may be sent again; messages behind it stay."""
    (tmp_path / "log").mkdir()
    log = Log.open(tmp_path / "log", **FILLED)
    append(log, range(1, 16))
    image = killed(log, tmp_path)
    log.close()
    behind = int(segment(image, 1).stem)
    index = segment(image).with_suffix(".index")
    change(index, 3 * RECORD, bytes(RECORD))

    with Log.open(image, **FILLED) as again:
        assert numbers(again) == [1, 2, 3, None, *range(behind, 16)]
        assert missed(again) == list(range(4, behind))
        append(again, range(4, behind))
        assert missed(again) == []
        assert sorted(filter(None, numbers(again))) == list(range(1, 16))


def test_an_extended_record_of_which_the_disk_has_the_shorter_state(tmp_path: Path) -> None:
    """Records behind it are newer: the messages in between are nobody's."""
    (tmp_path / "log").mkdir()
    log = Log.open(tmp_path / "log", **OPTIONS)
    log.append(frame(1) + frame(2), 2, publisher=ALICE, first_sequence=1, now_ns=1)
    before = segment(tmp_path / "log").with_suffix(".index").read_bytes()[:RECORD]
    log.append(frame(3), 1, publisher=ALICE, first_sequence=3, now_ns=1)
    log.append(frame(1), 1, publisher=BOB, first_sequence=1, now_ns=1)
    image = killed(log, tmp_path)
    log.close()
    change(segment(image).with_suffix(".index"), 0, before)

    with Log.open(image, **OPTIONS) as again:
        assert numbers(again) == [1, 2]
        assert again.publisher_sequence(ALICE) == 2
        assert again.publisher_sequence(BOB) == 0


def batch(first: int, count: int) -> bytes:
    """A batch of the publisher with id 1."""
    frames = b"".join(frame(first + i, first + i) for i in range(count))
    head = encode_batch(id=1, after=first - 1, through=first + count - 1, frames_size=len(frames))
    return head + frames


def test_ingest_takes_again_what_is_lost_and_skips_the_rest(log: Log, tmp_path: Path) -> None:
    """One batch holds both: lost messages are appended once, the others are repetitions."""
    append(log, range(1, 11))
    log.sync()
    image = killed(log, tmp_path)
    log.close()
    for number in (3, 6, 7):
        change(segment(image), equal_starts(number), b"damaged!")

    with Log.open(image, **OPTIONS) as again:
        stream, router = Stream(again, index=0), Router()
        router.add(stream)
        ingest = Ingest(router, 4096)
        last = ingest.open(1, ALICE)
        sent = batch(2, 11)
        done = []
        for _ in range(2):
            feed = ingest.feed(sent, len(sent), 1)
            done.append((feed.messages, feed.duplicates))
        found = numbers(again)
        ingest.close()
        router.close()
        stream.close()

    assert last == 10
    assert done == [(5, 6), (0, 11)]
    assert found == [1, 2, None, 4, 5, None, 8, 9, 10, 3, 6, 7, 11, 12]
