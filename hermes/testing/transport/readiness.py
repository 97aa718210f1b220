"""Readiness: an agent or a channel that is slept on is woken by work, and by nothing else."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest

from hermes.base.platform import EventDescriptor
from hermes.spi.transport import watch_fd_of
from hermes.testing.resources import Stopwatch
from hermes.testing.transport.contract import Contract
from hermes.testing.transport.stage import NS_PER_S, Call, Client, Stage

QUIET_S = 0.3
"""How long an idle agent is watched."""
WAKES_MAX = 150
"""Times an idle agent may wake a loop in that time: timers, not spinning."""
BUSY_MAX = 0.25
"""Share of a processor that an agent without work may use; a busy loop uses all of it."""


def sleep_as_a_loop_does(stage: Stage, seconds: float) -> tuple[int, float]:
    """Sleep on the agent's descriptor until its next timer, poll, and so on, for so long.

    Returns how often that ended a sleep, and the share of a processor it took.
    """
    poller = select.poll()
    poller.register(stage.agent.fileno(), select.POLLIN)
    wakes, end = 0, time.monotonic_ns() + int(seconds * NS_PER_S)
    with Stopwatch() as watch:
        while (left := end - time.monotonic_ns()) > 0:
            due = stage.agent.deadline_ns()
            if due is not None:
                left = min(left, max(0, due - time.monotonic_ns()))
            poller.poll(-(-left // 1_000_000))
            stage.agent.poll(0)
            wakes += 1
    return wakes, watch.busy


def check_quiet(stage: Stage, what: str) -> None:
    """Fail if the agent keeps a loop busy, on its descriptor or inside its own wait."""
    wakes, busy = sleep_as_a_loop_does(stage, QUIET_S)
    assert wakes <= WAKES_MAX, (
        f"{what}: fileno() or deadline_ns() woke the loop {wakes} times in {QUIET_S} s with "
        "nothing to do: the descriptor is readable only while poll() finds work"
    )
    assert busy < BUSY_MAX, f"{what}: the agent used {busy:.0%} of a processor"
    with Stopwatch() as watch:
        end = time.monotonic() + QUIET_S
        while time.monotonic() < end:
            stage.agent.poll(NS_PER_S // 10)
    assert watch.busy < BUSY_MAX, (
        f"{what}: poll(timeout) used {watch.busy:.0%} of a processor instead of waiting"
    )


class ReadinessContract(Contract):
    """``fileno``, ``watch``, ``poll`` and ``deadline_ns``."""

    @pytest.fixture
    def event(self) -> Iterator[EventDescriptor]:
        """A descriptor that is readable once it is set."""
        made = EventDescriptor()
        yield made
        made.close()

    def test_the_descriptor_tells_of_a_new_peer(self, stage: Stage) -> None:
        """A loop that sleeps on the agent's descriptor is woken when somebody dials."""
        poller = select.poll()
        poller.register(stage.agent.fileno(), select.POLLIN)
        stage.settle()
        assert not poller.poll(0), "Agent.fileno: readable though there is nothing to do"
        url, patience_ns = stage.url, int(self.deadline_s * NS_PER_S)
        dialling = Call(lambda: stage.transport.dial(url, patience_ns))

        assert poller.poll(int(self.deadline_s * 1000)), (
            "Agent.fileno: a peer knocks, and the descriptor is not readable"
        )
        stage.until(lambda: not dialling.is_alive(), "dial() to return")
        dialling.result().close()

    def test_the_descriptor_tells_of_input(self, stage: Stage) -> None:
        """The descriptor is readable when bytes arrive, and stays so until they have been
        polled."""
        client, connection = stage.connect()
        stage.settle()
        client.channel.send([b"hello"])
        poller = select.poll()
        poller.register(stage.agent.fileno(), select.POLLIN)

        for _ in range(3):
            assert self._readable(stage, poller), "Agent.fileno: not readable though input is there"
        stage.until(lambda: connection.received == 5, "the input")

    def test_the_descriptor_tells_of_room(self, stage: Stage) -> None:
        """A loop that does nothing but sleep on the descriptor moves megabytes to a client that
        reads: room in the medium wakes it."""
        stage.kernel.echo = False
        client, connection = stage.connect()
        client.keeping = False
        connection.send(bytes(16 << 20))
        poller = select.poll()
        poller.register(stage.agent.fileno(), select.POLLIN)
        deadline = time.monotonic() + self.deadline_s
        left_ms = 0
        while client.received < 16 << 20 and time.monotonic() < deadline:
            poller.poll(left_ms)
            while stage.agent.poll(0):
                pass
            while client.turn():
                pass
            due = stage.agent.deadline_ns()
            left_ns = NS_PER_S if due is None else due - time.monotonic_ns()
            left_ms = max(0, -(-left_ns // 1_000_000))

        assert client.received == 16 << 20, (
            f"{client.received} of {16 << 20} bytes arrived: the descriptor did not wake the loop"
        )

    def test_a_watched_descriptor_ends_a_wait(self, stage: Stage, event: EventDescriptor) -> None:
        """poll(-1) returns when a descriptor given to watch() is readable, as often as it is."""
        stage.agent.watch(event.fileno())
        patience_ns = int(self.deadline_s * NS_PER_S)
        begun = time.monotonic()
        for _ in range(2):
            event.set()
            for _ in range(3):
                stage.agent.poll(patience_ns)
            event.clear()
            stage.agent.poll(NS_PER_S // 100)

        assert time.monotonic() - begun < self.deadline_s, (
            "Agent.watch: a descriptor that is readable ends a waiting poll()"
        )
        event.set()
        stage.agent.poll(-1)

    def test_poll_waits_no_longer_than_it_may(self, stage: Stage) -> None:
        """poll(0) returns at once and poll(20 ms) soon; both say that there was nothing."""
        stage.settle()
        begun = time.monotonic()
        for _ in range(20):
            assert stage.agent.poll(0) == 0
        assert stage.agent.poll(20_000_000) == 0

        assert time.monotonic() - begun < 5, "Agent.poll: waits at most timeout_ns"

    def test_nobody_there_costs_nothing(self, stage: Stage) -> None:
        """An agent without clients sleeps."""
        check_quiet(stage, "no client")

    def test_idle_clients_cost_nothing(self, stage: Stage) -> None:
        """An agent whose clients have nothing to say sleeps."""
        for _ in range(3):
            stage.exchange(stage.connect()[0], b"hello")
        stage.settle()

        check_quiet(stage, "idle clients")

    def test_a_watched_channel_tells_of_input(self, stage: Stage) -> None:
        """A loop that sleeps on a channel's ``watch_fd``, if it has one, is woken by input, also if the
        channel was sent through meanwhile; while there is none it sleeps."""
        client, connection = stage.connect()
        poller = self._watching(client)
        stage.settle()
        wakes, end = 0, time.monotonic() + QUIET_S
        while (left := end - time.monotonic()) > 0:
            self._rest(client, writable=False)
            wakes += len(poller.poll(left * 1000))
        assert wakes <= WAKES_MAX, (
            f"watch_fd woke the loop {wakes} times in {QUIET_S} s with nothing to do"
        )
        for sends in (False, True):
            self._rest(client, writable=False)
            connection.send(b"hello")
            if sends:
                client.channel.send([b"meanwhile"])
            self._woken(stage, poller, client, writable=False)
            expected = client.received + (14 if sends else 5)
            stage.until(lambda expected=expected: client.received == expected, "the input")  # type: ignore[misc]

    def test_a_watched_channel_tells_of_room(self, stage: Stage) -> None:
        """A loop that sleeps on ``watch_fd``, if there is one, until a full channel has room is woken when
        the broker reads on."""
        stage.kernel.echo = False
        client, _ = stage.connect()
        poller = self._watching(client)
        client.keeping = False
        full = 0
        while full < 10:
            full = 0 if client.channel.send([bytes(1 << 16)]) else full + 1
            client.channel.wait(readable=False, writable=True, timeout_ns=1_000_000)
        self._rest(client, writable=True)

        self._woken(stage, poller, client, writable=True)

    def test_counters_are_numbers_by_name(self, stage: Stage) -> None:
        """Names are lower case with underscores, values whole numbers; asking changes nothing."""
        stage.exchange(stage.connect()[0], bytes(100_000))
        stage.settle()
        counters = stage.agent.counters()

        assert counters == stage.agent.counters()
        for name, value in counters.items():
            assert name.replace("_", "").isalnum(), f"Agent.counters: {name!r} is no name"
            assert name == name.lower(), f"Agent.counters: {name!r} is not in lower case"
            assert type(value) is int, f"Agent.counters: {name} is {value!r}, not a number"

    @staticmethod
    def _watching(client: Client) -> select.poll:
        fd = watch_fd_of(client.channel)
        if fd is None:
            pytest.skip("channels have no watch_fd")
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return poller

    @staticmethod
    def _rest(client: Client, *, writable: bool) -> None:
        """Take what is there, until there is nothing to do but to sleep."""
        while client.channel.wait(readable=True, writable=writable, timeout_ns=0):
            client.turn()

    def _woken(self, stage: Stage, poller: select.poll, client: Client, *, writable: bool) -> None:
        """The descriptor is readable, as often as asked, until what is waited for holds."""
        deadline = time.monotonic() + self.deadline_s
        while True:
            stage.agent.poll(0)
            woken = poller.poll(10)
            if woken and client.channel.wait(readable=True, writable=writable, timeout_ns=0):
                return
            assert time.monotonic() < deadline, (
                "watch_fd: not readable, though wait(timeout_ns=0) was False and something has come"
            )

    @staticmethod
    def _readable(stage: Stage, poller: select.poll) -> bool:
        due = stage.agent.deadline_ns()
        return bool(poller.poll(10_000)) or (due is not None and due <= time.monotonic_ns())
