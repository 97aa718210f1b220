"""Files of an open log that somebody cuts short: a gap in that log, and nothing worse."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from hermes.errors import StorageFailed
from hermes.native import Encoder, Hole, Log, decode

SEGMENT_BYTES = 65536
OPTIONS: dict[str, Any] = {"segment_bytes": SEGMENT_BYTES, "spares": 0}
PUBLISHER = b"p" * 16


def frame(number: int) -> bytes:
    """A message that says its number."""
    encoder = Encoder()
    encoder.encode((b"%d " % number).ljust(2000, b"."), topic="t")
    return bytes(encoder.view)


def append(log: Log, numbers: range) -> None:
    """Each has a record of its own."""
    for number in numbers:
        log.append(
            frame(number),
            1,
            publisher=PUBLISHER,
            first_sequence=number,
            now_ns=number * 2_000_000,
        )


def served(log: Log) -> tuple[list[int], list[tuple[int, int]]]:
    """Sequences that a reader gets, and the first and last missing sequence of each gap."""
    status = log.status()
    position, expected = status.start_position, status.first_sequence
    found, gaps = list[int](), list[tuple[int, int]]()
    while (run := log.read(position, 10_000)) is not None:
        if isinstance(run, Hole):
            gaps.append((expected, run.first_sequence - 1))
            position, expected = run.position, run.first_sequence
            continue
        found += [int(bytes(data).split()[0]) for data in decode(run.view).payloads()]
        position, expected = position + len(run.view), run.next_sequence
    assert (position, expected) == (status.end_position, status.next_sequence)
    return found, gaps


def cut(path: Path, size: int) -> None:
    """Cut a file that others have mapped, as ``truncate`` does."""
    with path.open("r+b") as file:
        file.truncate(size)


def segment(directory: Path, which: int) -> Path:
    """A segment file, oldest first."""
    return sorted(directory.glob("0*.log"))[which]


@pytest.mark.parametrize("size", [0, 4096, 5000, 40960])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_sealed_segment_that_is_cut_is_a_gap(tmp_path: Path, size: int, reopened: bool) -> None:
    """A part that is gone is reported, exactly; the rest is served, appends and syncs
    go on."""
    log = Log.open(tmp_path, **OPTIONS)
    append(log, range(1, 101))
    log.sync()
    if reopened:
        log.close()
        log = Log.open(tmp_path, **OPTIONS)
    first, behind = int(segment(tmp_path, 1).stem), int(segment(tmp_path, 2).stem)
    with log:
        whole = served(log)
        cut(segment(tmp_path, 1), size)

        found, gaps = served(log)

        assert whole == (list(range(1, 101)), [])
        ((lost, last),) = gaps
        assert last == behind - 1
        assert lost == first + max(0, size - 4096) // len(frame(1))
        assert found == [*range(1, lost), *range(behind, 101)]
        assert log.locate(lost).first_sequence in (lost, behind)
        assert log.locate_time(behind * 2_000_000).first_sequence in (lost, behind)
        assert [n for n in range(1, 101) if log.misses(PUBLISHER, n)] == list(range(lost, behind))
        assert log.publisher_sequence(PUBLISHER) == 100
        append(log, range(101, 104))
        log.sync()
        assert served(log) == ([*range(1, lost), *range(behind, 104)], gaps)


def test_an_index_that_is_cut_costs_no_message(tmp_path: Path) -> None:
    """A message is found without it."""
    with Log.open(tmp_path, **OPTIONS) as log:
        append(log, range(1, 101))
        log.sync()
        cut(segment(tmp_path, 1).with_suffix(".index"), 0)

        middle = int(segment(tmp_path, 1).stem) + 3
        assert log.locate(middle).first_sequence == middle
        log.locate_time(middle * 2_000_000)
        assert served(log) == (list(range(1, 101)), [])
        append(log, range(101, 103))


@pytest.mark.parametrize("suffix", [".log", ".index"])
def test_a_log_whose_newest_files_are_cut_refuses_appends(tmp_path: Path, suffix: str) -> None:
    """Messages written there would be in no file: nothing is acknowledged, as durable least of all;
    what stands elsewhere is read on, and another log of the process does not notice."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    log, other = Log.open(tmp_path / "a", **OPTIONS), Log.open(tmp_path / "b", **OPTIONS)
    append(log, range(1, 101))
    append(other, range(1, 11))
    newest = segment(tmp_path / "a", -1)
    cut(newest.with_suffix(suffix), 0)

    with pytest.raises(StorageFailed):
        append(log, range(101, 102))

    status = log.status()
    assert status.next_sequence == 101
    assert status.failed
    assert log.publisher_sequence(PUBLISHER) == 100
    found, gaps = served(log)
    kept = int(newest.stem) - 1 if suffix == ".log" else 100
    assert found == list(range(1, kept + 1))
    assert gaps == ([(kept + 1, 100)] if kept < 100 else [])
    with pytest.raises(StorageFailed):
        log.sync()
    append(other, range(11, 21))
    other.sync()
    assert served(other) == (list(range(1, 21)), [])
    other.close()
    with pytest.raises(StorageFailed):
        log.close()


@pytest.mark.parametrize("which", [0, -1])
def test_a_sync_does_not_promise_what_is_in_no_file(tmp_path: Path, which: int) -> None:
    """A file that is cut behind the append, and before the sync that was asked for."""
    log = Log.open(tmp_path, **OPTIONS)
    append(log, range(1, 46))
    cut(segment(tmp_path, which), 4096)

    with pytest.raises(StorageFailed):
        log.sync()

    assert log.status().synced_sequence == 0
    with pytest.raises(StorageFailed):
        log.close()


FOREIGN = """
    import mmap, os, sys
    from hermes.native import Log
    {before}
    log = Log.open(sys.argv[1], segment_bytes=65536)
    path = sys.argv[1] + "/foreign"
    with open(path, "w+b") as file:
        file.truncate(8192)
        memory = mmap.mmap(file.fileno(), 8192)
        file.truncate(0)
        print("ready", flush=True)
        {then}
"""


@pytest.mark.parametrize("before", ["", "import faulthandler; faulthandler.enable()"])
@pytest.mark.parametrize("then", ["memory[0]", "os.kill(os.getpid(), 7)"])
def test_a_fault_elsewhere_ends_the_process_as_before(
    tmp_path: Path, before: str, then: str
) -> None:
    """Only mappings of logs are looked after: a handler that was there is called, else the process
    dies of the signal."""
    program = textwrap.dedent(FOREIGN).format(before=before, then=then)

    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("ready\n", -signal.SIGBUS), done.stderr
    assert ("Fatal Python error: Bus error" in done.stderr) == bool(before)
