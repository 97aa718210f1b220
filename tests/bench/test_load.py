"""Load from elsewhere is seen; our own is not."""

from __future__ import annotations

import subprocess
import sys
import time

from hermes.bench.load import Watch

SECONDS = 0.6
LOOKS_MAX = 30
BUSY = (sys.executable, "-c", "print(flush=True)\nwhile True: pass  # a program beside us")


def watched(*, ours: bool) -> tuple[float, str]:
    """A watch's report of a process that computes, which is one of ours or not."""
    with subprocess.Popen(BUSY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        watch = Watch([process.pid] if ours else [])
        time.sleep(SECONDS)
        found = watch.stop()
        process.kill()
    return found.share, found.culprit


def test_a_busy_program_is_load_from_elsewhere() -> None:
    """A busy program is counted and, where it took most, named; counted as ours it is neither."""
    for _ in range(LOOKS_MAX):  # where many compute it may get less than is worth naming
        share, culprit = watched(ours=False)
        if culprit:
            break
    ours, not_culprit = watched(ours=True)

    assert share > 0.02
    assert culprit  # "a program beside us", or somebody who has taken even more
    assert ours < share or ours > 0.5  # unless the whole machine is busy with others
    assert "a program beside us" not in not_culprit
