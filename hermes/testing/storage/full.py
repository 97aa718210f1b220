"""Full: an append that finds no room is refused, and nothing else changes."""

from __future__ import annotations

import contextlib

from hermes.errors import StorageFull
from hermes.testing.contract import needs, raises
from hermes.testing.scribe import EPOCH_NS, SETTINGS, Scribe
from hermes.testing.storage.contract import Contract, Ground
from hermes.testing.storagepeer import PUBLISHER, Peer

QUOTA = 3 << 20
"""Bytes of the small place."""


class FullContract(Contract):
    """A bound that is reached."""

    def fill(self, scribe: Scribe) -> None:
        """Append until the log refuses; the record is what was taken."""
        with raises(StorageFull, "StreamLog.append: a full place raises StorageFull"):
            for _ in range(2 * QUOTA // 4000):
                scribe.append([4000])
        taken = scribe.log.status().next_sequence - 1
        assert taken in (scribe.next_sequence - 1, scribe.next_sequence)
        assert taken > 0, "not even one message was taken"

    @needs("quota")
    def test_a_full_place_refuses_and_serves(self, ground: Ground) -> None:
        """Appends are refused with StorageFull, again and again; what is there is read."""
        storage = ground.open(**self.quota(QUOTA))
        scribe = Scribe(ground.log(storage), self.deadline_s)
        self.fill(scribe)

        for _ in range(3):
            with raises(StorageFull, "StreamLog.append: a full place raises StorageFull"):
                scribe.append([4000] * 8)
        scribe.check()
        used = sum(path.stat().st_blocks * 512 for path in ground.files())
        assert used <= 3 * QUOTA, f"{used} bytes are taken on the disk, the bound is {QUOTA}"

    @needs("quota")
    def test_a_refused_append_changes_nothing(self, ground: Ground) -> None:
        """An append that does not fit is refused whole; a smaller one that fits gets the sequence
        and the position that the refused one would have had."""
        storage = ground.open(**self.quota(QUOTA))
        scribe = Scribe(ground.log(storage), self.deadline_s)
        with raises(StorageFull, "StreamLog.append: a full place raises StorageFull"):
            while scribe.end < 2 * QUOTA:
                scribe.append([4000] * 10, publisher=PUBLISHER)

        state = scribe.log.status()
        assert (state.next_sequence, state.end_position) == (scribe.next_sequence, scribe.end), (
            "StreamLog.append: all of the messages are kept or none; ten were refused, and status() "
            f"says {state}"
        )
        assert scribe.log.publisher_sequence(PUBLISHER) == scribe.publishers[PUBLISHER], (
            "StreamLog.publisher_sequence: a refused append moves no publisher forward"
        )
        for size in (4000, 400, 0):
            with contextlib.suppress(StorageFull):
                scribe.append([size], publisher=PUBLISHER)
        scribe.check()

    @needs("quota", "persistent")
    def test_room_ends_it(self, ground: Ground) -> None:
        """Opened with room again, it has all that was taken and takes more."""
        storage = ground.open(**self.quota(QUOTA))
        scribe = Scribe(ground.log(storage), self.deadline_s)
        self.fill(scribe)
        scribe.log.close()
        storage.close()

        scribe.log = ground.log(ground.open())
        scribe.check()
        scribe.fill(20, 4000)
        scribe.check()

    @needs("persistent")
    def test_a_file_that_may_not_grow(self, ground: Ground) -> None:
        """When the system refuses to let a file grow, appends are refused with what happened, what
        is there is read, and a restart finds it."""
        taken = 0
        with Peer(self, ground, "limited") as peer:
            while (said := peer.line()).isdigit():
                taken = int(said)
        assert said.startswith("refused Storage") or not ground.files(), (
            "StreamLog.append: what cannot be written raises StorageFull or StorageFailed; the "
            f"process said {said!r}"
        )

        scribe = Scribe(ground.log(ground.open(), settings=SETTINGS), self.deadline_s)
        assert scribe.next_sequence - 1 >= taken, (
            f"{taken} messages were taken, {scribe.next_sequence - 1} are there"
        )
        scribe.time_ns = max(scribe.time_ns, EPOCH_NS + 10**15)
        scribe.fill(3)
