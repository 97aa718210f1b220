"""The log when the machine lets it down: full disks, failing syncs, dying processes."""

from __future__ import annotations

import errno
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.errors import Closed, MessageTooLarge, StorageFailed, StorageFull, Timeout, UsageError
from hermes.native import Encoder, Hole, Log, LogEvent, Run, decode

pytestmark = pytest.mark.slow

SEGMENT_BYTES = 16384
PUBLISHER = b"p" * 16
EVENT_TIMEOUT_S = 60.0


def frames(count: int, size: int = 1000, first: int = 1) -> bytes:
    """Whole frames whose payloads say their number."""
    encoder = Encoder()
    for number in range(first, first + count):
        encoder.encode(number.to_bytes(8, "little") + bytes(size - 8), topic="t.a")
    return bytes(encoder.view)


def numbers(log: Log) -> list[int]:
    """Numbers in the payloads, oldest first; sequences are checked."""
    found: list[int] = []
    position = log.status().start_position
    while run := log.read(position, 10_000):
        assert isinstance(run, Run)
        index = decode(run.view)
        assert list(index.sequence) == list(range(run.first_sequence, run.next_sequence))
        found += [int.from_bytes(payload[:8], "little") for payload in index.payloads()]
        position += len(run.view)
    return found


def wait_for(log: Log, event: LogEvent) -> None:
    """Wait until the log's descriptor reports ``event``."""
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while time.monotonic() < deadline:
        if select.select([log.fileno()], [], [], EVENT_TIMEOUT_S)[0] and event in log.events():
            return
    pytest.fail(f"no {event!r} within {EVENT_TIMEOUT_S} s")


# full disks --------------------------------------------------------------------------------------


def fill_up(log: Log) -> int:
    """Append single messages until the log refuses; returns how many it took."""
    taken = 0
    while True:
        before = log.status()
        try:
            log.append(frames(1, first=taken + 1), 1)
        except StorageFull:
            after = log.status()
            assert after.next_sequence == before.next_sequence
            assert after.end_position == before.end_position
            return taken
        taken += 1
        assert taken < 100_000


def test_a_quota_refuses_appends_and_still_serves(tmp_path: Path) -> None:
    """At its disk limit the log says so, keeps what it has, and takes what still fits."""
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES, disk_bytes=10 * SEGMENT_BYTES) as log:
        taken = fill_up(log)

        assert numbers(log) == list(range(1, taken + 1))
        assert not log.status().failed
        used = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert used <= 10 * SEGMENT_BYTES
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES) as log:
        assert numbers(log) == list(range(1, taken + 1))


def test_appends_work_again_when_retention_has_made_room(tmp_path: Path) -> None:
    """A refusal is for now: it ends, and the descriptor tells, when a trim gives space back."""
    with Log.open(
        tmp_path, segment_bytes=SEGMENT_BYTES, disk_bytes=6 * SEGMENT_BYTES, retention_ns=10**12
    ) as log:
        taken = fill_up(log)

        assert log.trim(time.time_ns() + 2 * 10**12) > 0

        wait_for(log, LogEvent.SPACE)
        log.append(frames(1, first=taken + 1), 1)
        assert numbers(log)[-1] == taken + 1


def test_a_batch_over_several_segments_says_how_much_of_it_is_in(tmp_path: Path) -> None:
    """When space ends inside a large batch, what is in the log is a prefix, and its length is
    stated."""
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES, disk_bytes=4 * SEGMENT_BYTES) as log:
        with pytest.raises(StorageFull, match=r"the first \d+ are in it"):
            log.append(frames(100), 100)

        kept = numbers(log)
        assert kept == list(range(1, len(kept) + 1))
        assert 0 < len(kept) < 100


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "hermes-test", str(place)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("a real full disk needs root to mount a small tmpfs")
    if subprocess.run(command, check=False).returncode != 0:
        pytest.skip("a real full disk needs the right to mount a small tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_really_full_disk_refuses_and_recovers(small_disk: Path) -> None:
    """ENOSPC is an answer, never a fault: appends are refused until somebody makes room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    directory = small_disk / "log"
    directory.mkdir()
    with Log.open(directory, segment_bytes=65536) as log:
        taken = fill_up(log)
        assert numbers(log) == list(range(1, taken + 1))

        ballast.unlink()

        wait_for(log, LogEvent.SPACE)
        more = fill_up(log)
        assert more > 0
        assert len(numbers(log)) == taken + more
    with Log.open(directory, segment_bytes=65536) as log:
        assert len(numbers(log)) == taken + more
        assert fill_up(log) == 0
    with Log.open(directory, segment_bytes=8192) as log:
        assert len(numbers(log)) == taken + more


def record_each(log: Log, first: int, *, size: int = 64) -> int:
    """Append messages with a record of their own until the log refuses; returns how many it took."""
    taken = 0
    while True:
        try:
            log.append(frames(1, size, first + taken), 1, now_ns=10**9 + (first + taken) * 10**7)
        except StorageFull:
            return taken
        taken += 1
        assert taken < 100_000


def wait_for_spare(log: Log) -> None:
    """Wait until a segment is ready."""
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while log.status().spares == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert log.status().spares > 0


def wait_for_pinned(log: Log, count: int) -> None:
    """Wait until so many retired segments are held: the helper may be at work on one more."""
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while log.status().pinned != count and time.monotonic() < deadline:
        time.sleep(0.001)
    assert log.status().pinned == count


def test_an_index_without_room_goes_on_in_the_prepared_segment(tmp_path: Path) -> None:
    """A quota that a spare has used up does not refuse what the spare can hold."""
    segment = 65536
    quota = 2 * (segment + 4096)
    with Log.open(tmp_path, segment_bytes=segment, disk_bytes=quota, spares=1) as log:
        log.append(frames(40), 40, now_ns=10**9)  # makes a spare wanted, and leaves room for small
        wait_for_spare(log)  # messages

        taken = record_each(log, 41)

        assert log.status().segments == 2
        assert taken > 1.5 * 4096 / 64  # more than the index of one segment has records
        assert numbers(log) == list(range(1, 41 + taken))


def test_an_append_waits_for_the_segment_that_takes_the_last_room(tmp_path: Path) -> None:
    """While the helper makes a segment of all the room there is, an append that needs one is not
    refused: it goes on in that segment."""
    memory = Path("/dev/shm")  # there a segment takes milliseconds to make
    segment = 16 << 20
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as place,
        Log.open(Path(place), segment_bytes=segment, disk_bytes=2 * segment + (1 << 20)) as log,
    ):
        small, large = frames(1, segment // 16), frames(1, segment // 8 * 7)
        for _ in range(3):
            log.append(small, 1)  # more than an eighth of it: a spare is wanted
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while not list(Path(place).glob("spare-*")) and time.monotonic() < deadline:
            pass

        log.append(large, 1)

        assert log.status().segments == 2


@pytest.mark.parametrize("size", [16, 64, 900])
def test_refusals_end_each_time_somebody_makes_room(small_disk: Path, size: int) -> None:
    """Whether a segment or an index could not grow, with a segment ready or without: when there is
    space the descriptor tells, and appends work."""
    ballast = [small_disk / f"ballast-{number}" for number in range(5)]
    for piece in ballast:
        piece.write_bytes(bytes(150_000))
    directory = small_disk / "log"
    directory.mkdir()
    with Log.open(directory, segment_bytes=65536, spares=1) as log:
        written = record_each(log, 1, size=size)
        for piece in ballast:
            piece.unlink()
            wait_for(log, LogEvent.SPACE)
            more = record_each(log, written + 1, size=size)
            assert more > 0
            written += more
        assert numbers(log) == list(range(1, written + 1))


def test_a_checkpoint_that_does_not_fit_is_a_refusal_that_ends(tmp_path: Path) -> None:
    """Thousands of publishers: the index of a new segment needs more than a spare's has."""
    segment, publishers = 65536, 1000
    quota = 2 * (segment + 4096) + publishers * 64
    options: dict[str, Any] = {"segment_bytes": segment, "disk_bytes": quota, "spares": 1}
    with Log.open(tmp_path, **options, retention_ns=10**12) as log:
        now_ns = 10**9
        for number in range(1, 2 * publishers):
            now_ns += 10**7
            try:
                log.append(
                    frames(1, 16, number),
                    1,
                    publisher=(number % publishers + 1).to_bytes(16, "big"),
                    first_sequence=number,
                    now_ns=now_ns,
                )
            except StorageFull:
                break
        else:
            pytest.fail("the quota was never met")
        last = log.status().next_sequence

        with pytest.raises(StorageFull):
            log.append(frames(1), 1, now_ns=now_ns)
        assert log.status().next_sequence == last
        log.trim(now_ns + 2 * 10**12)
        assert log.status().next_sequence == last


DESCRIPTORS = """
import resource, sys, time
from hermes.errors import StorageFull
from hermes.native import Encoder, Log
encoder = Encoder()
encoder.encode(bytes(4000), topic="t")
frame = bytes(encoder.view)
with Log.open(sys.argv[1], segment_bytes=16384, spares=1) as log:
    held = []
    while True:
        try:
            held.append(open("/dev/null"))
        except OSError:
            break
    taken = 0
    try:
        while taken < 1000:
            log.append(frame, 1)
            taken += 1
    except (MemoryError, StorageFull):
        pass
    assert taken < 1000
    for one in held:
        one.close()
    deadline = time.monotonic() + 60
    while log.status().spares == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert log.status().spares > 0
    for _ in range(100):
        log.append(frame, 1)
    print(log.status().next_sequence == taken + 101, log.status().failed)
"""


def test_a_log_without_descriptors_goes_on_when_there_are_some(tmp_path: Path) -> None:
    """Each segment needs two files: without them appends are refused, and a segment is made ready as
    soon as they can be had."""
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 40; exec "$0" -c "$1" "$2"', sys.executable, DESCRIPTORS, tmp_path],
        capture_output=True,
        text=True,
        timeout=EVENT_TIMEOUT_S,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("True 0\n", 0), done.stderr


# failing syncs -----------------------------------------------------------------------------------


def test_after_a_failed_sync_nothing_more_is_promised(tmp_path: Path) -> None:
    """An I/O error while syncing ends appends and progress for good, and reads go on."""
    log = Log.open(tmp_path, segment_bytes=SEGMENT_BYTES)
    log.append(frames(5), 5)
    log.sync()
    assert log.status().synced_sequence == 5
    log.append(frames(5, first=6), 5)
    log.fail_syncs(errno.EIO)

    with pytest.raises(StorageFailed):
        log.sync()

    log.fail_syncs(0)
    with pytest.raises(StorageFailed):
        log.sync()
    with pytest.raises(StorageFailed):
        log.sync_begin()
    with pytest.raises(StorageFailed):
        log.append(frames(1), 1)
    status = log.status()
    assert status.synced_sequence == 5
    assert status.failed_errno == errno.EIO
    assert numbers(log) == list(range(1, 11))
    with pytest.raises(StorageFailed):
        log.close()


def test_a_failed_sync_is_reported_to_who_waits_for_the_descriptor(tmp_path: Path) -> None:
    """The end of a sync makes the descriptor readable whichever way it ended."""
    log = Log.open(tmp_path, segment_bytes=SEGMENT_BYTES)
    log.append(frames(5), 5)
    log.fail_syncs(errno.EIO)

    log.sync_begin()
    wait_for(log, LogEvent.SYNC)

    assert log.status().failed
    assert log.status().synced_sequence == 0
    with pytest.raises(StorageFailed):
        log.close()


def test_several_requests_are_one_sync(tmp_path: Path) -> None:
    """Requests made while a sync runs are met by the next one, however many they are."""
    with Log.open(tmp_path, segment_bytes=1 << 20) as log:
        for number in range(1, 501):
            log.append(frames(1, first=number), 1)
            log.sync_begin()
        log.sync()

        status = log.status()
        assert status.synced_sequence == 500
        assert 0 < status.syncs < 500


def test_a_sync_covers_sealed_segments(tmp_path: Path) -> None:
    """Everything below the synced sequence is on disk, also what was sealed long ago."""
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES) as log:
        log.append(frames(100), 100)

        log.sync()

        assert log.status().synced_sequence == 100


def test_memory_has_no_disk(tmp_path: Path) -> None:
    """A log in memory refuses to promise anything."""
    with Log.memory(retention_bytes=1 << 20, segment_bytes=SEGMENT_BYTES) as log:
        assert log.fileno() == -1
        with pytest.raises(UsageError):
            log.sync()


# views -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [True, False])
def test_views_outlive_trim_and_close(tmp_path: Path, memory: bool) -> None:
    """Slices and arrays of log memory stay what they were, whatever becomes of the log."""
    if memory:
        log = Log.memory(segment_bytes=SEGMENT_BYTES, retention_bytes=3 * SEGMENT_BYTES)
    else:
        log = Log.open(tmp_path, segment_bytes=SEGMENT_BYTES, retention_bytes=3 * SEGMENT_BYTES)
    log.append(frames(5), 5)
    run = log.read(0, 10**6)
    assert isinstance(run, Run)
    sliced = run.view[8:48]
    array = np.frombuffer(run.view, dtype=np.uint64)
    copies = bytes(sliced), array.copy()
    del run

    for first in range(6, 206):
        log.append(frames(1, first=first), 1)
    assert isinstance(log.read(0, 100), Hole)
    wait_for_pinned(log, 1)
    log.close()

    assert bytes(sliced) == copies[0]
    assert np.array_equal(array, copies[1])
    assert not array.flags.writeable


def test_dropped_views_give_their_segments_back() -> None:
    """When the last reader lets go, a retired segment is used again."""
    with Log.memory(segment_bytes=SEGMENT_BYTES, retention_bytes=3 * SEGMENT_BYTES) as log:
        log.append(frames(5), 5)
        run = log.read(0, 10**6)
        for first in range(6, 206):
            log.append(frames(1, first=first), 1)
        log.trim()
        wait_for_pinned(log, 1)

        del run
        log.trim()

        wait_for_pinned(log, 0)


# retention ---------------------------------------------------------------------------------------


def test_retention_by_bytes_is_a_bound(tmp_path: Path) -> None:
    """The bytes kept never exceed the bound, and whole segments go, oldest first."""
    bound = 8 * SEGMENT_BYTES
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES, retention_bytes=bound) as log:
        for first in range(1, 500):
            log.append(frames(1, first=first), 1)
            status = log.status()
            assert status.end_position - status.start_position <= bound
        assert status.end_position - status.start_position > bound - 3 * SEGMENT_BYTES
        assert numbers(log) == list(range(status.first_sequence, 500))
        assert status.recycled > 0


def test_retention_by_age_takes_quiet_streams_as_well(tmp_path: Path) -> None:
    """Old messages go even if the segment they stand in never fills."""
    second = 10**9
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES, retention_ns=10 * second) as log:
        log.append(frames(3), 3, now_ns=100 * second)
        log.append(frames(1, first=4), 1, now_ns=109 * second)

        assert log.trim(109 * second) == 0
        log.trim(111 * second)
        assert numbers(log) == [1, 2, 3, 4]
        log.trim(120 * second)

        assert numbers(log) == []
        log.append(frames(1, first=5), 1, now_ns=121 * second)
        assert log.status().first_sequence == 5


# misuse ------------------------------------------------------------------------------------------


def test_misuse_is_answered(tmp_path: Path) -> None:
    """A call that cannot work is refused by name, and leaves the log as it was."""
    with pytest.raises(UsageError, match="multiple of 4096"):
        Log.open(tmp_path, segment_bytes=5000)
    with pytest.raises(UsageError, match="bound"):
        Log.memory(retention_bytes=0)
    with pytest.raises(UsageError, match="spares"):
        Log.open(tmp_path, spares=99)
    log = Log.open(tmp_path, segment_bytes=SEGMENT_BYTES)
    with pytest.raises(UsageError):
        log.append(b"", 0)
    with pytest.raises(UsageError):
        log.append(frames(2), 3)
    with pytest.raises(UsageError):
        log.append(frames(2), 1)
    with pytest.raises(UsageError):
        log.append(frames(2)[:-8], 2)
    with pytest.raises(UsageError, match="16 bytes"):
        log.append(frames(1), 1, publisher=b"short")
    with pytest.raises(UsageError):
        log.read(1000, 10)
    with pytest.raises(MessageTooLarge, match="larger than a segment"):
        log.append(frames(1, size=20_000), 1)
    assert log.status().next_sequence == 1
    log.close()
    log.close()
    with pytest.raises(Closed):
        log.status()


def test_a_sync_that_takes_too_long_times_out(tmp_path: Path) -> None:
    """A deadline that has passed is an answer, and the sync still happens."""
    with Log.open(tmp_path, segment_bytes=1 << 20) as log:
        late = False
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while not late and time.monotonic() < deadline:
            log.append(frames(10), 10)
            try:
                log.sync(timeout_ns=0)  # a busy machine may have it done before it looks
            except Timeout:
                late = True
        assert late
        log.sync()
        assert log.status().synced_sequence == log.status().next_sequence - 1


# dying processes ---------------------------------------------------------------------------------

WRITER = """
import os, random, sys
from hermes.native import Encoder, Log
directory, first, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
with Log.open(directory, segment_bytes=65536, retention_bytes=2**20, spares=1) as log:
    number = log.publisher_sequence(b"p" * 16) + 1
    os.write(1, b"ready\\n")
    while True:
        encoder = Encoder()
        count = chance.randrange(1, 40)
        for n in range(number, number + count):
            encoder.encode(n.to_bytes(8, "little") + bytes(chance.randrange(0, 500)), topic="t.a")
        log.append(encoder.view, count, publisher=b"p" * 16, first_sequence=number)
        number += count
        os.write(1, b"%d\\n" % (number - 1))
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Kill a writing process at random instants: what it reported is there, in order, once."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for life in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), "1", str(seed + life)],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0.0, 0.15))  # the instant is what is tested
        writer.send_signal(signal.SIGKILL)
        reported = [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]
        writer.stdout.close()
        writer.wait()

        with Log.open(tmp_path, segment_bytes=65536, retention_bytes=2**20) as log:
            status = log.status()
            assert log.report.damaged_ranges == 0
            last = status.next_sequence - 1
            assert last >= max(reported, default=0)
            assert numbers(log) == list(range(status.first_sequence, last + 1))
            assert log.publisher_sequence(PUBLISHER) == last


# a log that was, and the one after it ---------------------------------------------------------


def test_a_view_that_outlives_its_log_does_not_touch_the_next_one(tmp_path: Path) -> None:
    """Views of retired segments may be let go when another log has the directory already: its
    spares, which count from the same number, stay."""
    options: dict[str, Any] = {
        "segment_bytes": SEGMENT_BYTES,
        "retention_bytes": 4 * SEGMENT_BYTES,
    }
    held = []
    with Log.open(tmp_path, **options) as log:
        for number in range(1, 400):
            log.append(frames(1, first=number), 1)
            if number % 14 == 0:
                run = log.read(log.status().start_position, 10_000)
                assert isinstance(run, Run)
                held.append((run.view, bytes(run.view)))
        assert log.status().pinned > 1
    assert not list(tmp_path.glob("spare-*"))
    with Log.open(tmp_path, **options, spares=16) as log:
        for number in range(400, 430):
            log.append(frames(1, first=number), 1)
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while log.status().spares < 16 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert log.status().spares == 16
        spares = set(tmp_path.glob("spare-*"))

        assert all(bytes(view) == then for view, then in held)
        held.clear()

        assert set(tmp_path.glob("spare-*")) >= spares
        for number in range(430, 700):
            log.append(frames(1, first=number), 1)


def test_a_view_of_an_earlier_log_is_never_written_over(tmp_path: Path) -> None:
    """The next log retires a segment that an earlier log's view still shows, and does not use its
    file again."""
    options: dict[str, Any] = {
        "segment_bytes": SEGMENT_BYTES,
        "retention_bytes": 4 * SEGMENT_BYTES,
    }
    with Log.open(tmp_path, **options) as log:
        for number in range(1, 41):
            log.append(frames(1, first=number), 1)
        run = log.read(log.status().start_position, 10_000)
        assert isinstance(run, Run)
        then = bytes(run.view)

    with Log.open(tmp_path, **options) as log:
        for number in range(41, 400):
            log.append(frames(1, first=number), 1)
        assert log.status().trimmed > 10

        assert bytes(run.view) == then


def test_a_log_opened_on_a_full_disk_survives_that_its_first_segment_fails(tmp_path: Path) -> None:
    """When the segment that would end a full disk's refusals can't be named, the log is failed, and
    says so to every call."""
    with Log.open(tmp_path, segment_bytes=SEGMENT_BYTES) as log:
        log.append(frames(60), 60)
    used = sum(path.stat().st_size for path in tmp_path.iterdir())
    log = Log.open(
        tmp_path, segment_bytes=SEGMENT_BYTES, disk_bytes=used + 4096, retention_ns=10**12
    )
    with pytest.raises(StorageFull):
        log.append(frames(1, first=61), 1)
    (tmp_path / f"{61:020d}.log").mkdir()
    later = time.time_ns() + 2 * 10**12
    assert log.trim(later) > 0
    wait_for(log, LogEvent.SPACE)

    with pytest.raises(StorageFailed):
        log.append(frames(1, first=61), 1)

    assert log.trim(later) == 0
    status = log.status()
    assert status.failed
    assert (status.first_sequence, status.next_sequence) == (61, 61)
    with pytest.raises(StorageFailed):
        log.close()
