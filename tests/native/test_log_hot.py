"""Hot segments: written in slots of one file, carried to their own, and found again after any end."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hermes.errors import StorageFailed
from hermes.native import Encoder, Log, Run, decode
from hermes.native.verify import verify_log
from tests.native.test_log_power import RENAMED

if TYPE_CHECKING:
    from tests.native.conftest import RunC

pytestmark = pytest.mark.slow

SEGMENT_BYTES = 65536
LARGE = 16 << 20
SLOTS_MAX = 8
OPTIONS: dict[str, Any] = {"segment_bytes": SEGMENT_BYTES, "spares": 2, "hot_bytes": 1 << 30}
PUBLISHER = b"p" * 16
WAIT_S = 60.0
PAGE = 4096


@pytest.fixture(autouse=True)
def _place(tmp_path: Path) -> None:
    """Skip where files are in memory anyway, and cannot be written around it."""
    with Log.open(_made(tmp_path / "probe"), **OPTIONS) as log:
        deadline = time.monotonic() + 2
        fill(log, 1)
        while log.status().hot_bytes == 0:
            if time.monotonic() > deadline and not (tmp_path / "probe" / "hot").exists():
                pytest.skip("this file system has no hot segments")
            time.sleep(0.001)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def frames(first: int, count: int, size: int = 1000) -> bytes:
    """Frames of the messages from ``first`` on; each payload says its number."""
    encoder = Encoder()
    for number in range(first, first + count):
        encoder.encode(number.to_bytes(8, "little") * (size // 8), topic="t.a")
    return bytes(encoder.view)


def fill(log: Log, count: int) -> int:
    """Append ``count`` messages more; returns the number of the last."""
    first = log.status().next_sequence
    for number in range(first, first + count):
        log.append(frames(number, 1), 1, publisher=PUBLISHER, first_sequence=number)
    return first + count - 1


def numbers(log: Log) -> list[int]:
    """Numbers that the payloads say, oldest first; every byte is checked."""
    found: list[int] = []
    position = log.status().start_position
    while run := log.read(position, 20_000):
        assert isinstance(run, Run), run
        for payload in decode(run.view).payloads():
            assert bytes(payload) == bytes(payload[:8]) * (len(payload) // 8)
            found.append(int.from_bytes(payload[:8], "little"))
        position += len(run.view)
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the helper does beside us; nothing tells when it has."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.001)


def heat(log: Log) -> int:
    """Append until the segment that is written is hot; returns the number of the last message."""
    last = fill(log, 1)
    until(lambda: log.status().hot > 0)
    segments = log.status().segments
    while log.status().segments < segments + 3:  # those that were ready are used up
        last = fill(log, 5)
        until(lambda: log.status().hot > 0)
    return last


@contextlib.contextmanager
def large_log(directory: Path) -> Iterator[Log]:
    """A log with segments of 16 MiB, the active one hot, that is carried in pieces of 4 MiB."""
    with Log.open(_made(directory), **{**OPTIONS, "segment_bytes": LARGE}) as log:
        while log.status().segments < 5 or log.status().hot < 2:
            fill(log, 500)
            until(lambda: log.status().hot > 0 or log.status().segments < 2)
        yield log


@contextlib.contextmanager
def hot_log(directory: Path, **options: Any) -> Iterator[Log]:
    """A log whose active segment is hot."""
    with Log.open(_made(directory), **{**OPTIONS, **options}) as log:
        heat(log)
        yield log


def killed(directory: Path, image: Path) -> Path:
    """The directory as a process that is killed now leaves it."""
    return Path(shutil.copytree(directory, image))


def reopened(directory: Path) -> list[int]:
    """Messages that the log has when it is opened, by number; none may count as damaged."""
    with Log.open(directory, **OPTIONS) as log:
        found = numbers(log)
        assert log.report.damaged_ranges == 0
        assert log.publisher_sequence(PUBLISHER) == (found[-1] if found else 0)
        assert not (directory / "hot").exists()
        return found


# a life -------------------------------------------------------------------------------------------


def test_everything_is_read_while_it_is_hot_and_when_it_has_cooled(tmp_path: Path) -> None:
    """Messages are the same in their slots, in the files that they were carried to, and after a close."""
    directory = tmp_path / "log"
    with hot_log(directory) as log:
        last = fill(log, 2000)
        assert log.status().segments > 2 * SLOTS_MAX

        assert numbers(log) == list(range(1, last + 1))
        log.sync()
        assert log.status().synced_sequence == last
        assert numbers(log) == list(range(1, last + 1))
    assert reopened(directory) == list(range(1, last + 1))
    assert verify_log(directory).sound


def test_a_close_leaves_no_slots(tmp_path: Path) -> None:
    """A log that was closed needs nothing but its segments, not even on another machine."""
    directory = tmp_path / "log"
    with hot_log(directory) as log:
        last = fill(log, 100)
        assert (directory / "hot").exists()

    assert not (directory / "hot").exists()
    assert reopened(killed(directory, tmp_path / "copy")) == list(range(1, last + 1))


def test_slots_are_used_again_and_never_too_many(tmp_path: Path) -> None:
    """However much is appended, the file of slots stays as large as eight segments."""
    with hot_log(tmp_path / "log", retention_bytes=40 * SEGMENT_BYTES) as log:
        fill(log, 5000)

        assert log.status().hot_bytes <= SLOTS_MAX * SEGMENT_BYTES
        size = (tmp_path / "log" / "hot").stat().st_size
        assert size <= PAGE + SLOTS_MAX * SEGMENT_BYTES


def test_all_logs_share_what_there_is(tmp_path: Path) -> None:
    """A log whose neighbour has all slots is written in mapped files, and gets slots when it may."""
    options = {"hot_bytes": 3 * SEGMENT_BYTES}
    with hot_log(tmp_path / "first", **options) as first:
        until(lambda: fill(first, 20) > 0 and first.status().hot_bytes == 3 * SEGMENT_BYTES)
        with Log.open(_made(tmp_path / "second"), **{**OPTIONS, **options}) as second:
            last = fill(second, 500)

            assert second.status().hot_bytes == 0
            assert numbers(second) == list(range(1, last + 1))
            first.close()
            until(lambda: fill(second, 1) > 0 and second.status().hot > 0)


def test_a_log_that_writes_little_has_no_slots(tmp_path: Path) -> None:
    """A quiet stream costs nothing: no file, no memory."""
    directory = _made(tmp_path / "log")
    with Log.open(directory, segment_bytes=32 << 20, hot_bytes=1 << 30) as log:
        fill(log, 100)
        log.sync()

        assert log.status().hot_bytes == 0
        assert not (directory / "hot").exists()


def test_a_reader_keeps_its_slot_and_holds_up_nobody(tmp_path: Path) -> None:
    """Bytes that a view shows stay as they are, however much is appended; their slot is then free."""
    with hot_log(tmp_path / "log", retention_bytes=20 * SEGMENT_BYTES) as log:
        run = log.read(log.status().end_position - len(frames(1, 1)), 10_000)
        assert isinstance(run, Run)
        then = bytes(run.view)

        last = fill(log, 4000)

        assert bytes(run.view) == then
        assert numbers(log)[-1] == last
        held = log.status().hot
        del run
        until(lambda: fill(log, 1) > 0 and log.status().hot <= max(held, 3))


# an end -------------------------------------------------------------------------------------------


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """Messages that stand in slots alone are in the log when it is opened again."""
    directory = tmp_path / "log"
    with hot_log(directory) as log:
        for number in range(1000):  # until a message has not been carried yet
            last = fill(log, 30)
            image = killed(directory, tmp_path / f"image-{number}")
            without = killed(image, tmp_path / f"without-{number}")
            (without / "hot").unlink()

            assert reopened(image) == list(range(1, last + 1))
            if len(reopened(without)) < last:
                return
    pytest.fail("each message was carried at once: this test shows nothing")


def test_opening_again_may_be_cut_short(tmp_path: Path) -> None:
    """Slots that were laid over the files and are still there are laid over them again."""
    directory = tmp_path / "log"
    with hot_log(directory) as log:
        last = fill(log, 30)
        image = killed(directory, tmp_path / "image")
    hot = (image / "hot").read_bytes()
    reopened(image)
    (image / "hot").write_bytes(hot)

    assert reopened(image) == list(range(1, last + 1))


@pytest.mark.parametrize("length", [0, 100, PAGE, PAGE + 5000])
def test_a_file_of_slots_that_was_cut_takes_nothing_away(tmp_path: Path, length: int) -> None:
    """Messages that a sync covered are there, however much is left of the file of slots."""
    directory = tmp_path / "log"
    with hot_log(directory) as log:
        synced = fill(log, 30)
        log.sync()
        fill(log, 10)
        image = killed(directory, tmp_path / "image")
    os.truncate(image / "hot", length)

    found = reopened(image)

    assert found == list(range(1, len(found) + 1))
    assert len(found) >= synced


def test_a_byte_that_changed_in_a_slot_takes_nothing_away_that_was_synced(tmp_path: Path) -> None:
    """A slot is believed as far as its frames are sound, and never over a file that has more."""
    directory = tmp_path / "log"
    with hot_log(directory) as log:
        synced = fill(log, 30)
        log.sync()
        fill(log, 10)
        image = killed(directory, tmp_path / "image")
    whole = (image / "hot").read_bytes()
    chance = random.Random(7)
    for number in range(40):
        changed = bytearray(whole)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        attempt = killed(image, tmp_path / f"attempt-{number}")
        (attempt / "hot").write_bytes(changed)

        with Log.open(attempt, **OPTIONS) as log:
            found = numbers(log)

        assert found == list(range(1, len(found) + 1))
        assert len(found) >= synced


def test_slots_that_are_older_than_the_files_take_nothing_away(tmp_path: Path) -> None:
    """In a directory that is copied while it is written, the file of slots may be the oldest of all."""
    directory = tmp_path / "log"
    with hot_log(directory) as log:
        old = (directory / "hot").read_bytes()
        synced = fill(log, 40)
        log.sync()
        image = killed(directory, tmp_path / "image")
    (image / "hot").write_bytes(old)

    assert reopened(image) == list(range(1, synced + 1))


def test_logs_are_inspected_while_they_are_hot(tmp_path: Path) -> None:
    """Looking at the files of a running log finds the messages that no file has yet."""
    directory = tmp_path / "log"
    with hot_log(directory) as log:
        last = fill(log, 30)

        found = verify_log(directory)

        assert found.problems == []
        assert sum(segment.messages for segment in found.segments) == last


@pytest.mark.parametrize("segment_bytes", [8192, 4 << 20])
def test_logs_are_inspected_while_they_are_written(tmp_path: Path, segment_bytes: int) -> None:
    """Looking at a log beside its writer reports nothing: neither appends nor rolls nor retention."""
    directory = _made(tmp_path / "log")
    writer = subprocess.Popen(
        [sys.executable, "-c", FAST_WRITER, str(directory), str(segment_bytes)],
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == b"ready\n"
        for _ in range(50):
            assert verify_log(directory).problems == []
        assert (directory / "hot").exists()
    finally:
        writer.kill()
        writer.stdout.close()
        writer.wait()


FAST_WRITER = """
import os, sys
from hermes.native import Encoder, Log
encoder = Encoder()
for n in range(20):
    encoder.encode(bytes(300), topic="t.a")
directory, segment = sys.argv[1], int(sys.argv[2])
options = {"segment_bytes": segment, "retention_bytes": 3 * segment}
with Log.open(directory, **options, spares=2, hot_bytes=2**30) as log:
    ready = False
    while True:
        log.append(encoder.view, 20)
        if not ready and log.status().hot:
            ready = True
            os.write(1, b"ready\\n")
        for _ in range(1000):  # a roll every second or so: what is looked at is the active segment
            pass
"""


@pytest.mark.parametrize("segment_bytes", [16384, SEGMENT_BYTES])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, segment_bytes: int) -> None:
    """Kill a writing process at random instants: what it reported is there, in order, once."""
    directory = _made(tmp_path / "log")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    left = 0
    for life in range(15):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory), str(segment_bytes), str(seed + life)],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 0.1))  # the instant is what is tested
        writer.send_signal(signal.SIGKILL)
        reported = [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
        writer.stdout.close()
        writer.wait()
        left += (directory / "hot").exists()

        with Log.open(directory, segment_bytes=segment_bytes, retention_bytes=2**20) as log:
            first, last = log.status().first_sequence, log.status().next_sequence - 1
            assert log.report.damaged_ranges == 0
            assert last >= max(reported, default=0)
            assert numbers(log) == list(range(first, last + 1))
            assert log.publisher_sequence(PUBLISHER) == last
    assert left > 5, "hardly any writer was killed with slots"


WRITER = """
import os, random, sys
from hermes.native import Encoder, Log
directory, segment, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
with Log.open(directory, segment_bytes=segment, retention_bytes=2**20, spares=2, hot_bytes=2**30) as log:
    number = log.publisher_sequence(b"p" * 16) + 1
    ready = False
    while True:
        encoder = Encoder()
        count = chance.randrange(1, 30)
        for n in range(number, number + count):
            encoder.encode(n.to_bytes(8, "little") * chance.randrange(1, 60), topic="t.a")
        log.append(encoder.view, count, publisher=b"p" * 16, first_sequence=number)
        number += count
        if not ready and log.status().hot:
            ready = True
            os.write(1, b"ready\\n")
        if ready:
            os.write(1, b"%d\\n" % (number - 1))
        if chance.random() < 0.02:
            log.sync()
"""


# trouble ------------------------------------------------------------------------------------------


def test_a_disk_that_fails_refuses_appends_and_loses_nothing(tmp_path: Path) -> None:
    """Messages that cannot be carried stay readable, and the next open finds them in their slots."""
    directory = tmp_path / "log"
    log = Log.open(_made(directory), **OPTIONS)
    last = heat(log)
    log.fail_carries(errno.EIO)

    def refused() -> bool:
        nonlocal last
        try:
            last = fill(log, 1)
        except StorageFailed:
            return True
        return False

    until(refused)
    assert numbers(log) == list(range(1, last + 1))
    with pytest.raises(StorageFailed):
        log.close()

    assert reopened(directory) == list(range(1, last + 1))


def test_a_file_that_was_cut_fails_the_log(tmp_path: Path) -> None:
    """Carrying to a file that somebody has cut would leave a hole in it: the log says that it fails."""
    directory = tmp_path / "log"
    with contextlib.suppress(StorageFailed), hot_log(directory) as log:
        newest = max(directory.glob("0*.log"))
        os.truncate(newest, 0)

        with pytest.raises(StorageFailed):
            log.sync()
        with pytest.raises(StorageFailed):
            fill(log, 1)


def test_a_file_of_slots_that_was_cut_costs_nothing_that_was_carried(tmp_path: Path) -> None:
    """A log whose file of slots somebody has cut refuses appends, and carries no zeros over messages."""
    directory = tmp_path / "log"
    with contextlib.suppress(StorageFailed), hot_log(directory) as log:
        fill(log, 10)
        log.sync()
        synced = fill(log, 1) - 1
        os.truncate(directory / "hot", 0)

        def failed() -> bool:
            with contextlib.suppress(StorageFailed):
                fill(log, 1)
            log.trim()  # carries what is left, if anything is
            return log.status().failed != 0

        until(failed)

        image = killed(directory, tmp_path / "image")
    with Log.open(image, **OPTIONS) as log:
        assert numbers(log)[:synced] == list(range(1, synced + 1))


def test_an_open_without_memory_keeps_the_slots(tmp_path: Path) -> None:
    """An open that cannot look at a slot fails, and leaves what only the slot has to the next one."""
    directory = tmp_path / "log"
    options = {**OPTIONS, "segment_bytes": LARGE}
    with large_log(directory) as log:
        log.sync()
        last = fill(log, 3)
        image = killed(directory, tmp_path / "image")
        without = killed(directory, tmp_path / "without")
    (without / "hot").unlink()

    done = subprocess.run(
        [sys.executable, "-c", POOR_OPENER, str(image)], capture_output=True, text=True, check=False
    )

    assert done.stdout == "refused\n", done.stderr
    with Log.open(without, **options) as log:
        assert log.status().next_sequence <= last, "the files have it all: this test shows nothing"
    with Log.open(image, **options) as log:
        assert log.status().next_sequence == last + 1


POOR_OPENER = """
import resource, sys
from pathlib import Path
from hermes.errors import HermesError
from hermes.native import Log
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (8 << 20),) * 2)
try:
    Log.open(sys.argv[1], segment_bytes=16 << 20)
except HermesError:
    print("refused")
"""


def test_a_place_without_slots_is_left_clean() -> None:
    """Where files are in memory anyway, no file of slots stays behind."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("no file system in memory")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        place = Path(name)
        with contextlib.closing(Log.open(place, **OPTIONS)) as log:
            until(lambda: fill(log, 10) > 0 and log.status().segments > 2 * SLOTS_MAX)

            assert log.status().hot_bytes == 0
            assert not (place / "hot").exists()


def test_what_is_left_over_is_carried(tmp_path: Path) -> None:
    """Messages too few to be worth a write are carried all the same, when the log is trimmed."""
    directory = tmp_path / "log"
    with large_log(directory) as log:
        log.sync()
        last = fill(log, 1)
        newest = max(directory.glob("0*.log"))
        assert frames(last, 1)[32:] not in newest.read_bytes(), "carried: this test shows nothing"

        until(lambda: log.trim() == 0 and frames(last, 1)[32:] in newest.read_bytes())


# power --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3, None])
def test_durable_messages_survive(seed: int | None, run_c: RunC, tmp_path: Path) -> None:
    """Lives that end by a kill lose nothing, and those that lose the power nothing that was synced.

    The program is that of test_log_power, with slots.
    """
    seed = random.randrange(1, 2**31) if seed is None else seed
    print(f"seed {seed}")

    said = run_c(
        "log_power.c",
        _made(tmp_path / "power"),
        str(seed),
        "100",
        "hot",
        sanitizer="address,undefined",
        defines=RENAMED,
    )

    assert said.startswith("100 lives checked")
    assert " 0 with slots left" not in said


@pytest.mark.parametrize(
    "mistakes",
    [
        pytest.param(("HM_WEAKEN_LOG_COOL",), id="slots are given up before their files are whole"),
        pytest.param(("HM_WEAKEN_LOG_LAY",), id="slots are believed as they are"),
    ],
)
def test_a_mistake_is_noticed(mistakes: tuple[str, ...], run_c: RunC, tmp_path: Path) -> None:
    """With any of these made in the core, the same program fails."""
    place = _made(tmp_path / "power")

    run_c(
        "log_power.c", place, "2", "300", "hot", defines=(*RENAMED, *mistakes), expect_failure=True
    )


def test_helper_and_owner_do_not_race(run_c: RunC, tmp_path: Path) -> None:
    """The helper carries, gives slots and takes them beside the owner without a data race."""
    place = _made(tmp_path / "power")

    said = run_c("log_power.c", place, "5", "30", "hot", sanitizer="thread", defines=RENAMED)

    assert said.startswith("30 lives checked")
