"""Whether io_uring works here, found out by trying; and the ring that is made when it does.

Knows no socket and no transport.
"""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path

from hermes_uring._ring import Ring

DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
"""0: everybody may use it; 1: members of a group; 2: nobody."""
PACKAGE = "pip install 'hermes-broker[uring]'"
KERNEL = "Linux 6.12"
"""The oldest that has all we use: buffers consumed bit by bit came last."""


def make_ring(*, entries: int, buffers: int, buffer_size: int) -> Ring:
    """A new ring.

    Raises:
        ImportError: the package `liburing` is missing, or not what we know.
        OSError: the kernel refuses.
    """
    import liburing.liburing as binding  # deferred: the plugin can say what is missing

    library = binding.__file__
    if library is None:
        raise ImportError("liburing's compiled module has no file")
    return Ring(library, entries, buffers, buffer_size)


def obstacle() -> str | None:
    """None if a ring can be made here, else why not, with the cure."""
    try:
        make_ring(entries=2, buffers=2, buffer_size=4096).close()
    except ModuleNotFoundError:
        return f"the package liburing is not installed: {PACKAGE}"
    except ImportError as error:
        return f"the package liburing does not fit ({error}): {PACKAGE} --upgrade"
    except OSError as error:
        return _explain(error)
    return None


def _explain(error: OSError) -> str:
    if error.errno == errno.ENOSYS:
        return f"this kernel ({platform.release()}) has no io_uring; use tcp:// instead"
    if error.errno == errno.EPERM:
        setting = _setting()
        if setting in ("1", "2"):
            return (
                f"io_uring is switched off here (kernel.io_uring_disabled = {setting}): "
                "sysctl kernel.io_uring_disabled=0 as root allows it; or use tcp:// instead"
            )
        return (
            "io_uring is forbidden to this process, as container run-times do by seccomp: run it "
            "with a profile that allows io_uring_setup, io_uring_enter and io_uring_register; or "
            "use tcp:// instead"
        )
    if error.errno == errno.EINVAL:
        return (
            f"this kernel ({platform.release()}) lacks a part of io_uring: {KERNEL} or newer has "
            "it; use tcp:// instead"
        )
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return (
            f"no ring could be made ({os.strerror(error.errno)}): raise the limit (ulimit -n, -l)"
        )
    return f"no ring could be made: {error}"


def _setting() -> str:
    try:
        return DISABLED.read_text().strip()
    except OSError:
        return ""
