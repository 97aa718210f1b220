"""Bytes moved inside their callers' calls: the lock, who reads for whom, and waiting.

There is no thread of its own.  One lock guards a client's state and is never held while it waits for
bytes; of the threads that wait for input one reads for all, the others sleep until it has.  An
exception from outside (a signal handler's, mostly) may end a call between any two steps: neither the
lock nor the turn to read stays taken, and where it may have left something half done, the next call
gives the connection up and resumes on a new one.  Knows neither how a connection comes to be nor
what is asked for over it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from _thread import LockType, allocate_lock
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from hermes.base.checks import FOR_EVER_NS, nanoseconds
from hermes.client.inbox import Inbox
from hermes.client.keeper import KEEPER
from hermes.client.link import Link, Output
from hermes.client.session import Feed, Line, Session
from hermes.client.steps import Steps, Until, follow
from hermes.errors import (
    Closed,
    ConnectionLost,
    Forked,
    HermesError,
    MalformedInput,
    PeerError,
    Timeout,
    WouldBlock,
    restated,
)
from hermes.native.api import Hold, Lock
from hermes.native.frames import HEADER_SIZE
from hermes.native.outbox import EMPTY
from hermes.spi.url import Url
from hermes.wire.client import ClientState
from hermes.wire.errorcodes import FINAL_CODES

SLICE_NS = 200_000_000
"""How long a thread waits at a time: how late it may notice that another closed or reconnected."""
ATTEMPT_S = 5.0
"""Seconds one attempt may take: a broker that is up answers sooner."""
GLANCE_S = 0.25
"""Seconds of a connection attempt of calls without a timeout: enough for a broker on another
continent."""
KEEPER_ATTEMPT_S = 1.0
"""Seconds of a connection attempt of the keeper: enough for a machine that is busy, and its looks at
other clients wait no longer for it."""
EXIT_NAP_S = 1.0
"""Seconds a daemon thread waits for the end of the program before it is told that its client is closed."""
NS_PER_S = 1_000_000_000

T = TypeVar("T")

_pumps: weakref.WeakSet[Pump] = weakref.WeakSet()
_BUSY: contextlib.nullcontext[None] = contextlib.nullcontext()
"""In place of a lock that another call has."""


class Slip(ConnectionLost):
    """A connection is lost to ``error``, which the next one need not meet; never leaves the client."""

    def __init__(self, message: str, error: HermesError) -> None:
        super().__init__(message)
        self.error = error


class Pump(ABC):
    """One end of a link that may come and go, shared by threads.

    Methods want the lock held, those of the first part excepted.
    """

    def __init__(
        self,
        url: Url,
        session: Session,
        output: Output,
        *,
        timeout: float | None,
        spin_ns: int,
    ) -> None:
        self.url = url
        self.timeout = timeout
        """Seconds that calls wait for the broker; None: for ever."""
        self.session = session
        self.output = output
        self._spin_ns = spin_ns
        self.forked = False
        self._pending: deque[Feed | Line | float | None] = deque()
        """Subscriptions and publishers to be ended by the next call that takes the lock, and a time
        within which the client is to be closed."""
        self._lock = Lock(partial(_tidy, weakref.ref(self)), self._pending, (HermesError,))
        self._reading = Lock()
        """Held by the thread that reads for all."""
        self._sleepers: list[LockType] = []
        """A lock for each thread that waits for the one that reads."""
        self._retired: list[Link] = []
        """Links that are over, but for threads that wait on their media."""
        self.link: Link | None = None
        self.failure: HermesError | None = None
        """Why there will be no link any more, once it is given up."""
        self.ending = False
        """Whether :meth:`close` has begun: nothing new is taken."""
        self.exiting = False
        """Whether the program ends."""
        self._closer = 0
        """The thread that says goodbye to the broker; 0: none."""
        self.closed = False
        """Whether everything was let go of."""
        _pumps.add(self)

    @abstractmethod
    def _reconnect(self, now: int, left_ns: int, deadline: int | None) -> None:
        """Try to connect again, if it is time to; else wait a little."""

    @abstractmethod
    def _broke(self, error: ConnectionLost, *, ours: bool = False) -> None:
        """The connection broke; ``ours``: there is nothing wrong with it but that a call of ours was
        interrupted."""

    @abstractmethod
    def give_up(self, error: HermesError) -> None:
        """There will be no connection any more."""

    @abstractmethod
    def _end(self, what: Feed | Line) -> bool:
        """End what a program has let go of; False: not yet, something of it is under way."""

    @abstractmethod
    def _finish(self, timeout: float | None) -> None:
        """Close in order, for a call that could not."""

    # ---- without the lock ----

    @property
    def over(self) -> bool:
        """Whether nothing can be done with it any more: closed, or given up."""
        return self.closed or self.failure is not None

    def deadline(self, timeout: float | None) -> int | None:
        """When ``timeout`` seconds from now are over; None: never.  None means the client's own.

        Raises:
            UsageError: ``timeout`` is no time.
        """
        return deadline_of(self.timeout if timeout is None else timeout)

    def check(self) -> None:
        """Raise unless the client is usable."""
        if self.forked:
            raise Forked(
                "this client was made before the fork: connect in the child for one of its own"
            )
        if self.closed or self.ending:
            if not self.closed:
                self._do_pending()
            self._end_quietly()
            raise Closed("the client is closed")
        if self.failure is not None:
            raise self.failure.with_traceback(None)

    def _end_quietly(self) -> None:
        """A daemon thread that is still at work when the program ends should end with it, not with a
        traceback."""
        if self.exiting and threading.current_thread().daemon:
            with self._lock.away(None, True) if self._lock.mine else _BUSY:
                time.sleep(EXIT_NAP_S)

    def lost(self, lines: list[Line]) -> HermesError | None:
        """What to tell about ``lines`` now that the connection is given up; None: nothing is missing."""
        with self.locked(None):
            for line in lines:
                line.settle()
        left = sum(line.unacknowledged for line in lines)
        failure = self.failure
        if failure is None or not left:
            return None
        return restated(failure, f"{failure}; {left} messages are unacknowledged")

    def locked(self, deadline: int | None, what: str = "") -> Hold:
        """The lock, for a ``with`` statement; ``what`` goes before what is told when that fails.

        Raises:
            Timeout: another thread had it until the deadline.
            WouldBlock: this thread has it: it is a call from a signal handler or the like, which
                came in the middle of another.
            Forked: this is a child, where it may be held for ever.
        """
        if self.forked:
            self.check()
        # Never kept in a variable: a traceback would keep it, and the lock with it.
        return self._lock.hold(0) or self._wait_for_lock(deadline, what)

    def _wait_for_lock(self, deadline: int | None, what: str) -> Hold:
        if self._lock.mine:
            raise WouldBlock(
                f"{what}this thread is in the middle of another call of this client, which a signal "
                "handler, a finalizer or the like cannot wait for: let it return first"
            )
        left = -1 if deadline is None else max(0, deadline - time.monotonic_ns())
        return self._lock.hold(left) or self._refuse(what)

    @staticmethod
    def _refuse(what: str) -> NoReturn:
        raise Timeout(
            f"{what}other threads held the client until the deadline: one is reconnecting, or they "
            "are busy"
        )

    @property
    def busy_here(self) -> bool:
        """Whether this thread is in the middle of a call that changes the client's state."""
        return self._lock.mine

    def let_go(self, what: Feed | Line) -> None:
        """Have ``what`` ended: here if the lock is to be had, else by the next call.  Never waits, may
        be called from a finalizer."""
        self._pending.append(what)
        self._do_pending()

    def _do_pending(self) -> None:
        if not self.over and not self.forked:
            with self._lock.hold(0) or _BUSY:  # which tidies
                pass

    def tend(self, line: Line, deadline: int | None = None) -> None:
        """Take what has arrived, send what waits and settle ``line``, without waiting, if nobody else
        is at it.

        Where the connection is broken, and it is time to, one attempt is made to connect again: until
        ``deadline`` at most, by default for GLANCE_S.
        """
        with self._lock.hold(0) or _BUSY as held:
            if held is None:
                return
            if not self.closed and self.failure is None:
                self._tend(deadline)
            line.settle()

    def look_after(self) -> None:
        """As :meth:`tend`, for every publisher: what the keeper does for an idle program."""
        with self._lock.hold(0) or _BUSY as held:
            if held is None or self.over or self.forked:
                return
            self._tend(time.monotonic_ns() + int(KEEPER_ATTEMPT_S * NS_PER_S))
            for line in self.session.lines.values():
                line.settle()

    def until(self, ready: Callable[[], bool], what: str) -> Until:
        """A wait of a sequence: :exc:`Timeout` says that ``what`` took too long, and why."""
        return Until(ready, lambda: Timeout(f"{what} took too long: {self.obstacle()}"))

    def run(self, steps: Steps[T], deadline: int | None) -> T:
        """Run a sequence that wants the lock; what it returns."""
        with self.locked(deadline):
            return self.run_held(steps, deadline)

    def run_free(self, steps: Steps[T], deadline: int | None) -> T:
        """Run a sequence that wants the lock for its waits only; what it returns."""

        def wait(until: Until) -> None:
            with self.locked(deadline, until.what):
                self._await(until, deadline)

        return follow(steps, wait)

    @property
    def alive(self) -> bool:
        """Whether there is a connection, as far as what has arrived tells."""
        if not self.forked:
            with self._lock.hold(0) or _BUSY as held:
                if held is not None and self.link is not None and not self.over:
                    with contextlib.suppress(HermesError):  # kept, and raised by the next call
                        if self._reading.free:
                            self.wait(lambda: False, 0)
        return self.link is not None and not self.over

    def mark_forked(self) -> None:
        """This is a child of the process that made the client: nothing here works any more."""
        self.forked = True
        for line in list(self.session.lines.values()):
            if line.outbox is not None:
                line.outbox.close()

    # ---- with the lock ----

    def wait(
        self, ready: Callable[[], bool], deadline: int | None, *, writing: bool = False
    ) -> bool:
        """Move bytes until ``ready()``; False if the deadline passes first.

        Raises:
            Closed, ConnectionLost, PeerError: that will not come to be.
        """
        while not ready():
            self.go_on()
            now = time.monotonic_ns()
            left = SLICE_NS if deadline is None else min(deadline - now, SLICE_NS)
            if self.link is None:
                if left <= 0:
                    return False
                self._reconnect(now, left, deadline)
                continue
            link = self.link
            try:
                self._step(link, ready, max(left, 0), writing)
            except ConnectionLost as error:
                if self.link is link:  # else another thread found out first
                    self._broke(error)
                continue
            except PeerError as error:  # one that no new connection can change
                self.give_up(error)
                if self._closer:
                    self.go_on()
                raise
            if left <= 0:
                return ready()
        return True

    def go_on(self) -> None:
        """Raise unless it makes sense to wait."""
        if self._closer and self._closer != threading.get_ident():
            self._end_quietly()
            raise Closed("the client is closed")
        if self.closed or self.forked:
            self.check()
        if self.failure is not None:
            raise self.failure.with_traceback(None)

    def run_held(self, steps: Steps[T], deadline: int | None) -> T:
        return follow(steps, lambda until: self._await(until, deadline))

    def _await(self, until: Until, deadline: int | None) -> None:
        if not self.wait(until.ready, deadline, writing=True):
            raise until.late()

    def say(self, frame: bytes) -> None:
        """Send a frame that a new connection would make up for, should this one be broken."""
        link = self.link
        assert link is not None
        try:
            link.write(frame)
        except ConnectionLost as error:
            self._broke(error)

    def greeted(self) -> bool:
        """Whether there is a connection, and the broker has greeted us on it."""
        return (
            self.link is not None
            and self.session.protocol.state is ClientState.OPEN
            and not self._closer
        )

    def receive_for(self, take: Callable[[Inbox, Session], None], timeout_ns: int) -> None:
        """Read once, offering what comes to ``take`` before it is looked at in general.

        Does nothing if that cannot be done right now: :meth:`wait` knows why.
        """
        link = self.link
        if link is None or not self._reading.free or self.closed or self.forked or self._closer:
            return
        try:
            self._pump(link, timeout_ns, False, take)
        except ConnectionLost as error:
            if self.link is link:  # else another thread found out first
                self._broke(error)
        except PeerError as error:  # one that no new connection can change
            self.give_up(error)
            raise

    def obstacle(self) -> str:
        """What may keep the broker from answering, for a message."""
        if self.link is None:
            return f"there is no connection to {self.url}: the broker is gone, or restarting"
        return f"the broker at {self.url} has not answered in time"

    def wake(self) -> None:
        """Something has changed: who sleeps looks again."""
        while self._sleepers:
            self._sleepers.pop().release()

    # ---- moving bytes ----

    def _tend(self, deadline: int | None) -> None:
        if self.link is None:
            now = time.monotonic_ns()
            self._reconnect(now, 0, deadline or now + int(GLANCE_S * NS_PER_S))
        elif self._reading.free:
            self.wait(lambda: False, 0, writing=True)

    def _step(self, link: Link, ready: Callable[[], bool], left_ns: int, writing: bool) -> None:
        """Wait for one thing at most, and take what it brought."""
        blocked = False
        if writing:
            drained = link.output.drain()
            if drained < 0:
                raise link.lost()
            blocked = drained == 0
            if not blocked and ready():
                return
        if self._reading.free:
            self._pump(link, left_ns, blocked)
        elif blocked:
            with self._lock.away(link.guard, link.native):
                link.wait(readable=False, writable=True, timeout_ns=left_ns)
        else:
            self._sleep(left_ns)

    def _sleep(self, left_ns: int) -> None:
        """Until another thread has read, or a while."""
        waker = allocate_lock()
        waker.acquire()
        self._sleepers.append(waker)
        with self._lock.away(None, True):
            waker.acquire(timeout=left_ns / NS_PER_S)
        if waker in self._sleepers:
            self._sleepers.remove(waker)

    def _pump(
        self,
        link: Link,
        left_ns: int,
        blocked: bool,
        take: Callable[[Inbox, Session], None] | None = None,
    ) -> None:
        """Read once, for everybody."""
        inbox, session = link.inbox, self.session
        if self._reading.mine and link.waits and not link.native:
            self._wait_for_lock(0, "")
        inbox.make_room(session.protocol.needed)
        # Written out here, and below: this is the path of every message.
        if inbox.end - inbox.start != inbox.looked:  # a call was interrupted before it looked
            left_ns = 0
        try:
            with self._reading.hold(0, True) or self._refuse(""):
                if link.native and not blocked:
                    with self._lock.away(link.guard, True):
                        size = link.receive(self._spin_ns if left_ns else 0, left_ns)
                else:
                    size = self._read(link, left_ns, blocked)
        finally:
            if self._sleepers:
                self.wake()
            if self._retired:
                self._sweep()
        if link is not self.link:
            return
        if inbox.end - inbox.start == inbox.looked:
            if size == 0:
                raise self._ended()
            return
        if take is not None:
            take(inbox, session)
            if inbox.start == inbox.end:
                inbox.looked = 0
                session.protocol.needed = HEADER_SIZE
                return
        try:
            inbox.start = session.receive(inbox.buffer, inbox.start, inbox.end)
            inbox.looked = inbox.end - inbox.start
        except MalformedInput as error:
            if error.code in FINAL_CODES:
                raise
            raise Slip(f"the broker broke the protocol: {error}", error) from error
        finally:
            if session.protocol.output:
                self._answer(link)
        if session.failure is not None or session.closed:
            self._dismissed()

    def _read(self, link: Link, left_ns: int, blocked: bool) -> int:
        """Read into the inbox, which accounts for it; without the lock where that waits."""
        if link.waits:
            # An exception in here has left nothing half done, if native code reads.
            with self._lock.away(link.guard, link.native):
                if blocked:
                    link.wait(readable=True, writable=True, timeout_ns=left_ns)
                    left_ns = 0
                return link.receive(min(self._spin_ns, left_ns), left_ns)
        size = link.receive(0, 0)
        if size == EMPTY and left_ns:
            with self._lock.away(link.guard, False):
                link.wait(readable=True, writable=blocked, timeout_ns=left_ns)
            if link is self.link:
                size = link.receive(0, 0)
        return size

    def _answer(self, link: Link) -> None:
        output = self.session.protocol.output
        frames = b"".join(output)
        output.clear()
        link.write(frames)

    def _dismissed(self) -> None:
        """The broker has ended the connection: with an error, or with Close."""
        session = self.session
        if session.failure is not None:
            if session.failure_final:
                self.give_up(session.failure)
                raise session.failure
            text = f"the broker ended the connection: {session.failure}"
            raise ConnectionLost(text) if session.failure_passes else Slip(text, session.failure)
        if session.protocol.state is ClientState.PEER_CLOSED:
            with contextlib.suppress(ConnectionLost):
                self.say(session.protocol.close())
            raise ConnectionLost("the broker closed the connection: it is stopping")

    def _ended(self) -> ConnectionLost:
        self.session.protocol.eof()
        return ConnectionLost("the broker ended the connection without a word: it was killed?")

    # ---- after an interrupt, and at the end ----

    def tidy(self) -> None:
        """Do what others have left to be done: the lock was just taken."""
        if self._lock.torn:
            self._mend()
            self._lock.torn = False  # last: what is interrupted here is done again
        for _ in range(len(self._pending)):
            what = self._pending[0]
            if self.over:
                self._pending.clear()
                return
            if not isinstance(what, Feed | Line):
                self._finish(what)
                self._pending.clear()
                return
            if not self._end(what):
                self._pending.append(what)
            self._pending.popleft()

    def _mend(self) -> None:
        """A call was interrupted while it held the lock: what was read is not accounted for, what was
        to be said perhaps not said.  A new connection goes on behind what is in hand."""
        if self.over:
            return
        for feed in self.session.feeds.values():
            feed.recount()
        self.wake()
        if self.link is not None:
            self._broke(ConnectionLost("a call was interrupted halfway"), ours=True)

    def _retire(self) -> None:
        """The link is over."""
        link = self.link
        if link is not None:
            self._retired.append(link)
            self.link = None
            link.retire()
            self._sweep()

    def _sweep(self) -> None:
        """Close the media of links that are over, where no thread waits on them any more."""
        for link in list(self._retired):
            if link.close():
                self._retired.remove(link)

    def _drop(self) -> None:
        """Let go of everything, at once; nobody else has the lock."""
        self.closed = True
        for line in list(self.session.lines.values()):
            if line.outbox is not None:
                line.outbox.close()
        self._retire()
        self._sweep()
        self.wake()
        self.output.close()


def deadline_of(timeout: float | None) -> int | None:
    """When ``timeout`` seconds from now are over, in the monotonic clock's ns; None: never.

    Raises:
        UsageError: ``timeout`` is no time.
    """
    return deadline_in(nanoseconds(timeout, "timeout"))


def deadline_in(ns: int) -> int | None:
    """As :func:`deadline_of`, for a time that was checked."""
    return None if ns >= FOR_EVER_NS else time.monotonic_ns() + ns


def _tidy(pump: weakref.ref[Pump]) -> None:
    found = pump()
    if found is not None:
        found.tidy()


def open_pumps() -> list[Pump]:
    """All of this process that are not closed."""
    return [pump for pump in list(_pumps) if not pump.closed and not pump.forked]


def _mark_forked() -> None:
    KEEPER.forget()
    for pump in list(_pumps):
        pump.mark_forked()


os.register_at_fork(after_in_child=_mark_forked)
