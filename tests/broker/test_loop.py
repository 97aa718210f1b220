"""The loop: when it polls, when it waits, what wakes it."""

from __future__ import annotations

import os
import select
import selectors
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hermes.broker.loop import Loop

DEADLINE_S = 60
"""For anything a test waits for: generous, because the machine may be busy."""
DEADLINE_NS = DEADLINE_S * 1_000_000_000


class FakeAgent:
    """An agent whose work a pipe announces."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.epoll = select.epoll()
        self.epoll.register(self.reader, select.EPOLLIN)
        self.polls: list[int] = []
        self.done = 0
        self.deadline: int | None = None
        self.url = "fake:"
        self.doors: dict[str, str] = {}

    def poll(self, timeout_ns: int) -> int:
        self.polls.append(timeout_ns)
        events = self.epoll.poll(timeout_ns / 1e9 if timeout_ns >= 0 else -1)
        if any(fd == self.reader for fd, _ in events):
            self.done += len(os.read(self.reader, 100))
            return 1
        return 0

    def fileno(self) -> int:
        return self.epoll.fileno()

    def watch(self, fd: int) -> None:
        self.epoll.register(fd, select.EPOLLIN)

    def deadline_ns(self) -> int | None:
        return self.deadline

    def stop_accepting(self) -> None:
        pass

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.epoll.close()
        os.close(self.reader)
        os.close(self.writer)


class FakeKernel:
    passes = 0

    def __init__(self) -> None:
        self.turns = SimpleNamespace(unfinished=False)
        self.syncs = SimpleNamespace(running=False)
        self.failed: list[bool] = []  # of each error of an agent, whether that was given up

    def after_pass(self) -> None:
        self.passes += 1

    def agent_failed(self, agent: object, error: Exception, *, lost: bool) -> None:
        self.failed.append(lost)


@pytest.fixture(params=[1, 2])
def agents(request: pytest.FixtureRequest) -> Any:
    """One agent, in which the loop waits, or two, on which it waits."""
    made = [FakeAgent() for _ in range(request.param)]
    yield made
    for agent in made:
        agent.close()


@pytest.fixture(params=["block", "adaptive", "spin", "block without a descriptor"])
def loop(
    request: pytest.FixtureRequest, agents: list[FakeAgent], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A loop over the agents, with each idle strategy; and with a selector that nothing can wait for."""
    idle, _, without = request.param.partition(" ")
    if without:
        monkeypatch.setattr(selectors, "DefaultSelector", selectors.PollSelector)
    made = Loop(idle=idle, spin_ns=50_000)
    for agent in agents:
        made.add(agent)
    yield made
    made.close()


def run_in_thread(loop: Loop, kernel: FakeKernel) -> threading.Thread:
    thread = threading.Thread(target=loop.run, args=(kernel,))
    thread.start()
    return thread


def test_work_of_every_agent_is_done(loop: Loop, agents: list[FakeAgent]) -> None:
    """Input of any agent is worked on, whatever the strategy, and the kernel told after the
    pass."""
    kernel = FakeKernel()
    thread = run_in_thread(loop, kernel)

    for agent in agents:
        os.write(agent.writer, b"x")
    deadline = time.monotonic() + DEADLINE_S
    while not all(agent.done for agent in agents):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    loop.call(loop.stop)
    thread.join(DEADLINE_S)

    assert not thread.is_alive()
    assert kernel.passes >= 1


def test_an_agent_that_raises_is_polled_again(loop: Loop, agents: list[FakeAgent]) -> None:
    """An error out of an agent is reported, and neither ends the loop nor keeps any agent from its
    work."""
    kernel = FakeKernel()
    real = agents[0].poll
    left = [3]

    def poll(timeout_ns: int) -> int:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("a defect")
        return real(timeout_ns)

    agents[0].poll = poll  # type: ignore[method-assign]
    thread = run_in_thread(loop, kernel)
    for agent in agents:
        os.write(agent.writer, b"x")
    deadline = time.monotonic() + DEADLINE_S
    while not all(agent.done for agent in agents):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    loop.call(loop.stop)
    thread.join(DEADLINE_S)

    assert kernel.failed == [False] * 3


def test_an_agent_that_always_raises_is_given_up(
    loop: Loop, agents: list[FakeAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken agent is polled no more after a while, and the others are; without others the loop raises what it
    raised."""
    monkeypatch.setattr("hermes.broker.loop.FAILING_NS", 20_000_000)
    kernel = FakeKernel()

    def poll(timeout_ns: int) -> int:
        raise RuntimeError("a defect")

    agents[0].poll = poll  # type: ignore[method-assign]
    if len(agents) == 1:
        with pytest.raises(RuntimeError, match="a defect"):
            loop.run(kernel)
        return
    thread = run_in_thread(loop, kernel)
    deadline = time.monotonic() + DEADLINE_S
    while True not in kernel.failed:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.write(agents[1].writer, b"x")
    while not agents[1].done:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    loop.call(loop.stop)
    thread.join(DEADLINE_S)

    assert kernel.failed.count(True) == 1


def test_call_from_another_thread_wakes_it(loop: Loop) -> None:
    """A function handed over is called in the loop's thread, although there is nothing to poll."""
    called = threading.Event()
    where: list[int] = []
    thread = run_in_thread(loop, FakeKernel())

    loop.call(lambda: (where.append(threading.get_ident()), called.set()))
    assert called.wait(DEADLINE_S)
    loop.call(loop.stop)
    thread.join(DEADLINE_S)

    assert where == [thread.ident]


def test_timer_fires_in_an_idle_loop(loop: Loop) -> None:
    """A timer ends the loop's wait when it is due, not much before."""
    begun = time.monotonic_ns()
    loop.call_at(begun + 30_000_000, loop.stop)

    loop.run(FakeKernel())

    assert time.monotonic_ns() >= begun + 30_000_000


def test_repeated_timer_repeats(loop: Loop) -> None:
    """call_every calls again and again."""
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 3:
            loop.stop()

    loop.call_every(1_000_000, call)
    loop.run(FakeKernel())

    assert len(calls) == 3


def test_agents_timer_bounds_the_wait(
    agents: list[FakeAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop waits no longer than until an agent's next timer."""
    loop = Loop(idle="block", spin_ns=0)
    for agent in agents:
        loop.add(agent)
    timed = agents[-1]
    served: list[int] = []
    poll = timed.poll

    def serve_timer(timeout_ns: int) -> int:
        done = poll(timeout_ns)
        if timed.deadline is not None and time.monotonic_ns() >= timed.deadline:
            served.append(timed.deadline)
            timed.deadline = None
            loop.call(loop.stop)
        return done

    monkeypatch.setattr(timed, "poll", serve_timer)
    timed.deadline = time.monotonic_ns() + 20_000_000
    loop.call_at(time.monotonic_ns() + DEADLINE_NS, loop.stop)  # or it would hang

    loop.run(FakeKernel())
    loop.close()

    assert served
    assert time.monotonic_ns() < served[0] + DEADLINE_NS // 2


def test_unfinished_work_is_not_waited_for(agents: list[FakeAgent]) -> None:
    """While the kernel has something left to go on with, the loop does not wait."""
    loop = Loop(idle="block", spin_ns=0)
    for agent in agents:
        loop.add(agent)
    kernel = FakeKernel()
    kernel.turns.unfinished = True
    loop.call(loop.stop)

    loop.run(kernel)
    loop.close()

    assert loop.waits == 0


@pytest.mark.parametrize(
    ("kind", "most"), [(selectors.DefaultSelector, 10), (selectors.PollSelector, 200)]
)
def test_blocked_loop_costs_nothing(
    kind: type[selectors.BaseSelector],
    most: int,
    agents: list[FakeAgent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loop with nothing to do makes no passes, or one each millisecond where nothing waits for its
    selector."""
    monkeypatch.setattr(selectors, "DefaultSelector", kind)
    loop = Loop(idle="block", spin_ns=0)
    for agent in agents:
        loop.add(agent)
    loop.call_at(time.monotonic_ns() + 50_000_000, loop.stop)

    loop.run(FakeKernel())
    loop.close()

    assert loop.passes < most
