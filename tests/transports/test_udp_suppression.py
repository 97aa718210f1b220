"""How many calls a lost datagram costs: both native ends of a group, up to 1,000 receivers.

In simulated time; the table in docs/udp.md is what ``-s`` prints here.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hermes_udp.native import ffi, lib
from tests.transports.udp_cast import PAYLOAD, US, Cast, Sent, batch
from tests.transports.udp_group_sim import DELAY_NS, SESSION, Group

pytestmark = pytest.mark.slow

JITTER_NS = 20 * US
"""Receivers are not woken at the same time."""
STEP_NS = 200 * US
"""Between two datagrams."""
LOSS = 0.05
NEVER = (1 << 64) - 1

Loses = Callable[[int, Sent], bool]


@dataclass
class Outcome:
    """Cost of a loss."""

    lost: int
    """Datagrams of the first transmission that somebody lost."""
    calls: int
    """Datagrams that call for some, which came to the caster."""
    repeats: int
    """Datagrams sent again, to all."""


class Network:
    """One caster and many receivers, each DELAY_NS away from it."""

    def __init__(self, count: int, seed: int, loses: Loses) -> None:
        self.cast = Cast()
        self.cast.receivers = count
        self.groups = [Group(seed=seed * 10_007 + i) for i in range(count)]
        self.loses = loses
        self.lost: set[int] = set()
        self.calls = 0
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._heap: list[tuple[int, int, int, bytes]] = []  # time, order, receiver or -1, call
        self._due = [NEVER] * count
        for sent in self.cast.run(200_000 * US):
            self._deliver(sent)
        assert all(group.state == lib.HU_GROUP_JOINED for group in self.groups)

    def _deliver(self, sent: Sent) -> None:
        header = ffi.new(
            "hu_header *",
            {
                "type": sent.type,
                "session": 0xCA57,
                "stream": 1,
                "position": sent.position,
                "received": sent.received,
                "flags": sent.flags,
            },
        )
        for i, group in enumerate(self.groups):
            if sent.is_data and self.loses(i, sent):
                if not sent.is_repeat:
                    self.lost.add(sent.position)
                continue
            arrival = sent.at_ns + DELAY_NS + self._random.randrange(JITTER_NS)
            group.now_ns = max(group.now_ns, arrival)
            group.take((header, sent.data))
            self._arm(i)

    def _arm(self, i: int) -> None:
        due = self.groups[i].deadline()
        if due < self._due[i]:
            self._due[i] = due
            heapq.heappush(self._heap, (due, next(self._numbers), i, b""))

    def _wake(self, i: int, now: int) -> None:
        group = self.groups[i]
        self._due[i] = NEVER
        for ranges in group.calls_at(now):
            self.calls += 1
            body = b"".join(
                position.to_bytes(8, "little") + size.to_bytes(4, "little")
                for position, size in ranges
            )
            heapq.heappush(self._heap, (now + DELAY_NS, next(self._numbers), -1, body))
        self._arm(i)

    def run(self, until_ns: int) -> None:
        """Everything that happens before then."""
        cast = self.cast
        while True:
            due = self._heap[0][0] if self._heap else NEVER
            casts = cast.deadline_ns
            if min(due, casts) > until_ns:
                cast.now_ns = until_ns
                return
            if casts <= due:
                cast.now_ns = casts
            else:
                now, _, i, body = heapq.heappop(self._heap)
                cast.now_ns = max(cast.now_ns, now)
                if i >= 0:
                    self._wake(i, now)
                    continue
                lib.hu_caster_status(
                    cast.native, SESSION, body, len(body), 2 * DELAY_NS, cast.now_ns
                )
            for sent in cast.flush():
                self._deliver(sent)

    def outcome(self) -> Outcome:
        end = self.cast.end
        assert all(group.received() == end for group in self.groups), "all have all of it"
        return Outcome(len(self.lost), self.calls, len(self.cast.repeats()))


def simulate(count: int, seed: int, datagrams: int, loses: Loses) -> Outcome:
    """Cast some datagrams and then nothing for a while."""
    network = Network(count, seed, loses)
    for number in range(1, datagrams + 1):
        assert network.cast.feed(batch(number, PAYLOAD)) == PAYLOAD
        for sent in network.cast.flush():
            network._deliver(sent)
        network.run(network.cast.now_ns + STEP_NS)
    network.run(network.cast.now_ns + 200_000 * US)
    return network.outcome()


def all_lose(position: int) -> Loses:
    return lambda i, sent: sent.position == position and not sent.is_repeat


@pytest.mark.parametrize(("count", "most"), [(1, 1), (10, 1.5), (100, 3), (1000, 5)])
def test_a_datagram_that_all_have_lost(count: int, most: float) -> None:
    """The datagram is repeated once; calls grow as a logarithm while receivers grow a thousandfold."""
    runs = 20 if count < 1000 else 10

    outcomes = [simulate(count, seed, 3, all_lose(PAYLOAD)) for seed in range(runs)]

    calls = [outcome.calls for outcome in outcomes]
    print(f"\n{count} receivers, all: {sum(calls) / runs:.2f} calls, {max(calls)} at most")
    assert [outcome.repeats for outcome in outcomes] == [1] * runs
    assert sum(calls) / runs <= most
    assert count > 1 or calls == [1] * runs


@pytest.mark.parametrize(("count", "most"), [(1, 1.1), (10, 1.5), (100, 3), (1000, 6)])
def test_each_loses_a_twentieth(count: int, most: float) -> None:
    """Independent loss, of repeats too: far fewer calls than losses, and everybody has all."""
    datagrams = 200 if count < 1000 else 100
    draw = random.Random(count)
    losses = [0]

    def loses(i: int, sent: Sent) -> bool:
        found = draw.random() < LOSS
        losses[0] += found
        return found

    outcome = simulate(count, 1, datagrams, loses)

    calls, repeats = outcome.calls / outcome.lost, outcome.repeats / outcome.lost
    print(
        f"\n{count} receivers, 5 %: {losses[0] / outcome.lost:.1f} losses, {calls:.2f} calls, "
        f"{repeats:.2f} repeats for each of {outcome.lost} datagrams"
    )
    assert calls <= most
    assert repeats <= 3
