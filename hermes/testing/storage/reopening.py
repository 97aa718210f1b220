"""Reopening: a clean close keeps everything."""

from __future__ import annotations

import random

from hermes.testing.contract import needs
from hermes.testing.scribe import MESSAGE_MAX, Scribe
from hermes.testing.storage.contract import Contract, Ground

ROUNDS = 4


class ReopeningContract(Contract):
    """Content of a place that is opened again."""

    @needs("persistent")
    def test_everything_is_there_again(self, ground: Ground) -> None:
        """Frames, sequences, positions and times are as they were, and the next append goes on."""
        chance = random.Random(17)
        scribe: Scribe | None = None
        for _ in range(ROUNDS):
            storage = ground.open()
            log = ground.log(storage)
            if scribe is None:
                scribe = Scribe(log, self.deadline_s)
            scribe.log = log
            scribe.forget()
            scribe.check()
            for message in scribe.kept:
                assert tuple(log.locate(message.sequence)) == scribe.at(message.sequence)
            for _ in range(30):
                scribe.append([chance.randrange(MESSAGE_MAX) for _ in range(chance.choice([1, 4]))])
            middle = scribe.kept[len(scribe.kept) // 2]
            assert log.locate_time(middle.time_ns).first_sequence <= middle.sequence
            log.close()
            storage.close()

    @needs("persistent")
    def test_an_empty_stream_is_a_stream(self, ground: Ground) -> None:
        """A stream that was opened and never written to is listed, and empty, after a restart."""
        storage = ground.open()
        ground.log(storage, "quiet").close()
        storage.close()

        again = ground.open()
        assert again.streams() == ["quiet"]
        assert ground.log(again, "quiet").status().next_sequence == 1

    @needs("persistent")
    def test_a_log_that_was_not_closed(self, ground: Ground) -> None:
        """A copy of the files of a log in use, which is what a backup has, holds all that the log
        had."""
        storage = ground.open()
        scribe = Scribe(ground.log(storage), self.deadline_s)
        scribe.fill(200, 900)
        copy = ground.copy()
        scribe.fill(10, 900)

        other = Scribe(copy.log(copy.open()), self.deadline_s)
        other.messages = scribe.messages[:200]
        other.check()

    @needs("!persistent")
    def test_nothing_outlives_the_storage(self, ground: Ground) -> None:
        """A place that claims to keep nothing is empty when it is opened again."""
        storage = ground.open()
        Scribe(ground.log(storage), self.deadline_s).fill(10)
        storage.save_state("positions", b"1")
        storage.close()

        again = ground.open()
        assert again.streams() == []
        assert again.load_state("positions") is None
