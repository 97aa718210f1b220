"""How a log's helper makes memory ready ahead of the writer, without being in its way."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hermes.native import Encoder, Log

MIB = 1 << 20
SEGMENT_BYTES = 64 * MIB
WRITTEN = 9
"""MiB: enough that all of the segment is to be made ready."""
DEADLINE_S = 60.0
NS_PER_S = 1_000_000_000


def resident(log_directory: Path) -> int:
    """Bytes of the log's active segment that this process can touch without a fault."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.endswith(".log") and f"{log_directory}/0" in line:
            fields = (next(lines) for _ in range(8))
            return next(int(field.split()[1]) * 1024 for field in fields if "Rss:" in field)
    pytest.fail(f"no segment of {log_directory} is mapped")


def write(log: Log, *, mib_per_s: int) -> None:
    """Append at a pace, as far as the log's times tell."""
    encoder = Encoder()
    for _ in range(16):
        encoder.encode(bytes(MIB // 16 - 256), topic="t.a")
    frames = bytes(encoder.view)
    for number in range(WRITTEN + 1):
        log.append(frames, 16, now_ns=NS_PER_S + number * NS_PER_S // mib_per_s)


def test_who_writes_slowly_is_not_disturbed(tmp_path: Path) -> None:
    """A segment is made ready at once for a fast writer, and bit by bit for a slow one."""
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    slow.mkdir()
    fast.mkdir()
    with (
        Log.open(slow, segment_bytes=SEGMENT_BYTES) as slowly,
        Log.open(fast, segment_bytes=SEGMENT_BYTES) as quickly,
    ):
        write(quickly, mib_per_s=10_000)
        write(slowly, mib_per_s=2)

        deadline = time.monotonic() + DEADLINE_S
        while resident(fast) < SEGMENT_BYTES - MIB and time.monotonic() < deadline:
            time.sleep(0.001)  # nothing tells: it is memory that becomes resident

        assert resident(fast) >= SEGMENT_BYTES - MIB
        assert resident(slow) < SEGMENT_BYTES // 2


def test_who_writes_slowly_has_all_of_it_ready_in_the_end(tmp_path: Path) -> None:
    """Resting puts the work off; it does not leave it undone."""
    with Log.open(tmp_path, segment_bytes=16 * MIB) as log:
        write(log, mib_per_s=20)

        deadline = time.monotonic() + DEADLINE_S
        while resident(tmp_path) < 16 * MIB and time.monotonic() < deadline:
            time.sleep(0.001)  # likewise

        assert resident(tmp_path) == 16 * MIB
