"""Unexpected errors in serving one of many: counted and logged, so that the others are served on.

Part of the SPI: what a peer does or sends must end its own connection and nothing else, also where it
meets a defect.  So every loop over peers catches what one of them raises, hands it to a
:class:`Faults`, and ends that peer.  Knows no peer and no transport.
"""

from __future__ import annotations

import logging
import time

WINDOW_NS = 10_000_000_000
"""Time after which as many errors may be logged again."""
LOGGED_MAX = 4
"""Errors logged in that time, each with its traceback: a peer may cause them as fast as it likes."""


class Faults:
    """Counts the unexpected errors of one listener, or of the broker itself.

    One thread calls it.
    """

    def __init__(self, log: logging.Logger) -> None:
        self.count = 0
        """Errors caught so far."""
        self._log = log
        self._began_ns = 0
        self._logged = 0
        self._left_out = 0

    def caught(self, where: str, error: Exception) -> None:
        """``error`` came out of serving ``where``, which is about to be ended."""
        self.count += 1
        now_ns = time.monotonic_ns()
        if not self._began_ns or now_ns - self._began_ns >= WINDOW_NS:
            self._began_ns, self._logged = now_ns, 0
        if self._logged >= LOGGED_MAX:
            self._left_out += 1
            return
        self._logged += 1
        before = f" ({self._left_out} errors before it were not logged)" if self._left_out else ""
        self._left_out = 0
        self._log.error("%s: unexpected error%s", where, before, exc_info=error)
