"""Lookup: a start by sequence or by time."""

from __future__ import annotations

import random

from hermes.testing.scribe import EPOCH_NS, TICK_NS, Scribe
from hermes.testing.storage.contract import Contract

FAR = 1 << 60


def build(scribe: Scribe) -> None:
    """Appends of many kinds, in some segments."""
    chance = random.Random(11)
    for _ in range(120):
        count = chance.choice([1, 1, 2, 7])
        scribe.append([chance.choice([0, 50, 800, 5000]) for _ in range(count)])


class LookupContract(Contract):
    """``locate`` and ``locate_time``."""

    def test_every_sequence_has_its_place(self, scribe: Scribe) -> None:
        """A sequence is found where it was appended; before the oldest is the oldest, after the
        newest the end."""
        build(scribe)

        for sequence in [0, *(m.sequence for m in scribe.kept), scribe.next_sequence, FAR]:
            assert tuple(scribe.log.locate(sequence)) == scribe.at(sequence), (
                f"locate({sequence}) is wrong"
            )

    def test_an_empty_log_has_one_place(self, scribe: Scribe) -> None:
        """Everything leads to its end, which is its beginning."""
        for place in (scribe.log.locate(1), scribe.log.locate(9), scribe.log.locate_time(EPOCH_NS)):
            assert tuple(place) == (0, 1)

    def test_a_time_is_never_late(self, scribe: Scribe) -> None:
        """A start by time misses no message appended at that time or later, and begins no earlier
        than with the append that stood before."""
        build(scribe)
        kept = scribe.kept
        for time_ns in range(EPOCH_NS, scribe.time_ns + 3 * TICK_NS, TICK_NS // 2):
            place = scribe.log.locate_time(time_ns)
            wanted = next((m for m in kept if m.time_ns >= time_ns), None)
            latest = scribe.next_sequence if wanted is None else wanted.sequence
            earlier = [m.first for m in kept if m.time_ns < time_ns]
            earliest = earlier[-1] if earlier else 1
            assert earliest <= place.first_sequence <= latest, (
                f"locate_time({time_ns}) leads to sequence {place.first_sequence}, expected "
                f"{earliest} to {latest}"
            )
            assert tuple(place) == scribe.at(place.first_sequence), "no message begins there"

    def test_a_clock_that_goes_back(self, scribe: Scribe) -> None:
        """Append times never go back: after a step of the clock an hour back, no start by time
        misses a message that was appended then or later."""
        begun = scribe.time_ns
        for step_ns in (0, -3600 * 10**9, 3600 * 10**9):
            scribe.time_ns += step_ns
            for _ in range(60):
                scribe.append([800])
        newest = 0
        for message in scribe.messages:
            newest = message.time_ns = max(newest, message.time_ns)

        times = [*range(begun - 3600 * 10**9, begun - 3590 * 10**9, 10**8)]
        for time_ns in [*times, *range(begun, newest + TICK_NS, TICK_NS)]:
            wanted = next((m for m in scribe.messages if m.time_ns >= time_ns), None)
            latest = scribe.next_sequence if wanted is None else wanted.sequence
            found = scribe.log.locate_time(time_ns).first_sequence
            assert found <= latest, (
                "StreamLog: times never go back; with a clock that was set back, "
                f"locate_time({time_ns}) leads to sequence {found}, behind {latest}"
            )

    def test_times_beyond_everything(self, scribe: Scribe) -> None:
        """Long before the first is the first; long after the last is the end."""
        build(scribe)

        assert tuple(scribe.log.locate_time(0)) == (0, 1)
        assert tuple(scribe.log.locate_time(FAR * 2)) == (scribe.end, scribe.next_sequence)
