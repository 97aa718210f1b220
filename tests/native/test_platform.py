"""The core's system calls: Linux's and those of POSIX keep the same promises, alone and under the core."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.native.test_log_power import RENAMED

if TYPE_CHECKING:
    from tests.native.conftest import RunC

SOURCES = Path(__file__).parents[2] / "hermes" / "native" / "src"
PORTABLE = ("HM_PORTABLE=1",)
LINUX = re.compile(
    r"<sys/(epoll|eventfd|prctl|random|signalfd|timerfd|inotify|sendfile|syscall|vfs)\.h>|<linux/"
    r"|\b(epoll_\w+|eventfd|prctl|getrandom|syncfs|ppoll|posix_fallocate|fallocate|accept4|pipe2"
    r"|sync_file_range|memfd_create|splice|gettid|syscall|pthread_condattr_setclock)\("
    r"|\b(MADV_POPULATE_\w+|MADV_HUGEPAGE|CLOCK_BOOTTIME|O_DIRECT|O_TMPFILE|EFD_\w+|/proc/)\b"
)
"""Headers, calls and names that POSIX does not have, or not every system that has POSIX."""
COMMENT = re.compile(r"/\*.*?\*/", re.S)


@pytest.mark.parametrize("defines", [(), PORTABLE], ids=["linux", "portable"])
def test_both_keep_their_promises(run_c: RunC, defines: tuple[str, ...], tmp_path: Path) -> None:
    """Events, waits, files and looks at selectors do what hm_platform.h says."""
    said = run_c("platform.c", tmp_path / "file", sanitizer="address,undefined", defines=defines)

    assert said == "all promises kept\n"


def test_a_flusher_loses_nothing_without_linux(run_c: RunC) -> None:
    """Threads, sockets and events of POSIX alone carry every message through reconnects."""
    run_c("outbox_threads.c", "20000", "500", "7", sanitizer="thread", defines=PORTABLE)


def test_a_log_survives_power_losses_without_linux(run_c: RunC, tmp_path: Path) -> None:
    """Files, syncs and conditions of POSIX alone keep what a finished sync covered."""
    run_c(
        *("log_power.c", tmp_path, "3", "60"),
        sanitizer="address,undefined",
        defines=(*RENAMED, *PORTABLE),
    )


def test_one_file_knows_linux() -> None:
    """No file of the core but hm_platform.c makes a call that POSIX does not have."""
    found = {
        f"{file.relative_to(SOURCES)}: {match[0]}"
        for file in [*SOURCES.rglob("*.c"), *SOURCES.rglob("*.h")]
        for match in LINUX.finditer(COMMENT.sub("", file.read_text()))
        if file.name != "hm_platform.c"
    }

    assert found == set()
