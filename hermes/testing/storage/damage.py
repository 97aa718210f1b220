"""Damage: bytes that a crash or a disk has changed are never served as if nothing had happened."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Callable
from pathlib import Path

from hermes.errors import HermesError, MalformedInput, StorageDamaged, StorageFailed
from hermes.spi.storage import StreamLog
from hermes.testing.compare import same
from hermes.testing.contract import needs
from hermes.testing.scribe import Scribe, read_all
from hermes.testing.storage.contract import Contract, Ground

MESSAGES = 150
CUTS = 24
PUBLISHER = b"damage-publisher"


class DamageContract(Contract):
    """Files that are not as they were left."""

    def written(self, ground: Ground) -> tuple[list[Ground], Scribe]:
        """The files of a log as ``kill -9`` would leave them, and as a clean close does; and what
        stood in it."""
        storage = ground.open()
        scribe = Scribe(ground.log(storage), self.deadline_s)
        scribe.fill(MESSAGES, 900, publisher=PUBLISHER)
        copy = ground.copy()
        scribe.log.close()
        storage.close()
        return [copy, ground], scribe

    def look(self, ground: Ground, scribe: Scribe) -> int | None:
        """Open damaged files and read everything: what is served must be what was written.

        Returns how many messages were; None: it was refused.
        """
        storage = None
        try:
            storage = ground.open()
            log = ground.log(storage)
            reading = read_all(log, 5000)
        except (StorageDamaged, StorageFailed):
            if storage is not None:
                storage.close()
            return None
        for sequence, frame in reading.frames.items():
            assert sequence <= len(scribe.messages), f"sequence {sequence} was never appended"
            expected = scribe.messages[sequence - 1].frame
            assert same(frame, expected), f"message {sequence} has changed"
        self.go_on(log, reading.next_sequence)
        log.close()
        storage.close()
        return len(reading.frames)

    def go_on(self, log: StreamLog, next_sequence: int) -> None:
        """The log takes further messages, with the sequences that come next."""
        again = Scribe(log, self.deadline_s)
        assert again.next_sequence == next_sequence
        again.time_ns += 10**15
        again.append([100, 0])

    def each(
        self,
        left: list[Ground],
        scribe: Scribe,
        count: int,
        change: Callable[[Path, random.Random], str],
    ) -> list[int | None]:
        """Change a file of a fresh copy of what was left, ``count`` times."""
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        found = []
        for number in range(count):
            victim = left[number % len(left)].copy()
            files = victim.files()
            weights = [path.stat().st_size for path in files]
            path = chance.choices(files, weights)[0]
            did = change(path, chance)
            try:
                found.append(self.look(victim, scribe))
            except (AssertionError, HermesError, MalformedInput) as error:
                said = f"after {did}: {error}"
                # The frames hold views of what was read, and some CPythons before 3.13 crash when
                # the collector meets a view in a cycle: let go of them in order.
                traceback.clear_frames(error.__traceback__)
                raise AssertionError(said) from None
        return found

    @needs("persistent")
    def test_nothing_is_lost_without_damage(self, ground: Ground) -> None:
        """The control: files left by a kill, unchanged, hold everything."""
        left, scribe = self.written(ground)

        for place in left:
            assert self.look(place, scribe) == MESSAGES

    @needs("persistent")
    def test_torn_writes(self, ground: Ground) -> None:
        """A file that ends too early costs the end of the log or is refused; what is served is
        sound, and the log goes on."""
        left, scribe = self.written(ground)

        def cut(path: Path, chance: random.Random) -> str:
            size = path.stat().st_size
            keep = chance.randrange(size)
            os.truncate(path, keep)
            return f"cutting {path.name} from {size} to {keep} bytes"

        found = self.each(left, scribe, CUTS, cut)
        assert all(count is None or count <= MESSAGES for count in found)

    @needs("persistent", "detects_damage")
    def test_flipped_bits(
        self, ground: Ground, record_property: Callable[[str, object], None]
    ) -> None:
        """A bit that changed anywhere in any file is never served: it is a gap, a refusal, or of no
        account."""
        left, scribe = self.written(ground)

        def flip(path: Path, chance: random.Random) -> str:
            at = chance.randrange(path.stat().st_size)
            bit = 1 << chance.randrange(8)
            with path.open("r+b") as file:
                file.seek(at)
                (old,) = file.read(1)
                file.seek(at)
                file.write(bytes([old ^ bit]))
            return f"changing {path.name} at {at} from {old:#04x} to {old ^ bit:#04x}"

        found = self.each(left, scribe, self.flips, flip)
        record_property("refused", sum(count is None for count in found))
        record_property("complete", sum(count == MESSAGES for count in found))
        assert any(count is not None for count in found), "every flip made the log useless"
