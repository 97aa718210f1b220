"""Limits that the machine sets on this process, in words: name and present value.

Knows nothing of brokers: code that ran into a limit asks here for its name and value.
"""

from __future__ import annotations

import errno
import resource
import threading

from hermes.base import platform
from hermes.errors import SystemFault

FLAGS = {
    "RLIMIT_NOFILE": "ulimit -n",
    "RLIMIT_AS": "ulimit -v",
    "RLIMIT_FSIZE": "ulimit -f",
    "RLIMIT_MEMLOCK": "ulimit -l",
    "RLIMIT_NPROC": "ulimit -u",
}
COUNTS = frozenset({"RLIMIT_NOFILE", "RLIMIT_NPROC"})
"""Limits that are no bytes."""
LIMITS = {
    errno.EMFILE: "RLIMIT_NOFILE",
    errno.EFBIG: "RLIMIT_FSIZE",
    errno.ENOMEM: "RLIMIT_AS",
}
"""The limits that system calls fail of."""


def start_thread(thread: threading.Thread) -> None:
    """Start ``thread``.

    Raises:
        SystemFault: the system grants no other one; said with the limits that it may come of.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise SystemFault(
            f"no thread {thread.name} can be started: raise `ulimit -v` or `ulimit -u` "
            f"({memory_limits()})"
        ) from error


def rlimit(name: str) -> str:
    """One limit, e.g. ``RLIMIT_FSIZE (ulimit -f) is 65536 bytes``."""
    soft, _ = resource.getrlimit(getattr(resource, name))
    unit = "" if name in COUNTS else " bytes"
    value = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft}{unit}"
    return f"{name} ({FLAGS[name]}) is {value}"


def limited(name: str) -> str:
    """The same behind a semicolon, or nothing if there is no such limit."""
    soft, _ = resource.getrlimit(getattr(resource, name))
    return "" if soft == resource.RLIM_INFINITY else f"; {rlimit(name)}"


def behind(error: OSError) -> str:
    """The limit that ``error`` comes of, behind a semicolon; nothing if it comes of none."""
    name = LIMITS.get(error.errno or 0)
    return "" if name is None else f"; {rlimit(name)}"


def maps_max() -> str:
    """How many mappings the kernel grants a process, e.g. ``vm.max_map_count is 65530``."""
    count = platform.maps_max()
    return f"vm.max_map_count is {'not known' if count is None else count}"


def memory_limits() -> str:
    """The limits of memory: of address space, and of threads, whose stacks take some."""
    return f"{rlimit('RLIMIT_AS')}, {rlimit('RLIMIT_NPROC')}"
