"""Named state: small, replaced as a whole."""

from __future__ import annotations

import random
import threading

from hermes.spi.storage import Storage
from hermes.testing.compare import same
from hermes.testing.contract import needs
from hermes.testing.scribe import Scribe
from hermes.testing.storage.contract import Contract, Ground
from hermes.testing.storagepeer import STATE_SIZE, Peer, state_of

KILLS = 4


class StateContract(Contract):
    """Promises of ``load_state`` and ``save_state``."""

    def test_what_is_saved_is_loaded(self, storage: Storage) -> None:
        """Each name has what it was last given; others have nothing."""
        large = random.Random(1).randbytes(1 << 20)
        storage.save_state("positions", b"one")
        storage.save_state("other", large)
        storage.save_state("positions", b"")
        storage.save_state("positions", b"\x00two")

        assert storage.load_state("positions") == b"\x00two"
        assert same(storage.load_state("other"), large)
        assert storage.load_state("nothing") is None

    def test_it_is_saved_beside_the_appends(self, storage: Storage, scribe: Scribe) -> None:
        """Another thread saves state while this one appends: neither harms the other."""
        problems: list[BaseException] = []

        def save() -> None:
            try:
                for number in range(50):
                    storage.save_state("positions", b"%d" % number)
            except BaseException as error:  # shown in the test's own thread
                problems.append(error)

        thread = threading.Thread(target=save)
        thread.start()
        while thread.is_alive():
            scribe.append([100])
        thread.join()

        assert not problems, f"save_state() from another thread failed: {problems[0]!r}"
        assert storage.load_state("positions") == b"49"
        scribe.check()

    @needs("persistent")
    def test_it_outlives_the_storage(self, ground: Ground) -> None:
        """Saved state is there when the place is opened again."""
        storage = ground.open()
        storage.save_state("positions", b"kept")
        storage.close()

        again = ground.open()
        assert again.load_state("positions") == b"kept"
        assert "positions" not in again.streams(), "state is no stream"

    @needs("persistent")
    def test_a_save_that_fails_leaves_the_old(self, ground: Ground) -> None:
        """State is replaced as a whole: when the system refuses to write all of the new one, the
        old one is there."""
        with Peer(self, ground, "save_limited") as peer:
            said = peer.line()
        if said != "saved":  # a storage without files meets no limit
            assert said.startswith("refused Storage"), (
                "Storage.save_state: what cannot be written raises StorageFull or StorageFailed; the "
                f"process said {said!r}"
            )

        state = ground.open().load_state("positions")
        assert same(state, state_of(2 if said == "saved" else 1)), (
            "Storage.save_state: it replaces named state atomically; after a save that was refused "
            f"{'nothing' if state is None else f'{len(state)} bytes of something else'} is there"
        )

    @needs("persistent")
    def test_a_kill_leaves_the_old_or_the_new(self, ground: Ground) -> None:
        """Killed while it saves, it leaves one whole state, no older than the last that was
        saved."""
        saved = 0
        for number in range(KILLS):
            with Peer(self, ground, "save", str(saved)) as peer:
                for _ in range(3 + 7 * number):
                    saved = int(peer.line())
                saved = peer.last_number(saved)
            storage = ground.open()
            state = storage.load_state("positions")
            storage.close()
            assert state is not None
            assert len(state) == STATE_SIZE
            found = int.from_bytes(state[:8], "little")
            assert same(state, state_of(found)), "half of one state and half of another"
            assert found in (saved, saved + 1), f"{saved} was saved, {found} is there"
            saved = found
