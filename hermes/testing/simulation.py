"""Simulated time, and a simulated network that carries datagrams in it.

For protocols that know no socket and no clock: an hour of lost datagrams and timers passes in a
moment, and the same seed gives the same hour.  Needs nothing but Hermes.

::

    with SimulatedNetwork(seed=7, faults="loss=5%,delay=1ms") as network:
        network.add("client", client)
        network.add("server", server)
        network.run(until=lambda: server.complete, limit_ns=10 * NS_PER_S)
"""

from __future__ import annotations

import heapq
import itertools
import random
import zlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol, Self

from hermes.net.interception import Interception, Interceptor

IDLE_MAX = 100_000
"""Steps in which time may stand still: parties that answer each other at once, without end."""
SEED_BITS = 32


class SimulatedClock:
    """Time that passes when it is told to.  Calling it gives ``now_ns``, as ``time.monotonic_ns``
    does."""

    def __init__(self, start_ns: int = 0) -> None:
        self.now_ns = start_ns
        self._timers: list[tuple[int, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def __call__(self) -> int:
        """Current time, ns."""
        return self.now_ns

    def call_at(self, when_ns: int, function: Callable[[], object]) -> None:
        """Call ``function`` when it is ``when_ns``; those due at the same time in the order of
        their asking."""
        heapq.heappush(self._timers, (when_ns, next(self._numbers), function))

    def call_after(self, delay_ns: int, function: Callable[[], object]) -> None:
        """Call ``function`` in ``delay_ns``."""
        self.call_at(self.now_ns + delay_ns, function)

    def deadline_ns(self) -> int | None:
        """When the next call is due; None: there is none."""
        return self._timers[0][0] if self._timers else None

    def advance(self, span_ns: int) -> None:
        """Let ``span_ns`` pass, and call what falls due, each at its time."""
        self.advance_to(self.now_ns + span_ns)

    def advance_to(self, when_ns: int) -> None:
        """Let time pass until ``when_ns``; a time that has passed changes nothing, but calls what
        is due."""
        while self._timers and self._timers[0][0] <= max(when_ns, self.now_ns):
            due_ns, _, function = heapq.heappop(self._timers)
            self.now_ns = max(self.now_ns, due_ns)
            function()
        self.now_ns = max(self.now_ns, when_ns)


class Party(Protocol):
    """A protocol's end: datagrams in, datagrams out, time as an argument."""

    def receive(self, datagram: bytes, source: str, now_ns: int) -> None:
        """A datagram from the party called ``source`` has arrived."""

    def outgoing(self, now_ns: int) -> Iterable[tuple[bytes, str]]:
        """Datagrams to send now, each with the name of its target; asked after every event."""

    def deadline_ns(self) -> int | None:
        """When it wants :meth:`expire` to be called; None: never."""

    def expire(self, now_ns: int) -> None:
        """Its deadline has come."""


class SimulatedNetwork:
    """Carries datagrams between parties, each direction of each pair with faults of its own chance.

    ``seed``: number from which all chance follows; None: one that nobody has chosen.  ``faults``: a
    specification of :class:`~hermes.net.interception.Interception`, its ``seed`` ignored.  As a context
    manager it adds the seed to the error that ends it.
    """

    def __init__(
        self, seed: int | None = None, *, faults: str = "", clock: SimulatedClock | None = None
    ) -> None:
        self.seed = random.SystemRandom().getrandbits(SEED_BITS) if seed is None else seed
        self.clock = clock or SimulatedClock()
        self.steps = 0
        self._faults = Interception.parse(faults)
        self._parties: dict[str, Party] = {}
        self._links: dict[tuple[str, str], Interceptor] = {}
        self._idle = 0

    def add(self, name: str, party: Party) -> None:
        """``party`` takes part, under ``name``."""
        if name in self._parties:
            raise ValueError(f"there is a party called {name!r} already")
        self._parties[name] = party

    def link(self, source: str, target: str, faults: str) -> None:
        """From now on datagrams from ``source`` to ``target`` meet ``faults``; those under way
        vanish."""
        self._links[source, target] = self._interceptor(source, target, Interception.parse(faults))

    def counters(self, source: str, target: str) -> dict[str, int]:
        """Datagrams from ``source`` to ``target``, counted by what happened to them."""
        return self._wire(source, target).counters()

    def run(self, until: Callable[[], object], *, limit_ns: int) -> int:
        """Step until ``until`` holds; returns the nanoseconds that passed.

        Raises:
            AssertionError: it does not hold after ``limit_ns``, or nothing more will happen.
        """
        begun_ns = self.clock.now_ns
        while not until():
            if self.clock.now_ns - begun_ns > limit_ns:
                raise AssertionError(self._told(f"after {limit_ns} ns it still does not hold"))
            if not self.step():
                raise AssertionError(self._told("nothing more will happen, and it does not hold"))
        return self.clock.now_ns - begun_ns

    def step(self) -> bool:
        """Take what parties send, then go to the next event and let it happen; False: there is
        none.

        An event is the time at which datagrams arrive, or a party's deadline, or the clock's.
        """
        self._collect()
        due_ns = self._due()
        if due_ns is None:
            return False
        self.steps += 1
        self._idle = 0 if due_ns > self.clock.now_ns else self._idle + 1
        if self._idle > IDLE_MAX:
            raise AssertionError(
                self._told(f"time has stood still for {IDLE_MAX} steps: somebody answers at once")
            )
        self.clock.advance_to(due_ns)
        self._deliver()
        self._expire()
        return True

    def _collect(self) -> None:
        now_ns = self.clock.now_ns
        for source, party in self._parties.items():
            for datagram, target in party.outgoing(now_ns):
                self._wire(source, target).admit(datagram, None, now_ns)

    def _due(self) -> int | None:
        times = [wire.deadline_ns() for wire in self._links.values()]
        times += [party.deadline_ns() for party in self._parties.values()]
        times.append(self.clock.deadline_ns())
        return min((time for time in times if time is not None), default=None)

    def _deliver(self) -> None:
        now_ns = self.clock.now_ns
        for (source, target), wire in list(self._links.items()):
            for datagram, _ in wire.take(now_ns):
                if target in self._parties:
                    self._parties[target].receive(datagram, source, now_ns)

    def _expire(self) -> None:
        now_ns = self.clock.now_ns
        for party in self._parties.values():
            due_ns = party.deadline_ns()
            if due_ns is not None and due_ns <= now_ns:
                party.expire(now_ns)

    def _wire(self, source: str, target: str) -> Interceptor:
        if (source, target) not in self._links:
            self._links[source, target] = self._interceptor(source, target, self._faults)
        return self._links[source, target]

    def _interceptor(self, source: str, target: str, faults: Interception) -> Interceptor:
        salt = zlib.crc32(f"{self.seed}/{source}/{target}".encode())
        return Interceptor(faults, seed_salt=salt)

    def _told(self, what: str) -> str:
        return f"{what} (at {self.clock.now_ns} ns of simulated time, after {self.steps} steps)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"SimulatedNetwork(seed={self.seed}) plays this again")
