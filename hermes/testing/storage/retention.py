"""Retention: the oldest messages go, by bytes and by age, and what is left is as before."""

from __future__ import annotations

from dataclasses import replace

from hermes.native import Hole
from hermes.spi.storage import Storage
from hermes.testing.contract import needs
from hermes.testing.scribe import SEGMENT, SETTINGS, Scribe
from hermes.testing.storage.contract import Contract, Ground

KEEP = 8 * SEGMENT
SECOND = 10**9


class RetentionContract(Contract):
    """``trim``."""

    def by_bytes(self, ground: Ground, storage: Storage) -> Scribe:
        """A log that keeps little."""
        settings = replace(SETTINGS, retention_bytes=KEEP)
        return Scribe(ground.log(storage, settings=settings), self.deadline_s)

    def test_bytes_are_bounded(self, ground: Ground, storage: Storage) -> None:
        """After a trim no more is kept than was asked for, and not much less; what is kept can be
        read."""
        scribe = self.by_bytes(ground, storage)
        while scribe.end < 3 * KEEP:
            scribe.fill(10, 1000)
            scribe.log.trim(scribe.time_ns)
            scribe.forget()
            assert scribe.kept_bytes <= KEEP, "more is kept than retention allows"
            assert scribe.kept_bytes >= min(scribe.end, KEEP // 2), "far too much has gone"

        assert scribe.start > 0
        scribe.check()

    def test_what_has_gone_is_said_to_be_gone(self, ground: Ground, storage: Storage) -> None:
        """A read before the oldest message leads to it, and so does a start."""
        scribe = self.by_bytes(ground, storage)
        while scribe.end < 2 * KEEP:
            scribe.fill(10, 1000)
        scribe.log.trim(scribe.time_ns)
        scribe.forget()
        oldest = scribe.kept[0]

        found = scribe.log.read(0, 1000)
        expected = Hole(oldest.position, oldest.sequence, gone=True)
        assert found == expected, (
            f"StreamLog.read: where messages have gone it answers {expected}, which says where to go "
            f"on; the answer was {found}"
        )
        assert tuple(scribe.log.locate(1)) == (oldest.position, oldest.sequence)
        assert tuple(scribe.log.locate_time(0)) == (oldest.position, oldest.sequence)

    def test_age_is_bounded(self, ground: Ground, storage: Storage) -> None:
        """Messages older than was asked for are removed, nothing younger is, and the last may be
        removed too; numbering goes on."""
        settings = replace(SETTINGS, retention_ns=60 * SECOND)
        scribe = Scribe(ground.log(storage, settings=settings), self.deadline_s)
        scribe.fill(200, 1000)
        scribe.time_ns += 40 * SECOND
        scribe.fill(200, 1000)
        now_ns = scribe.time_ns + 30 * SECOND

        scribe.log.trim(now_ns)
        scribe.forget()
        young = [m for m in scribe.messages if m.time_ns >= now_ns - 60 * SECOND]
        assert len(scribe.kept) >= len(young), "messages younger than the age have gone"
        assert scribe.start > 0, "nothing that is too old has gone"
        scribe.check()

        scribe.time_ns = now_ns + 300 * SECOND
        for _ in range(3):  # some logs need a second look
            scribe.log.trim(scribe.time_ns)
        scribe.forget()
        assert not scribe.kept, "a quiet stream keeps its old messages for ever"
        scribe.fill(3)
        scribe.check()

    def test_age_takes_nothing_too_young(self, ground: Ground, storage: Storage) -> None:
        """A message stays until it is older than was asked for, whatever is trimmed when."""
        settings = replace(SETTINGS, retention_ns=60 * SECOND)
        scribe = Scribe(ground.log(storage, settings=settings), self.deadline_s)
        for _ in range(400):
            scribe.time_ns += SECOND // 20
            scribe.append([1000])

        for step in range(100):
            now_ns = scribe.messages[0].time_ns + 60 * SECOND + step * SECOND // 5
            scribe.log.trim(now_ns)
            scribe.forget()
            oldest = next(m for m in scribe.messages if m.time_ns >= now_ns - 60 * SECOND)
            assert scribe.log.status().first_sequence <= oldest.sequence, (
                f"LogSettings.retention_ns: message {oldest.sequence} is "
                f"{(now_ns - oldest.time_ns) / SECOND:.2f} s old and has gone; 60 s were asked for"
            )

    def test_no_retention_keeps_everything(self, scribe: Scribe) -> None:
        """A trim takes nothing that nobody asked it to take."""
        scribe.fill(400, 1000)
        scribe.log.trim(scribe.time_ns + 10**18)

        scribe.forget()
        assert scribe.start == 0
        scribe.check()

    @needs("persistent")
    def test_what_has_gone_stays_gone(self, ground: Ground) -> None:
        """A restart brings nothing back, and takes nothing more."""
        storage = ground.open()
        scribe = self.by_bytes(ground, storage)
        while scribe.end < 2 * KEEP:
            scribe.fill(10, 1000)
        scribe.log.trim(scribe.time_ns)
        scribe.forget()
        before = scribe.start
        scribe.log.close()
        storage.close()

        settings = replace(SETTINGS, retention_bytes=KEEP)
        scribe.log = ground.log(ground.open(), settings=settings)
        scribe.forget()
        assert scribe.start == before
        scribe.check()
