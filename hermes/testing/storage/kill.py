"""Kill: a process that is killed at any instant has lost nothing that its log said it had."""

from __future__ import annotations

import random
import time

import pytest

from hermes.testing.compare import same
from hermes.testing.contract import needs
from hermes.testing.scribe import Scribe, encode, read_all
from hermes.testing.storage.contract import Contract, Ground
from hermes.testing.storagepeer import PUBLISHER, Peer, sizes_of

ROUNDS = 5
LIVE_S = 0.15
"""How long a process may write before it is killed, at most."""


class KillContract(Contract):
    """``kill -9`` of a process that appends."""

    @needs("persistent")
    @pytest.mark.parametrize("level", ["appended", "durable"])
    def test_what_the_log_had_is_there(self, ground: Ground, level: str) -> None:
        """Everything that status() covered, and that a sync covered, is there after every kill:
        whole, in order, once; and the publisher is known up to the very last of it."""
        if level == "durable" and not self.make().capabilities.durable:
            level = "appended"
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        sizes: list[int] = []
        said = 0
        for _ in range(ROUNDS):
            with Peer(self, ground, "write", level) as peer:
                peer.expect("ready")
                said = int(peer.line())
                time.sleep(chance.uniform(0, LIVE_S))  # the instant is the experiment
                said = peer.last_number(said)
            storage = ground.open()
            scribe = Scribe(ground.log(storage), self.deadline_s)
            reading = read_all(scribe.log, 100_000)
            assert not reading.holes, f"a kill damaged {reading.holes}"
            there = scribe.next_sequence - 1
            assert there >= said, f"the log had {said} messages, after the kill it has {there}"
            sizes = self.sizes(sizes, there)
            frames = encode(1, sizes)
            assert same([reading.frames[n + 1] for n in range(there)], frames[:there]), (
                "after the kill other bytes are read than were appended"
            )
            assert scribe.log.publisher_sequence(PUBLISHER) == there
            sizes = sizes[:there]
            scribe.log.close()
            storage.close()

    def sizes(self, before: list[int], count: int) -> list[int]:
        """Sizes of what the newest process appended, after what was there ``before``."""
        found, number = list(before), 0
        while len(found) < count:
            found += sizes_of(number)
            number += 1
        return found
