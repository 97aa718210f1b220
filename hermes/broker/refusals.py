"""Refusals of messages for want of storage, in the broker's log.

Each client gets an error of its own.  The log has a line once in a while, and one when messages are
taken again.
"""

from __future__ import annotations

import logging
import time

from hermes.base.rlimits import limited
from hermes.native.envelopes import EFILES, EFSIZE, EMAPS, error_text
from hermes.spi.storage import Storage

LOG = logging.getLogger("hermes.broker")

CAUSES = {
    "storage_full": "it is full: make room on its disk, or keep less (retention)",
    "storage_failed": "an I/O error: look at its disk, then start the broker again",
}
"""Refusals that the operator has to do something about, and what that is."""
MACHINE_LIMITS = (EFILES, EMAPS, EFSIZE)
"""Refusals for want of something else than space on a disk: the core's text says of what."""
TELL_NS = 60 * 1_000_000_000
"""How often the log says that messages are refused, at most: every client may be, again and again."""
ROOM_NS = 1_000_000_000
"""How long no message may have been refused before the log says that messages are taken again."""


class Refusals:
    """The refusals for want of storage.  Belongs to the loop's thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._told_ns = -TELL_NS
        self._refused_ns = 0  # when a message was refused last; 0: not since room was reported
        self._room = False

    def refused(self, code: str, error: int) -> None:
        """A message was refused with the protocol's ``code`` and the core's ``error``."""
        now_ns = time.monotonic_ns()
        if code not in CAUSES:
            return
        self._refused_ns, self._room = now_ns, False
        if now_ns < self._told_ns + TELL_NS:
            return
        self._told_ns = now_ns
        why = error_text(error) if -error in MACHINE_LIMITS else CAUSES[code]
        why += limited("RLIMIT_FSIZE") if -error not in MACHINE_LIMITS else ""
        LOG.error("%s refuses messages: %s", self._storage.url, why)

    def room(self) -> None:
        """A log has room again."""
        self._room = self._refused_ns > 0

    def tell_of_room(self) -> None:
        """Say that what was missing is there again, once no message has been refused for a while."""
        if self._room and time.monotonic_ns() >= self._refused_ns + ROOM_NS:
            self._room, self._told_ns, self._refused_ns = False, -TELL_NS, 0
            LOG.warning("%s takes messages again", self._storage.url)
