"""Load from elsewhere while something is measured: who else used the processors, and how much.

What all processors did (``/proc/stat``), less what our processes did, less the kernel's own threads
(they write our logs back); plus what the host took away (steal).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hermes.bench.stage import cpu_ns

DISTURBED = 0.10
"""Share of all cores that others may use before a row is marked."""
BUSY_FIELDS = (0, 1, 2, 5, 6)
"""Columns of the first line of /proc/stat: user, nice, system, irq, softirq."""
STEAL_FIELD = 7
KERNEL_THREADS = 2
"""Process id of their parent."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Processor time that other programs took, as shares of all cores."""

    share: float
    steal: float
    culprit: str
    """Command of the process that took most; empty: none took much."""

    @property
    def disturbed(self) -> bool:
        """Whether it is too much."""
        return self.share + self.steal > DISTURBED


NOBODY = Elsewhere(0.0, 0.0, "")
"""The value for a pass that was not watched."""


class Watch:
    """Looks at the processors from when it is made; ``ours``: process ids beside this one."""

    def __init__(self, ours: Iterable[int]) -> None:
        self._ours = {os.getpid(), *ours}
        self._before = self._now()
        self._since_ns = time.monotonic_ns()

    def stop(self) -> Elsewhere:
        """Return the processor time that other programs took meanwhile."""
        wall_ns = max(1, time.monotonic_ns() - self._since_ns)
        busy, steal, mine, foreign, kernel = self._now()
        busy0, steal0, mine0, foreign0, kernel0 = self._before
        whole = wall_ns * (os.cpu_count() or 1)
        took = {pid: ns - foreign0.get(pid, ns) for pid, ns in foreign.items()}
        most = max(took, key=lambda pid: took[pid], default=0)
        elsewhere = (busy - busy0) - (mine - mine0) - (kernel - kernel0)
        return Elsewhere(
            share=min(1.0, max(0.0, elsewhere / whole)),
            steal=min(1.0, max(0.0, (steal - steal0) / whole)),
            culprit=_command(most) if took and took[most] > DISTURBED * wall_ns else "",
        )

    def _now(self) -> tuple[int, int, int, dict[int, int], int]:
        """ns so far: all cores busy, stolen, of ours, of each other process, of the kernel."""
        tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        try:
            fields = [
                int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]
            ]
        except (OSError, ValueError):
            fields = []
        fields += [0] * (STEAL_FIELD + 1 - len(fields))
        foreign, kernel = {}, 0
        for pid in _processes():
            if pid in self._ours:
                continue
            if _is_kernel(pid):
                kernel += cpu_ns(pid)
            else:
                foreign[pid] = cpu_ns(pid)
        return (
            sum(fields[number] for number in BUSY_FIELDS) * tick,
            fields[STEAL_FIELD] * tick,
            sum(map(cpu_ns, self._ours)),
            foreign,
            kernel,
        )


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - per pass


def _is_kernel(pid: int) -> bool:
    with contextlib.suppress(OSError, ValueError, IndexError):
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        return pid == KERNEL_THREADS or int(parent) == KERNEL_THREADS
    return False


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return " ".join(words).strip()[:60]
    return ""
