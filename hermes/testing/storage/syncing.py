"""Syncing: what is said to be on disk was asked for, and nothing is promised without a disk."""

from __future__ import annotations

import pytest

from hermes.errors import UsageError
from hermes.testing.contract import needs
from hermes.testing.scribe import Scribe, sync
from hermes.testing.storage.contract import Contract


class SyncingContract(Contract):
    """``sync_begin``, ``events`` and ``synced_sequence``."""

    @needs("durable")
    def test_a_sync_covers_what_was_appended_before(self, scribe: Scribe) -> None:
        """It ends, within the deadline, and status() says what it covers, never more."""
        for _ in range(5):
            scribe.append([100, 2000])
            sync(scribe.log, scribe.next_sequence - 1, self.deadline_s)
            assert scribe.log.status().synced_sequence == scribe.next_sequence - 1

        scribe.check()

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
        """Nothing is on disk soon."""
        sync(scribe.log, 0, self.deadline_s)

        assert scribe.log.status().synced_sequence == 0

    @needs("!durable")
    def test_nothing_is_promised_without_a_disk(self, scribe: Scribe) -> None:
        """A sync is refused, and nothing is said to be synced."""
        scribe.append([100])

        with pytest.raises(UsageError):
            scribe.log.sync_begin()
        assert scribe.log.status().synced_sequence == 0
