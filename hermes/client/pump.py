"""Bytes moved inside their callers' calls: the lock, who reads for whom, and waiting.

There is no thread of its own.  One lock guards a client's state and is never held while it waits for
bytes; of the threads that wait for input one reads for all (``_pumping``), the others sleep until
it has.  Knows neither how a connection comes to be nor what is asked for over it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from hermes.checks import FOR_EVER_NS, nanoseconds
from hermes.client.inbox import Inbox
from hermes.client.keeper import KEEPER
from hermes.client.link import Link, Output
from hermes.client.session import Feed, Line, Session
from hermes.errors import (
    Closed,
    ConnectionLost,
    Forked,
    HermesError,
    MalformedInput,
    PeerError,
    Timeout,
)
from hermes.native.frames import HEADER_SIZE
from hermes.url import Url
from hermes.wire.client import ClientState
from hermes.wire.errorcodes import FINAL_CODES

SLICE_NS = 200_000_000
"""How long a thread waits at a time: how late it may notice that another closed or reconnected."""
ATTEMPT_S = 5.0
"""Seconds one attempt may take: a broker that is up answers sooner."""
GLANCE_S = 0.25
"""Seconds of an attempt that nobody has said to wait for: a broker on another continent answers in it."""
NS_PER_S = 1_000_000_000

_pumps: weakref.WeakSet[Pump] = weakref.WeakSet()


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
        queue_bytes: int,
    ) -> None:
        self.url = url
        self.timeout = timeout
        """Seconds that calls wait for the broker; None: for ever."""
        self.session = session
        self.output = output
        self._spin_ns = spin_ns
        self._queue_bytes = queue_bytes
        self.asking = 0
        """Calls that wait for an answer, which may stand behind what nobody consumes meanwhile."""
        self.forked = False
        self._lock = threading.Lock()
        self.unlock = self._lock.release
        """Let the lock go that :meth:`lock` took."""
        self._changed = threading.Condition(self._lock)
        self._sleepers = 0
        self._pumping = False
        self._inbox = Inbox()
        self.link: Link | None = None
        self.failure: HermesError | None = None
        """Why there will be no link any more, once it is given up."""
        self.closed = False
        """Whether everything was let go of."""
        _pumps.add(self)

    @abstractmethod
    def _reconnect(self, now: int, left_ns: int, deadline: int | None) -> None:
        """Try to connect again, if it is time to; else wait a little."""

    @abstractmethod
    def _broke(self, error: ConnectionLost) -> None:
        """The connection broke."""

    @abstractmethod
    def give_up(self, error: HermesError) -> None:
        """There will be no connection any more."""

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
        if self.closed:
            raise Closed("the client is closed")
        if self.failure is not None:
            raise self.failure.with_traceback(None)

    def lost(self, lines: list[Line]) -> HermesError | None:
        """What to tell about ``lines`` now that the connection is given up; None: nothing is missing."""
        with self.locked(None):
            for line in lines:
                line.settle()
        left = sum(line.unacknowledged for line in lines)
        failure = self.failure
        if failure is None or not left:
            return None
        return type(failure)(f"{failure}; {left} messages are unacknowledged")

    def lock(self, deadline: int | None, what: str = "") -> None:
        """Take the lock; ``what`` goes before what is told when that takes too long.

        Raises:
            Timeout: another thread had it until the deadline.
            Forked: this is a child, where it may be held for ever.
        """
        if self.forked:
            self.check()
        if not self._lock.acquire(False) and not self._lock.acquire(
            timeout=_seconds_until(deadline)
        ):
            raise Timeout(
                f"{what}other threads held the client until the deadline: one is reconnecting, or they "
                "are busy"
            )

    @contextlib.contextmanager
    def locked(self, deadline: int | None, what: str = "") -> Iterator[None]:
        """The lock, for as long as the caller may wait."""
        self.lock(deadline, what)
        try:
            yield
        finally:
            self.unlock()

    def tend(self, line: Line, deadline: int | None = None) -> None:
        """Take what has arrived, send what waits and settle ``line``, without waiting, if nobody else
        is at it.

        Where the connection is broken, and it is time to, one attempt is made to connect again: until
        ``deadline`` at most, by default for GLANCE_S.
        """
        if self._lock.acquire(blocking=False):
            try:
                if not self.closed and self.failure is None:
                    self._tend(deadline)
                line.settle()
            finally:
                self._lock.release()

    def look_after(self) -> None:
        """As :meth:`tend`, for every publisher: what the keeper does for an idle program."""
        if self._lock.acquire(blocking=False):
            try:
                if not self.over and not self.forked:
                    self._tend(None)
                    for line in self.session.lines.values():
                        line.settle()
            finally:
                self._lock.release()

    @property
    def alive(self) -> bool:
        """Whether there is a connection, as far as what has arrived tells."""
        if not self.forked and self._lock.acquire(blocking=False):
            try:
                if self.link is not None and not self.over and not self._pumping:
                    with contextlib.suppress(HermesError):  # kept, and raised by the next call
                        self.wait(lambda: False, 0)
            finally:
                self._lock.release()
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
            self.check()
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
                raise
            if left <= 0:
                return ready()
        return True

    def until(
        self,
        ready: Callable[[], bool],
        deadline: int | None,
        what: str,
        *,
        writing: bool = False,
    ) -> None:
        """As :meth:`wait`, but :exc:`Timeout` says that ``what`` took too long, and why."""
        if not self.wait(ready, deadline, writing=writing):
            raise Timeout(f"{what} took too long: {self.obstacle()}")

    def answer_to(self, ready: Callable[[], bool], deadline: int | None, what: str) -> None:
        """Wait for an answer; full subscriptions do not stop the reading."""
        self.asking += 1
        self.freed()
        try:
            self.until(ready, deadline, what, writing=True)
        finally:
            self.asking -= 1

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
        return self.link is not None and self.session.protocol.welcome is not None

    def receive_for(self, take: Callable[[Inbox, Session], None], timeout_ns: int) -> None:
        """Read once, offering what comes to ``take`` before it is looked at in general.

        Does nothing if that cannot be done right now: :meth:`wait` knows why.
        """
        link = self.link
        if link is None or self._pumping or self.closed or self.forked or self._full():
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
        full = [feed.pattern for feed in self.session.feeds.values() if self._is_full(feed)]
        if full:
            names = " and ".join(map(repr, full))
            return (
                f"nothing is read any more, because subscription {names} has {self._queue_bytes} "
                "bytes waiting: consume it, or give it a client of its own"
            )
        if self.link is None:
            return f"there is no connection to {self.url}: the broker is gone, or restarting"
        return f"the broker at {self.url} has not answered in time"

    def freed(self) -> None:
        """Something was consumed: who stopped reading may go on."""
        if self._sleepers:
            self._changed.notify_all()

    # ---- moving bytes ----

    def _tend(self, deadline: int | None) -> None:
        if self.link is None:
            now = time.monotonic_ns()
            self._reconnect(now, 0, deadline or now + int(GLANCE_S * NS_PER_S))
        elif not self._pumping:
            self.wait(lambda: False, 0, writing=True)

    def _is_full(self, feed: Feed) -> bool:
        return feed.queued_bytes >= self._queue_bytes

    def _full(self) -> bool:
        if self.asking:
            return False
        limit = self._queue_bytes
        for feed in self.session.feeds.values():  # noqa: SIM110 - a third of what any() costs
            if feed.queued_bytes >= limit:
                return True
        return False

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
        if not self._pumping and not self._full():
            self._pump(link, left_ns, blocked)
        elif blocked:
            with self._away(link):
                link.wait(readable=False, writable=True, timeout_ns=left_ns)
        else:
            self._sleepers += 1
            try:
                self._changed.wait(left_ns / NS_PER_S)
            finally:
                self._sleepers -= 1

    def _pump(
        self,
        link: Link,
        left_ns: int,
        blocked: bool,
        take: Callable[[Inbox, Session], None] | None = None,
    ) -> None:
        """Read once, for everybody."""
        inbox, session = self._inbox, self.session
        inbox.make_room(session.protocol.needed)
        # Not _away(): this is the path of every message, and a context manager costs a microsecond.
        self._pumping = True
        link.users += 1
        self._lock.release()
        try:
            if blocked:
                link.wait(readable=True, writable=True, timeout_ns=left_ns)
                left_ns = 0
            size = link.receive(self._spin_ns if left_ns else 0, left_ns)
        finally:
            self._lock.acquire()
            link.leave()
            self._pumping = False
            if self._sleepers:
                self._changed.notify_all()
        if link is not self.link or size < 0:
            return
        if size == 0:
            raise self._ended()
        inbox.end += size
        if take is not None:
            take(inbox, session)
            if inbox.start == inbox.end:
                session.protocol.needed = HEADER_SIZE
                return
        try:
            inbox.start = session.receive(inbox.buffer, inbox.start, inbox.end)
        except MalformedInput as error:
            if error.code in FINAL_CODES:
                raise
            raise Slip(f"the broker broke the protocol: {error}", error) from error
        finally:
            if session.protocol.output:
                self._answer(link)
        if session.failure is not None or session.closed:
            self._dismissed()

    @contextlib.contextmanager
    def _away(self, link: Link) -> Iterator[None]:
        """Without the lock, while the link stays open."""
        link.users += 1
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()
            link.leave()

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

    def _drop(self) -> None:
        """Let go of everything, at once.  Takes the lock."""
        self.closed = True
        with self._lock:
            link, self.link = self.link, None
            for line in list(self.session.lines.values()):
                if line.outbox is not None:
                    line.outbox.close()
            if link is not None:
                link.retire()
            self._changed.notify_all()
        KEEPER.remove(self)
        self.output.close()


def deadline_of(timeout: float | None) -> int | None:
    """When ``timeout`` seconds from now are over, in the monotonic clock's ns; None: never.

    Raises:
        UsageError: ``timeout`` is no time.
    """
    ns = nanoseconds(timeout, "timeout")
    return None if ns >= FOR_EVER_NS else time.monotonic_ns() + ns


def _mark_forked() -> None:
    KEEPER.forget()
    for pump in list(_pumps):
        pump.mark_forked()


os.register_at_fork(after_in_child=_mark_forked)


def _seconds_until(deadline: int | None) -> float:
    return -1 if deadline is None else max(0.0, (deadline - time.monotonic_ns()) / NS_PER_S)
