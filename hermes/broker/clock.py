"""The broker's clock: what append times and ages are told by, whatever becomes of the wall clock.

Runs on ``CLOCK_BOOTTIME``, which cannot be set and counts while the machine is suspended; the wall
clock only says by how much the two differ.  A sudden change of that difference is believed when it has
lasted: a time server that errs for some seconds, or a virtual machine that wakes up, harms nothing.

Two judges, because the harm differs.  :meth:`Clock.now_ns` stamps appends, and follows the wall clock
within a minute at the latest.  :meth:`Clock.age_ns` decides what is old enough to be deleted, which
nothing can undo: it believes a step the later, the larger the step is.

Knows no stream and no timer: somebody calls :meth:`Clock.watch` several times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable

NS_PER_S = 1_000_000_000
WATCH_NS = NS_PER_S // 4
"""How often :meth:`Clock.watch` is called."""
SLEW_NS = NS_PER_S // 10
"""A difference between two looks that is no step: NTP changes a clock's rate by 0.05 % at most."""
SETTLE_NS = 3 * NS_PER_S
"""How long a step must have lasted to be believed, at least."""
STAMP_SETTLE_MAX_NS = 60 * NS_PER_S
"""And at most, for append times."""
DISTRUST = 7200
"""A step must have lasted as long as its size divided by this: two hours for 3 s, a year for 73
minutes, ten years for half a day."""
START_SETTLE_NS = NS_PER_S
"""How long a time long after the newest message must have lasted to be believed, when the broker
starts."""


class Difference:
    """How much the wall clock is ahead of ``CLOCK_BOOTTIME``, as far as that is believed, ns."""

    def __init__(self, value_ns: int, *, settle_max_ns: int | None) -> None:
        self.value_ns = value_ns
        self._settle_max_ns = settle_max_ns
        self._settle_ns = SETTLE_NS
        self._claimed_ns = value_ns
        self._since_ns: int | None = None

    def distrust(self, value_ns: int) -> None:
        """Go on from ``value_ns`` at the start, until what the wall clock says has lasted."""
        self.value_ns = value_ns
        self._settle_ns = START_SETTLE_NS

    def look(self, claimed_ns: int, boot_ns: int) -> bool:
        """Take note of what the wall clock claims now; whether it is believed from now on, after a
        step."""
        step_ns = abs(claimed_ns - self.value_ns)
        if step_ns <= SLEW_NS:
            self.value_ns = claimed_ns
            self._since_ns = None
            return False
        if self._since_ns is None or abs(claimed_ns - self._claimed_ns) > SLEW_NS:
            self._since_ns = boot_ns
        self._claimed_ns = claimed_ns
        needed_ns = max(self._settle_ns, step_ns // DISTRUST)
        if self._settle_max_ns is not None:
            needed_ns = min(needed_ns, self._settle_max_ns)
        if boot_ns - self._since_ns < needed_ns:
            return False
        self.value_ns = claimed_ns
        self._since_ns = None
        self._settle_ns = SETTLE_NS
        return True


class Clock:
    """One broker's clock.  ``wall_ns`` and ``boot_ns`` read the two clocks of the machine."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        boot_ns: Callable[[], int] | None = None,
    ) -> None:
        self._wall_ns = wall_ns
        self._boot_ns = boot_ns or (lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        difference = self._wall_ns() - self._boot_ns()
        self._stamps = Difference(difference, settle_max_ns=STAMP_SETTLE_MAX_NS)
        self._ages = Difference(difference, settle_max_ns=None)

    @property
    def offset_ns(self) -> int:
        """Nanoseconds that :meth:`now_ns` adds to ``CLOCK_BOOTTIME``; native code adds them itself."""
        return self._stamps.value_ns

    def now_ns(self) -> int:
        """The time that is stamped on appends: nanoseconds since 1970."""
        return self._boot_ns() + self._stamps.value_ns

    def age_ns(self) -> int:
        """The time by which ages are judged; behind :meth:`now_ns` as long as a step is doubted."""
        return self._boot_ns() + self._ages.value_ns

    def newest(self, time_ns: int) -> None:
        """The newest message of a stream was appended at ``time_ns``: if that is long ago, the wall
        clock may be wrong, so ages are judged as of then until its time has lasted."""
        behind_ns = self.age_ns() - time_ns
        if time_ns and behind_ns > SLEW_NS:
            self._ages.distrust(self._ages.value_ns - behind_ns)

    def watch(self) -> int | None:
        """Compare the clocks; by how many nanoseconds :meth:`now_ns` has just stepped, if it has."""
        boot_ns = self._boot_ns()
        claimed_ns = self._wall_ns() - boot_ns
        before_ns = self._stamps.value_ns
        self._ages.look(claimed_ns, boot_ns)
        if self._stamps.look(claimed_ns, boot_ns):
            return self._stamps.value_ns - before_ns
        return None
