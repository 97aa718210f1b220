"""Resources that this process holds and uses, as Linux reports them: to see leaks and spinning."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SELF = Path("/proc/self")
SCHEDSTAT = Path("/proc/thread-self/schedstat")
"""Nanoseconds this thread has run, and those it was ready to and did not."""
CACHESTAT = 451
"""Number of the system call, the same on every architecture but Alpha."""
PAGE_SIZE = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Held:
    """Resources that a process holds at one moment."""

    descriptors: int
    threads: int
    mappings: int
    """Mappings of files and devices: anonymous memory is the allocator's business."""

    @classmethod
    def now(cls) -> Held:
        """Count the resources of this process, after garbage is collected."""
        gc.collect()
        maps = (SELF / "maps").read_text().splitlines()
        return cls(
            descriptors=sum(1 for _ in (SELF / "fd").iterdir()),
            threads=sum(1 for _ in (SELF / "task").iterdir()),
            mappings=sum(len(line.split(maxsplit=5)) == 6 for line in maps),
        )

    def __le__(self, other: Held) -> bool:
        """Whether there is no more of anything than in ``other``."""
        return (
            self.descriptors <= other.descriptors
            and self.threads <= other.threads
            and self.mappings <= other.mappings
        )


def dirty_bytes(path: Path) -> int | None:
    """Bytes of a file that the system has not written to the disk yet, as cachestat(2) counts them;
    None where the kernel cannot tell (before Linux 6.5)."""
    counts = (ctypes.c_uint64 * 5)()  # cached, dirty, under writeback, evicted, recently evicted
    whole = (ctypes.c_uint64 * 2)(0, 0)  # offset, length: 0 is to the end
    with path.open("rb") as file:
        call = ctypes.CDLL(None, use_errno=True).syscall
        if call(CACHESTAT, file.fileno(), whole, counts, 0) != 0:
            return None
    return (counts[1] + counts[2]) * PAGE_SIZE


def resident() -> int:
    """Bytes of memory this process uses."""
    return int((SELF / "statm").read_text().split()[1]) * PAGE_SIZE


def own_time_ns() -> int:
    """A clock for this thread that stands while others have the processor it could use: a busy
    machine is no fault of the plugin's, sleeping is."""
    now = time.monotonic_ns()
    try:
        waited = SCHEDSTAT.read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):  # the kernel does not count it
        return now
    return now - int(waited)


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Inside, this process can open ``count`` further descriptors at most."""
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """Inside, this process can open as many descriptors as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Stopwatch:
    """Measures wall and processor time of a block: ``with Stopwatch() as watch: ...``."""

    wall_ns = 0
    cpu_ns = 0
    """Processor time of all threads of the process."""

    def __enter__(self) -> Stopwatch:
        self.wall_ns, self.cpu_ns = time.monotonic_ns(), time.process_time_ns()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall_ns = time.monotonic_ns() - self.wall_ns
        self.cpu_ns = time.process_time_ns() - self.cpu_ns

    @property
    def busy(self) -> float:
        """Share of one processor that was used."""
        return self.cpu_ns / max(1, self.wall_ns)
