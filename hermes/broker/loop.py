"""The loop: polls every agent, and waits only after a whole pass found nothing to do.

Knows agents, descriptors and timers; what they are for is the kernel's business.  One thread runs
it; :meth:`Loop.call` and :meth:`Loop.wake` may come from any thread, or from a signal handler.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from hermes.base.forks import close_in_children
from hermes.base.platform import EventDescriptor, sched_yield
from hermes.base.selector import descriptor_of, ready_of, unwatch
from hermes.broker.config import Idle
from hermes.spi.transport import Agent

CHECK_NS = 100_000
"""While there is work, or while it spins, the loop looks at its own descriptors and timers this
often: a pass may take 1 us or some ms."""
SERVE_SPIN_NS = 1_000_000
"""A native call returns after this time at the latest, so that timers are served."""
FAILING_NS = 10_000_000_000
"""An agent that every poll fails of for so long is given up: a lack of memory may have passed, and
a peer that caused it been hung up on."""
LOOK_NS = 1_000_000
"""Where selectors have no descriptor, nothing waits for all of them together: a wait ends after this
time at the latest, to look at each."""
NEVER = 1 << 63
"""A time that does not come, ns."""


class Unfinished(Protocol):
    """Work of the kernel's that is done in steps."""

    unfinished: bool
    """Something is left that the next pass can go on with: do not wait."""


class Running(Protocol):
    """The kernel's syncs."""

    running: bool
    """The completion of a sync is awaited: look at descriptors after every pass."""


class Passes(Protocol):
    """The kernel, as far as the loop knows it."""

    @property
    def turns(self) -> Unfinished:
        """Its work in steps."""

    @property
    def syncs(self) -> Running:
        """Its syncs."""

    def after_pass(self) -> None:
        """All agents have been polled and at least one found work."""

    def agent_failed(self, agent: Agent, error: Exception, *, lost: bool) -> None:
        """``error`` came out of polling ``agent``, which is polled no more if it is ``lost``."""


class Loop:
    """Polls agents until :meth:`stop`."""

    def __init__(self, *, idle: Idle, spin_ns: int) -> None:
        self.passes = 0
        """Passes made so far; for statistics."""
        self.waits = 0
        """How often it slept."""
        self._idle = idle
        self._spin_ns = {"block": 0, "adaptive": spin_ns, "spin": NEVER}[idle]
        self.spin_ns = min(self._spin_ns, SERVE_SPIN_NS)
        """How long a native call may poll in the loop's stead."""
        self._selector = selectors.DefaultSelector()
        self._ready = ready_of(self._selector)
        self._woken = EventDescriptor()
        self._calls: deque[Callable[[], None]] = deque()
        self._readers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._agents: list[Agent] = []
        self._failing: dict[Agent, int] = {}  # since when every poll has failed
        self._running = True
        self._closed = False
        self._closing = threading.RLock()  # reentrant: a signal handler may wake who is closing
        self._bound = False
        self.on_wake: Callable[[], object] = lambda: None
        """Called in the loop's thread after every :meth:`wake`."""
        self.watch(self._woken.fileno(), self._drain_calls)
        close_in_children(self)

    # From any thread.

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop's thread call ``function`` soon."""
        self._calls.append(function)
        self.wake()

    def wake(self) -> None:
        """End a wait."""
        with self._closing:
            if not self._closed:
                self._woken.set()

    # From the loop's thread, or before it runs.

    def add(self, agent: Agent) -> None:
        """Poll ``agent`` from now on."""
        self._agents.append(agent)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``fd`` is readable."""
        self._readers[fd] = callback
        self._selector.register(fd, selectors.EVENT_READ)

    def call_at(self, when_ns: int, function: Callable[[], None]) -> None:
        """Call ``function`` once ``time.monotonic_ns()`` is ``when_ns`` or later."""
        heapq.heappush(self._timers, (when_ns, next(self._numbers), function))

    def call_every(self, interval_ns: int, function: Callable[[], None]) -> None:
        """Call ``function`` every ``interval_ns``; what takes longer than that is not made up
        for."""

        def again() -> None:
            function()
            self.call_at(time.monotonic_ns() + interval_ns, again)

        self.call_at(time.monotonic_ns() + interval_ns, again)

    def stop(self) -> None:
        """Let :meth:`run` return after this pass."""
        self._running = False

    def resume(self) -> None:
        """Let :meth:`run` run again after :meth:`stop`."""
        self._running = True

    def close(self) -> None:
        """Give up the loop's own descriptors; the agents are their owner's to close.
        Idempotent."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._selector.close()
                self._woken.close()

    def abandon(self) -> list[int]:
        """Both descriptors, in a forked child; see :class:`hermes.base.forks.Owner`."""
        if self._closed:
            return []
        self._closed = True
        self._closing = threading.RLock()  # a thread of the parent's may have held it
        return [descriptor_of(self._selector), *self._woken.descriptors()]

    def run(self, kernel: Passes) -> None:
        """Poll until :meth:`stop`."""
        alone = len(self._agents) == 1
        self._bind_waits(alone=alone)
        polls = [agent.poll for agent in self._agents]
        monotonic_ns, let_run = time.monotonic_ns, sched_yield
        turns, syncs = kernel.turns, kernel.syncs
        passes, idle_since, check_ns = self.passes, 0, 0
        while self._running:
            work = 0
            failed = False
            for poll in polls:
                try:
                    work += poll(0)
                except Exception as error:
                    work += 1
                    failed = True
                    self._agent_failed(kernel, poll, error)
            if failed:
                polls = [agent.poll for agent in self._agents]
            elif self._failing:
                self._failing.clear()
            passes += 1
            if work:
                kernel.after_pass()
                idle_since = 0
                now = monotonic_ns()
                if now >= check_ns or syncs.running:
                    check_ns = now + CHECK_NS
                    self.passes = passes
                    self._serve(0)
                continue
            if turns.unfinished:
                self._serve(0)
                continue
            now = monotonic_ns()
            idle_since = idle_since or now
            if now - idle_since < self._spin_ns:
                let_run()  # a client may wait for this very core
                if now >= check_ns or syncs.running:
                    check_ns = now + CHECK_NS
                    self.passes = passes
                    self._serve(0)
                continue
            self.passes = passes
            self.waits += 1
            timeout = self._timeout_ns(now)
            if alone:
                try:
                    done = polls[0](timeout)
                except Exception as error:
                    done = 1
                    self._agent_failed(kernel, polls[0], error)
                if done:
                    passes += 1
                    idle_since = 0
                    kernel.after_pass()
                    continue
                timeout = 0
            self._serve(timeout)
            idle_since = 0 if self._spin_ns == NEVER else idle_since
        self.passes = passes

    def _agent_failed(self, kernel: Passes, poll: Callable[[int], int], error: Exception) -> None:
        """An agent raised: it is polled again, and given up if that goes on.

        Raises:
            Exception: ``error``, if there is no other agent that goes on.
        """
        agent = next(agent for agent in self._agents if agent.poll == poll)
        now = time.monotonic_ns()
        since = self._failing.setdefault(agent, now)
        lost = now - since >= FAILING_NS
        if lost and len(self._agents) == 1:
            raise error
        if lost:
            self._agents.remove(agent)
            del self._failing[agent]
            unwatch(self._selector, agent.fileno())
        kernel.agent_failed(agent, error, lost=lost)

    def _bind_waits(self, *, alone: bool) -> None:
        """With one agent wait inside it, else on all of them together."""
        if self._bound:
            return
        self._bound = True
        own = descriptor_of(self._selector)
        found = [own] if alone else [agent.fileno() for agent in self._agents]
        if any(fd < 0 for fd in found):
            self.call_every(LOOK_NS, lambda: None)
        elif alone:
            self._agents[0].watch(own)
        else:
            for fd in found:
                self._selector.register(fd, selectors.EVENT_READ)

    def _timeout_ns(self, now: int) -> int:
        due = self._timers[0][0] if self._timers else NEVER
        for agent in self._agents:
            deadline = agent.deadline_ns()
            if deadline is not None and deadline < due:
                due = deadline
        return -1 if due == NEVER else max(0, due - now)

    def _serve(self, timeout_ns: int) -> None:
        """Look at the loop's own descriptors, waiting at most ``timeout_ns``, and at the timers."""
        for fd, _ in self._ready(timeout_ns / 1e9 if timeout_ns >= 0 else -1):
            callback = self._readers.get(fd)
            if callback is not None:
                callback()
        if self._timers and self._timers[0][0] <= (now := time.monotonic_ns()):
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()

    def _drain_calls(self) -> None:
        self._woken.clear()
        while self._calls:
            self._calls.popleft()()
        self.on_wake()
