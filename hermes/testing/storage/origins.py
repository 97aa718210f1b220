"""Origins: the log remembers each message's publisher and its number there, so that nothing is kept
twice."""

from __future__ import annotations

import random
from dataclasses import replace

from hermes.spi.storage import Storage
from hermes.testing.contract import needs
from hermes.testing.scribe import SETTINGS, Scribe
from hermes.testing.storage.contract import Contract, Ground

PUBLISHERS = [bytes([number]) * 16 for number in range(1, 40)]


def build(scribe: Scribe) -> None:
    """Appends of many publishers, and of nobody."""
    chance = random.Random(13)
    for _ in range(300):
        scribe.append([chance.choice([0, 300])], publisher=chance.choice([None, *PUBLISHERS]))


def check(scribe: Scribe) -> None:
    """Assert that the log knows the last sequence of every publisher."""
    for publisher in PUBLISHERS:
        expected = scribe.publishers.get(publisher, 0)
        found = scribe.log.publisher_sequence(publisher)
        assert found == expected, (
            f"publisher_sequence() says {found} of {publisher.hex()}, whose last message is "
            f"{expected}"
        )


class OriginsContract(Contract):
    """``publisher_sequence``."""

    def test_each_publisher_is_known_by_itself(self, scribe: Scribe) -> None:
        """The last sequence of every publisher is known, of strangers none."""
        build(scribe)

        check(scribe)
        assert scribe.log.publisher_sequence(b"stranger-stranger"[:16]) == 0

    def test_an_append_of_several_counts_them_all(self, scribe: Scribe) -> None:
        """A batch moves its publisher forward by all its messages; gaps in a publisher's sequences
        are allowed."""
        scribe.append([10] * 7, publisher=PUBLISHERS[0])
        scribe.publishers[PUBLISHERS[0]] += 100
        scribe.append([10] * 3, publisher=PUBLISHERS[0])

        assert scribe.log.publisher_sequence(PUBLISHERS[0]) == 110

    def test_a_trim_forgets_no_publisher(self, ground: Ground, storage: Storage) -> None:
        """A trim removes messages, and the last sequences of their publishers stay."""
        small = replace(SETTINGS, retention_bytes=200_000)
        scribe = Scribe(ground.log(storage, settings=small), self.deadline_s)
        build(scribe)
        while scribe.log.status().first_sequence <= 300:
            scribe.fill(20, 5000)
            scribe.log.trim(scribe.time_ns)

        check(scribe)

    @needs("persistent")
    def test_a_trim_and_a_restart_forget_no_publisher(self, ground: Ground) -> None:
        """Publishers whose messages have all gone are known after closing and opening."""
        small = replace(SETTINGS, retention_bytes=200_000)
        storage = ground.open()
        scribe = Scribe(ground.log(storage, settings=small), self.deadline_s)
        build(scribe)
        while scribe.log.status().first_sequence <= 300:
            scribe.fill(20, 5000)
            scribe.log.trim(scribe.time_ns)
        scribe.log.close()
        storage.close()

        scribe.log = ground.log(ground.open(), settings=small)
        check(scribe)

    @needs("persistent")
    def test_a_restart_forgets_no_publisher(self, ground: Ground) -> None:
        """After closing and opening everybody is known as before."""
        storage = ground.open()
        scribe = Scribe(ground.log(storage), self.deadline_s)
        build(scribe)
        scribe.log.close()
        storage.close()

        scribe.log = ground.log(ground.open())
        check(scribe)
        scribe.append([1], publisher=PUBLISHERS[3])
        check(scribe)
