"""Syncing: what is said to be on disk was asked for, and nothing is promised without a disk."""

from __future__ import annotations

import time

import pytest

from hermes.errors import UsageError
from hermes.testing.contract import needs, raises
from hermes.testing.resources import dirty_bytes
from hermes.testing.scribe import Scribe, sync
from hermes.testing.storage.contract import Contract, Ground

SYNCED_BYTES = 2 << 20
"""Bytes that a sync has to write: much more than a log's spares and indexes."""


MOVING_S = 1.0
"""For copies under way: a write-ahead log that is on the disk may be moved into place meanwhile.  The
system itself begins to write what nobody has synced after several seconds."""


def _dirty(ground: Ground) -> int:
    """Bytes of the place that are not on the disk."""
    found = [dirty_bytes(path) for path in ground.files()]
    if None in found:
        pytest.skip("this kernel does not tell what is not on the disk yet (Linux 6.5 does)")
    return sum(count or 0 for count in found)


class SyncingContract(Contract):
    """``sync_begin``, ``events`` and ``synced_sequence``."""

    @needs("durable")
    def test_a_sync_covers_what_was_appended_before(self, scribe: Scribe) -> None:
        """A sync ends, within the deadline, and status() says what it covers, never more."""
        for _ in range(5):
            scribe.append([100, 2000])
            sync(scribe.log, scribe.next_sequence - 1, self.deadline_s)
            assert scribe.log.status().synced_sequence == scribe.next_sequence - 1

        scribe.check()

    @needs("durable", "persistent")
    def test_a_sync_reaches_the_disk(self, ground: Ground) -> None:
        """When a sync has ended, the system has written what was appended: its cache holds little
        of it that is not on the disk."""
        scribe = Scribe(ground.log(ground.open()), self.deadline_s)
        while scribe.end < SYNCED_BYTES:
            scribe.append([8000])
        sync(scribe.log, scribe.next_sequence - 1, self.deadline_s)

        end = time.monotonic() + MOVING_S
        while (dirty := _dirty(ground)) >= SYNCED_BYTES // 2 and time.monotonic() < end:
            time.sleep(0.005)
        assert dirty < SYNCED_BYTES // 2, (
            "StreamLog.sync_begin: everything appended so far reaches the disk; of "
            f"{SYNCED_BYTES} bytes the system has {dirty} that it has not written"
        )

    @needs("durable")
    def test_many_syncs_at_once(self, scribe: Scribe) -> None:
        """Asked again before it has ended, it still ends, and the last request holds."""
        for _ in range(20):
            scribe.append([500])
            scribe.log.sync_begin()
            scribe.log.sync_begin()
            assert scribe.log.status().synced_sequence < scribe.next_sequence

        sync(scribe.log, scribe.next_sequence - 1, self.deadline_s)

    @needs("durable")
    def test_an_empty_log_can_be_synced(self, scribe: Scribe) -> None:
        """A sync of an empty log ends, and covers nothing."""
        sync(scribe.log, 0, self.deadline_s)

        assert scribe.log.status().synced_sequence == 0

    @needs("!durable")
    def test_nothing_is_promised_without_a_disk(self, scribe: Scribe) -> None:
        """A sync is refused, and nothing is said to be synced."""
        scribe.append([100])

        with raises(UsageError, "StreamLog.sync_begin: a storage that is not durable refuses"):
            scribe.log.sync_begin()
        assert scribe.log.status().synced_sequence == 0
