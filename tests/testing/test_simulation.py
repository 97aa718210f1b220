"""Simulated time and network: in order, faulty as asked, and the same again for the same seed."""

from __future__ import annotations

from collections import deque

import pytest

from hermes.testing.simulation import SimulatedClock, SimulatedNetwork

MS = 1_000_000
S = 1_000_000_000


class Sender:
    """Sends numbers to ``b`` until each is acknowledged; tries again after 10 ms."""

    def __init__(self, count: int) -> None:
        self.missing = set(range(count))
        self.tries = 0
        self.due_ns: int | None = 0
        self._queue: deque[tuple[bytes, str]] = deque()

    def receive(self, datagram: bytes, source: str, now_ns: int) -> None:
        self.missing.discard(int(datagram))

    def outgoing(self, now_ns: int) -> list[tuple[bytes, str]]:
        sent, self._queue = list(self._queue), deque()
        return sent

    def deadline_ns(self) -> int | None:
        return self.due_ns if self.missing else None

    def expire(self, now_ns: int) -> None:
        self.tries += 1
        self.due_ns = now_ns + 10 * MS
        self._queue.extend((b"%d" % number, "b") for number in sorted(self.missing))


class Echo:
    """Sends every datagram back."""

    def __init__(self) -> None:
        self.log: list[tuple[int, bytes]] = []
        self._queue: list[tuple[bytes, str]] = []

    def receive(self, datagram: bytes, source: str, now_ns: int) -> None:
        self.log.append((now_ns, datagram))
        self._queue.append((datagram, source))

    def outgoing(self, now_ns: int) -> list[tuple[bytes, str]]:
        sent, self._queue = self._queue, []
        return sent

    def deadline_ns(self) -> int | None:
        return None

    def expire(self, now_ns: int) -> None:
        raise AssertionError("it has no deadline")


def played(seed: int, faults: str) -> tuple[int, list[tuple[int, bytes]]]:
    """How long an exchange of 50 numbers takes, and what arrived when."""
    sender, echo = Sender(50), Echo()
    with SimulatedNetwork(seed, faults=faults) as network:
        network.add("a", sender)
        network.add("b", echo)
        took = network.run(lambda: not sender.missing, limit_ns=60 * S)
    return took, echo.log


def test_calls_come_in_order_and_at_their_time() -> None:
    """A timer sees its own time, also if it was made by another one."""
    clock = SimulatedClock(5)
    seen: list[tuple[str, int]] = []
    clock.call_at(30, lambda: seen.append(("late", clock())))
    clock.call_after(5, lambda: seen.append(("first", clock())))
    clock.call_at(10, lambda: clock.call_after(10, lambda: seen.append(("made", clock()))))
    clock.advance(20)

    assert seen == [("first", 10), ("made", 20)]
    assert clock() == 25
    assert clock.deadline_ns() == 30
    clock.advance_to(3)
    assert clock() == 25, "time does not go back"


def test_without_faults_datagrams_arrive_at_once_and_in_order() -> None:
    """No delay unless one is asked for."""
    took, log = played(1, "")

    assert took == 0
    assert [int(data) for _, data in log] == list(range(50))


def test_a_delay_is_each_ways() -> None:
    """There and back is twice the delay, to the nanosecond."""
    took, log = played(1, "delay=3ms")

    assert took == 6 * MS
    assert {when for when, _ in log} == {3 * MS}


def test_the_same_seed_plays_the_same() -> None:
    """Times, losses and order follow from the seed, and another seed plays otherwise."""
    faults = "loss=20%,reorder=5%,duplicate=5%,jitter=2ms"

    assert played(7, faults) == played(7, faults)
    assert played(7, faults) != played(8, faults)


def test_directions_have_chances_and_faults_of_their_own() -> None:
    """A link may be set alone, and its counters tell what happened on it."""
    sender, echo = Sender(50), Echo()
    with SimulatedNetwork(3) as network:
        network.add("a", sender)
        network.add("b", echo)
        network.link("b", "a", "loss=50%")
        network.run(lambda: not sender.missing, limit_ns=10 * S)

        assert network.counters("a", "b")["intercept_lost"] == 0
        assert network.counters("b", "a")["intercept_lost"] > 10
    assert sender.tries > 1


def test_a_failure_says_how_to_play_it_again() -> None:
    """The seed stands in the notes of whatever error ends it."""
    network = SimulatedNetwork(faults="loss=100%")
    network.add("a", Sender(1))
    with pytest.raises(AssertionError, match="still does not hold") as caught, network:
        network.run(lambda: False, limit_ns=1 * S)

    assert caught.value.__notes__ == [f"SimulatedNetwork(seed={network.seed}) plays this again"]


def test_silence_is_told() -> None:
    """When nothing is under way and nobody has a deadline, waiting would be for ever."""
    network = SimulatedNetwork(1)
    network.add("b", Echo())
    with pytest.raises(AssertionError, match="nothing more will happen"):
        network.run(lambda: False, limit_ns=S)


def test_time_that_stands_still_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parties that answer each other at once do not hang the test."""
    monkeypatch.setattr("hermes.testing.simulation.IDLE_MAX", 100)
    network, first = SimulatedNetwork(1), Echo()
    first.receive(b"hello", "b", 0)
    network.add("a", first)
    network.add("b", Echo())
    with pytest.raises(AssertionError, match="time has stood still"):
        network.run(lambda: False, limit_ns=S)


def test_a_name_is_taken_once() -> None:
    """Two parties cannot share a name."""
    network = SimulatedNetwork(1)
    network.add("a", Echo())
    with pytest.raises(ValueError, match="already"):
        network.add("a", Echo())
