"""Calls that not every system has, behind functions that every system has.

Part of the SPI.  Hermes runs on Linux; a port of its Python to another system is this file.  (Native code
has ``hm_platform.c``.  Programs that measure a Linux machine, and transports that are Linux's from end to
end, udp and io_uring, make their calls themselves.)  Imports nothing of Hermes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

LINUX = sys.platform == "linux"
MAPS_MAX = Path("/proc/sys/vm/max_map_count")
MEMORY = Path("/proc/meminfo")
GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
LOCKS = Path("/proc/locks")
DESCRIPTORS = Path("/proc/self/fd" if LINUX else "/dev/fd")
PR_SET_PDEATHSIG = 1
PR_SET_TIMERSLACK = 29
"""From linux/prctl.h."""
TCP_RTO_MAX_MS = 44
"""Linux 6.15 and later: the longest pause between two tries to send again, 120 s unless told."""
TCP_INFO = struct.Struct("=2xBB20xI28xI60xQ")
"""Fields of Linux's tcp_info, in the order of :class:`TcpState`."""
ONE = (1).to_bytes(8, sys.byteorder)
"""Bytes that count an event descriptor up by one."""
DRAIN_BYTES = 4096
"""Bytes read at once from an event; an event descriptor gives 8."""

sched_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))
"""Let another thread or process run on this core, if one wants to."""


# ---- events ----


class EventDescriptor:
    """A descriptor that is readable from :meth:`set` to :meth:`clear`: an eventfd, or else a pipe.

    Any thread may call any method, and a signal handler :meth:`set`.

    Raises:
        OSError: the process has no descriptor left.
    """

    __slots__ = ("_reader", "_writer")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._reader = self._writer = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        """The readable descriptor; -1 once it is closed."""
        return self._reader

    def set(self) -> None:
        """Make it readable."""
        with contextlib.suppress(BlockingIOError):  # full: it is readable
            os.write(self._writer, ONE)

    def clear(self) -> None:
        """Make it readable no more."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._reader, DRAIN_BYTES)) == DRAIN_BYTES:
                pass

    def descriptors(self) -> list[int]:
        """Every descriptor, for :meth:`hermes.base.forks.Owner.abandon`."""
        return [self._reader, self._writer]

    def close(self) -> None:
        """Close it.  Idempotent."""
        for descriptor in {self._reader, self._writer} - {-1}:
            os.close(descriptor)
        self._reader = self._writer = -1


# ---- processors and processes ----


def usable_cores() -> list[int]:
    """The processor cores that this process may use, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_memory() -> int:
    """Bytes of memory that this process may have: the machine's, or less if its control group has a
    limit; 0 where the system does not tell."""
    try:
        total = next(
            line for line in MEMORY.read_text().splitlines() if line.startswith("MemTotal:")
        )
    except (OSError, StopIteration):
        return 0
    return min([int(total.split()[1]) * 1024, *_memory_limits()])


def _memory_limits() -> Iterator[int]:
    """Limits of the control groups around this process, of both versions of Linux's interface."""
    with contextlib.suppress(OSError):
        for line in GROUP.read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            if kinds not in ("", "memory"):
                continue
            root = GROUPS / kinds
            name = "memory.limit_in_bytes" if kinds else "memory.max"
            group = root / place.lstrip("/")
            for each in (group, *group.parents):
                if each.is_relative_to(root):
                    with contextlib.suppress(OSError, ValueError):  # none, or "max"
                        yield int((each / name).read_text())


def pin(process: int, cores: Iterable[int]) -> None:
    """Keep ``process`` (0: this thread) on ``cores``; nothing where the system has no such thing.

    Raises:
        OSError: there is no such process, or no such core.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, cores)


def follow_parent() -> None:
    """End this process when its parent does, and have it sleep to the microsecond: by default Linux
    lets each sleep take 50 us more.  Nothing on other systems."""
    if LINUX:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        libc.prctl(PR_SET_TIMERSLACK, 1)


def widen_pipe(descriptor: int, size: int) -> None:
    """Give a pipe room for ``size`` bytes; nothing if it is none, or may not have them."""
    try:
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, size)
    except (ImportError, AttributeError, OSError):
        return  # nothing is lost but a little speed


# ---- what the kernel tells ----


def maps_max() -> int | None:
    """How many mappings the kernel grants a process; None: it does not tell."""
    try:
        return int(MAPS_MAX.read_text())
    except (OSError, ValueError):  # no descriptor may be left to read it with
        return None


def file_locks() -> Iterator[tuple[str, str, str]]:
    """Kind, process and file (as ``major:minor:inode``) of each lock of a file that the kernel lists,
    see proc_locks(5); none where it lists none."""
    with contextlib.suppress(OSError), LOCKS.open() as lines:
        for line in lines:
            words = line.split()
            if len(words) >= 6:
                yield words[1], words[4], words[5]


def open_descriptors() -> set[int]:
    """The descriptors that this process has open."""
    found = set()
    for entry in DESCRIPTORS.iterdir():
        with contextlib.suppress(OSError):  # the listing's own, which is closed by now
            os.fstat(int(entry.name))
            found.add(int(entry.name))
    return found


def opened_as(descriptor: int) -> str:
    """The file or kind of thing that an open descriptor is of, for messages."""
    try:
        return str((DESCRIPTORS / str(descriptor)).readlink())
    except OSError:
        return f"descriptor {descriptor}"


# ---- sockets ----


class TcpState(NamedTuple):
    """A TCP connection as the kernel sees it."""

    retransmits: int
    """Times that the oldest segment was sent again without an answer."""
    probes: int
    """Probes of a closed window without an answer."""
    unacknowledged: int
    """Segments that the peer's machine has not acknowledged."""
    silence_ms: int
    """Time since its last acknowledgement."""
    bytes_acknowledged: int
    """Bytes that it has acknowledged so far."""


def tcp_state(sock: socket.socket) -> TcpState | None:
    """The state of a connection; None: it has ended, or the system does not tell."""
    if not LINUX:
        return None
    try:
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
    except OSError:
        return None
    return TcpState._make(TCP_INFO.unpack(found)) if len(found) == TCP_INFO.size else None


def unsent_bytes(sock: socket.socket) -> int:
    """Bytes that the system holds for the peer of a stream socket; 0 where it does not tell."""
    if not LINUX:
        return 0
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def keep_alive(sock: socket.socket, *, idle_s: int, interval_s: int, probes: int) -> None:
    """Have the system probe a TCP peer after ``idle_s`` of silence, each ``interval_s``; ``probes``
    without an answer end the connection."""
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE")  # noqa: B009
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, idle, idle_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def bound_resending(sock: socket.socket, *, pause_ms: int) -> None:
    """Have the system send again after ``pause_ms`` at the latest, where it can be told: what has
    happened to a path is noticed later without."""
    if LINUX:
        with contextlib.suppress(OSError):  # an older kernel
            sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, pause_ms)


def bound_silence(sock: socket.socket, *, bound_ms: int) -> None:
    """Have the system end a TCP connection whose peer takes nothing for ``bound_ms``, where it can
    be told."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, bound_ms)
