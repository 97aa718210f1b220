"""Exchange: what is appended is read, byte for byte, in order, once."""

from __future__ import annotations

import random

import pytest

from hermes.errors import UsageError
from hermes.native import Run
from hermes.testing.compare import same
from hermes.testing.contract import raises
from hermes.testing.scribe import MESSAGE_MAX, Scribe
from hermes.testing.storage.contract import Contract

PAGE = 4096
EDGES = [0, 1, 7, 8, 9, 31, 32, 33, 255, 256, PAGE - 33, PAGE - 32, PAGE - 31, PAGE, PAGE + 1]
"""Sizes around everything that a log may count in."""


class ExchangeContract(Contract):
    """``append`` and ``read``."""

    @pytest.mark.parametrize("size", [*EDGES, MESSAGE_MAX - 1, MESSAGE_MAX])
    def test_a_message_of_any_size(self, scribe: Scribe, size: int) -> None:
        """A message is read as it was appended, alone and among others."""
        scribe.append([size])
        scribe.append([5, size, size, 5])

        scribe.check()

    def test_topics_and_properties_are_kept(self, scribe: Scribe) -> None:
        """A frame is kept with everything in it: topics of every length, also of many bytes a
        letter."""
        for topic in ("a", "a.b.c", "ä.ö" * 30, "x" * 255, ".".join("abcdefgh") * 3):
            scribe.append([10, 0], topic=topic)

        scribe.check()

    @pytest.mark.parametrize("limit", [0, 1, 100, 4096, 65536, 1 << 30])
    def test_reads_of_any_limit(self, scribe: Scribe, limit: int) -> None:
        """A read gives whole frames, no more than were asked for but at least one."""
        chance = random.Random(limit)
        for _ in range(60):
            scribe.append([chance.choice(EDGES) for _ in range(chance.randrange(1, 6))])

        scribe.check(limit)

    def test_every_message_can_be_read_first(self, scribe: Scribe) -> None:
        """A read may begin at any message, whatever append brought it."""
        chance = random.Random(7)
        for _ in range(20):
            scribe.append([chance.choice(EDGES) for _ in range(chance.randrange(1, 6))])

        for message in scribe.kept:
            found = scribe.log.read(message.position, 1)
            assert isinstance(found, Run), f"read({message.position}) answers {found}"
            assert (found.position, found.first_sequence) == (message.position, message.sequence)
            assert same(bytes(found.view), message.frame)

    def test_many_segments(self, scribe: Scribe) -> None:
        """Segments of a log do not show: 2 MB are read as one."""
        chance = random.Random(3)
        while scribe.end < 2_000_000:
            scribe.append([chance.randrange(MESSAGE_MAX) for _ in range(chance.randrange(1, 5))])

        scribe.check(50_000)

    def test_an_append_larger_than_a_segment(self, scribe: Scribe) -> None:
        """All of it is kept, and sequences stay dense."""
        scribe.append([10])
        scribe.append([MESSAGE_MAX // 2] * 40)
        scribe.append([10])

        scribe.check(1 << 20)

    def test_the_end_is_no_message(self, scribe: Scribe) -> None:
        """At the end there is nothing yet, and beyond it nothing to ask for."""
        scribe.append([10, 20])

        assert scribe.log.read(scribe.end, 1000) is None
        with raises(UsageError, "StreamLog.read: a position beyond the end is refused"):
            scribe.log.read(scribe.end + 8, 1000)

    def test_a_view_stays(self, scribe: Scribe) -> None:
        """A view keeps its bytes while its reader holds it: through appends, other reads, a trim
        and the close of the log."""
        scribe.fill(50, 1000)
        found = scribe.log.read(0, 20_000)
        assert isinstance(found, Run)
        before = bytes(found.view)

        scribe.fill(300, 1000)
        scribe.check()
        scribe.log.trim(scribe.time_ns)
        scribe.log.close()

        assert same(bytes(found.view), before)

    def test_nothing_depends_on_who_reads(self, scribe: Scribe) -> None:
        """Reads in between change nothing, wherever they are."""
        chance = random.Random(5)
        for _ in range(100):
            scribe.append([chance.choice(EDGES)])
            message = chance.choice(scribe.kept)
            found = scribe.log.read(message.position, chance.randrange(20_000))
            assert isinstance(found, Run)
            assert bytes(found.view[: len(message.frame)]) == message.frame

        scribe.check()
