"""The place: who owns it, which streams it has, and when it ends."""

from __future__ import annotations

import os
import re

from hermes.errors import Closed, DirectoryLocked
from hermes.spi.storage import Storage, StorageBackend
from hermes.testing.contract import needs, raises
from hermes.testing.scribe import SETTINGS, Scribe
from hermes.testing.storage.contract import Contract, Ground
from hermes.testing.storagepeer import Peer

OWNED = "StorageBackend.open: a place in use raises DirectoryLocked, which names its process"


class PlaceContract(Contract):
    """Opening, sharing and closing."""

    def test_a_new_place_is_empty(self, storage: Storage, scribe: Scribe) -> None:
        """A new place has no streams but those that are opened; a new stream begins at sequence 1
        and position 0."""
        state = scribe.log.status()

        assert storage.streams() == ["kit"]
        assert (state.first_sequence, state.next_sequence) == (1, 1)
        assert (state.start_position, state.end_position) == (0, 0)
        assert scribe.log.read(0, 1000) is None

    def test_streams_do_not_mix(self, ground: Ground, storage: Storage) -> None:
        """Each stream of a place has sequences, positions and publishers of its own."""
        scribes = [
            Scribe(ground.log(storage, name), self.deadline_s) for name in ("a", "b-2", "C_3")
        ]
        for number in range(30):
            scribe = scribes[number % 3]
            scribe.append([number] * (1 + number % 4), publisher=bytes([number % 3 + 1]) * 16)

        for scribe in scribes:
            scribe.check()
            for other in scribes:
                for publisher in other.publishers:
                    expected = scribe.publishers.get(publisher, 0)
                    assert scribe.log.publisher_sequence(publisher) == expected
        assert storage.streams() == sorted(["a", "b-2", "C_3"])

    def test_closing_twice_is_harmless(self, ground: Ground) -> None:
        """Log and storage may be closed again, and open nothing afterwards."""
        storage = ground.open()
        log = ground.log(storage)
        log.close()
        log.close()
        storage.close()
        storage.close()

        with raises(Closed, "Storage.open_stream: a storage that was closed opens nothing"):
            storage.open_stream("kit", SETTINGS, None)
        with raises(Closed, "StreamLog.status: a log that was closed has no bounds"):
            log.status()

    @needs("locks")
    def test_a_second_owner_is_refused(self, backend: StorageBackend, ground: Ground) -> None:
        """Opening a place that is in use raises an error that names its owner, and harms
        nothing."""
        storage = ground.open()
        scribe = Scribe(ground.log(storage), self.deadline_s)
        scribe.fill(3)

        with raises(DirectoryLocked, OWNED, match=re.escape(str(os.getpid()))):
            backend.open(ground.url())
        scribe.fill(3)
        scribe.check()
        scribe.log.close()
        storage.close()
        ground.open().close()

    @needs("locks")
    def test_another_process_is_refused_until_its_owner_is_gone(
        self, backend: StorageBackend, ground: Ground
    ) -> None:
        """A lock holds across processes, names its owner, and dies with it: nobody has to clean
        up."""
        with Peer(self, ground, "hold") as peer:
            peer.expect("ready")
            with raises(DirectoryLocked, OWNED, match=re.escape(str(peer.pid))):
                backend.open(ground.url())
            peer.kill()

        ground.open().close()
