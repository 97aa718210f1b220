"""A client's connection in an event loop.

The loop calls when there is something to read, or room to write; what came is taken in one step, and the
tasks for which it is something are woken.  There is no task, queue or thread of its own.  A task that is
cancelled leaves what came for it where it stands: a future that wakes it carries nothing.

This is :class:`hermes.client.connection.Connection` with another way to wait.  The lock stays: finalizers
run in any thread, and a program that ends without closing its client is seen off by a thread that blocks.
It is never held across an ``await``.
"""

from __future__ import annotations

import contextlib
import time
from asyncio import AbstractEventLoop, CancelledError, Future, TimerHandle, get_running_loop, sleep
from asyncio.events import _get_running_loop
from collections.abc import Callable
from functools import partial
from typing import Generic, NoReturn, TypeVar
from weakref import WeakMethod, ref

from hermes.aio.apart import Errand, apart
from hermes.aio.watch import LoopWatch, watch
from hermes.client import connection as base
from hermes.client.connection import Connection, Settings
from hermes.client.inbox import Inbox
from hermes.client.link import Link
from hermes.client.pump import ATTEMPT_S, NS_PER_S, Slip, deadline_of
from hermes.client.session import Feed, Line, Session
from hermes.client.steps import Steps, Until
from hermes.errors import (
    Closed,
    ConnectionLost,
    HermesError,
    UsageError,
)
from hermes.spi.transport import Channel, Transport

T = TypeVar("T")
READS_MAX = 8
"""Reads in one call from the loop; each is a megabyte at most."""
Take = Callable[[Inbox, Session], None]
"""Takes a batch right out of what was read; see :meth:`Connection.receive_for`."""


class _Returned(Generic[T]):
    """The end of a sequence: a StopIteration would look like a fault to the lock."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class Shielded:
    """Goes on through the first cancellation, which is raised when all is done."""

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled: CancelledError | None = None


class LoopConnection(Connection):
    """Belongs to the loop that opened it; other threads may at most let it go."""

    def __init__(self, settings: Settings, transport: Transport, channel: Channel) -> None:
        super().__init__(settings, transport, channel)
        self._loop: AbstractEventLoop = get_running_loop()
        self._waiters: dict[Future[bool], tuple[Callable[[], bool], Take | None]] = {}
        """By the future that wakes a task: what it waits for, and how it takes batches."""
        self._watch: LoopWatch | None = None
        self._blocked = False
        """Whether something waits for room to be written."""
        self._asks = False
        """Whether the channel has to be asked before the loop may rest."""
        self._timer: TimerHandle | None = None
        """Calls for the next attempt to connect, or gives up the one under way."""
        self._greets: Link | None = None
        """The link on which the broker has not answered the greeting yet."""
        self._first = True
        """Whether there has been no connection yet."""
        self._dialling: Errand[Channel] | None = None
        """The attempt to connect that is under way."""
        self._going_over = False

    @classmethod
    async def begin(cls, settings: Settings) -> LoopConnection:
        """Connect.

        Raises: as :func:`hermes.connect`.
        """
        url, deadline = settings.url, deadline_of(settings.timeout)

        def reach() -> tuple[Transport, Channel]:
            transport = base.transport_for(url)
            return transport, base.dial(transport, url, deadline)

        transport, channel = await apart(get_running_loop(), reach, lambda found: found[1].close())
        self = cls(settings, transport, channel)
        try:
            with self.locked(None):
                self._greet_on(channel)
            ready = Until(lambda: self.link is not None and self._greets is None, self._unanswered)
            await self.wait_for(ready, self.deadline(None))
        except BaseException:
            self._drop()
            raise
        self._first = False
        return self

    def own(self) -> None:
        """Raise unless this is called in the connection's own loop.

        Raises:
            UsageError: it is another loop's, or another thread's.
            Forked: this is a child of the process that made it.
        """
        if _get_running_loop() is not self._loop:
            self._stray()

    def _stray(self) -> NoReturn:
        if self.forked:
            self.check()
        raise UsageError(
            "this client belongs to the event loop in which it was connected, and this call comes from "
            "another loop or thread: connect in each, or call asyncio.run_coroutine_threadsafe()"
        )

    @property
    def alive(self) -> bool:
        """Whether there is a connection; the loop notices its end."""
        return self.link is not None and self._greets is None and not self.over

    # ---- waiting ----

    async def follow(
        self, steps: Steps[T], deadline: int | None, patience: Shielded | None = None
    ) -> T:
        """Run a sequence; what it returns.  A task that is cancelled has had its last step or not
        begun it."""
        try:
            until = self._step_of(steps, None)
            while isinstance(until, Until):
                try:
                    await self._await_for(until, deadline, patience)
                except HermesError as error:
                    until = self._step_of(steps, error)
                else:
                    until = self._step_of(steps, None)
            return until.value
        finally:
            with self.locked(None):
                steps.close()

    def _step_of(self, steps: Steps[T], error: HermesError | None) -> Until | _Returned[T]:
        with self.locked(None):
            try:
                return next(steps) if error is None else steps.throw(error)
            except StopIteration as end:
                return _Returned(end.value)

    async def _await_for(
        self, until: Until, deadline: int | None, patience: Shielded | None
    ) -> None:
        try:
            await self.wait_for(until, deadline, patience=patience)
        except CancelledError as error:
            if patience is None or patience.cancelled is not None:
                raise
            patience.cancelled = error
            await self.wait_for(until, deadline, patience=patience)

    async def wait_for(
        self,
        until: Until,
        deadline: int | None,
        take: Take | None = None,
        patience: Shielded | None = None,
    ) -> None:
        """Until ``until`` is ready; ``take`` is offered what is read meanwhile.

        Raises:
            Timeout: the deadline passed first.
            Closed, ConnectionLost, PeerError: that will not come to be.
        """
        while True:
            with self.locked(None):
                self._stir()
                waiter = self.waiter(until, take, patience)
            if waiter is None:
                return
            await self.woken(waiter, until, deadline, take)

    def waiter(
        self, until: Until, take: Take | None = None, patience: Shielded | None = None
    ) -> Future[bool] | None:
        """Wait from now on, with :meth:`woken`; None: ``until`` is ready.  The lock is held."""
        if until.ready():
            return None
        if self._closer and patience is None:
            raise Closed("the client is closed")
        self.go_on()
        if self.link is None:
            self.wake()
        waiter: Future[bool] = self._loop.create_future()
        self._waiters[waiter] = until.ready, take
        return waiter

    async def woken(
        self, waiter: Future[bool], until: Until, deadline: int | None, take: Take | None = None
    ) -> None:
        """Wait until there is a reason to look at ``until`` again.

        Raises:
            Timeout: the deadline passed first.
        """
        timer: TimerHandle | None = None
        try:
            if deadline is not None:
                left_ns = deadline - time.monotonic_ns()
                if left_ns <= 0:
                    await self._last_look(until, take)
                    return
                timer = self._loop.call_later(left_ns / NS_PER_S, _expire, waiter)
            if not await waiter:
                await self._last_look(until, take)
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters.pop(waiter, None)

    async def _last_look(self, until: Until, take: Take | None) -> None:
        """Take what has arrived by now, which the loop may not have been told of."""
        await sleep(0)  # a program that asks again and again lets others run
        self._event(take)
        with self.locked(None):
            if not until.ready():
                raise until.late()

    def wake(self) -> None:
        """Something has changed: who waits looks again, soon."""
        if not self._going_over:
            self._going_over = True
            self._soon(self._go_over)

    def _soon(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if _get_running_loop() is self._loop:
                self._loop.call_soon(_weak(call))
            else:
                self._loop.call_soon_threadsafe(_weak(call))

    def let_go(self, what: Feed | Line) -> None:
        """Have ``what`` ended: here in the loop, else by it.  Never waits, may be called from a
        finalizer."""
        self._pending.append(what)
        if _get_running_loop() is self._loop or self._loop.is_closed():
            self._do_pending()
        self.wake()

    # ---- events ----

    def _event(self, take: Take | None = None) -> None:
        """There may be something to read, or room to write."""
        with self._lock.hold(0) or _NOBODY as held:
            if held is None or self.closed:
                return
            link = self.link
            if link is not None and self._reading.free:
                if take is None and len(self._waiters) == 1:
                    ((_, take),) = self._waiters.values()
                self._move(link, take)
            self._tell()
            if self._pending:  # what waits for an acknowledgement that may have come
                self.wake()
            if self._blocked or self._asks or self.link is not link:
                self._stir()

    def _go_over(self) -> None:
        """See to everybody who waits, and to what is to be written."""
        self._going_over = False
        with self._lock.hold(0) or _NOBODY as held:
            if held is not None:
                self._tell()
                if not self.closed:
                    self._stir()

    def _move(self, link: Link, take: Take | None) -> None:
        """Read: on, if the end of a frame may be there by now."""
        inbox = link.inbox
        try:
            for _ in range(READS_MAX):
                before = inbox.end - inbox.start
                self._pump(link, 0, False, take)
                rest = inbox.end - inbox.start
                if rest in (0, before) or link is not self.link:
                    break
            if self._greets is link and self._resumed():
                self._arrive(link)
        except HermesError as error:
            if isinstance(error, ConnectionLost) or self._greets is link:
                self._miss(link, error)
            else:  # what no new connection can change
                self.give_up(error)

    def _answer(self, link: Link) -> None:
        self._blocked = True  # perhaps: looked at after the event
        super()._answer(link)

    def _tell(self) -> None:
        """Wake the tasks for which there is something."""
        ended = self.over or bool(self._closer)
        for waiter, (ready, _) in tuple(self._waiters.items()):
            try:
                found = ended or ready()
            except HermesError:  # the task looks itself, and is told
                found = True
            if found and not waiter.done():
                waiter.set_result(True)

    def _stir(self) -> None:
        """Write what can be written, and rest until there is more to do.  The lock is held."""
        link = self.link
        if link is not None:
            drained = link.output.drain()
            if drained < 0:
                self._miss(link, link.lost())
            elif self._watch is not None:
                self._blocked = drained == 0
                try:
                    self._watch.rest(self._blocked)
                except ConnectionLost as error:
                    self._miss(link, error)
        if self.link is None and not (
            self.over or self._closer or self._dialling is not None or self._timer is not None
        ):
            left_s = max(0, self._next_ns - time.monotonic_ns()) / NS_PER_S
            self._timer = self._loop.call_later(left_s, _weak(self._attempt))

    # ---- connecting ----

    def _greet_on(self, channel: Channel, patience_s: float | None = None) -> None:
        """Greet the broker; it has ``patience_s`` to answer.  The lock is held."""
        try:
            link = self._greets = self._greet(channel)
        except HermesError as error:
            self._go_without(error)
            return
        try:
            self._watch = watch(self._loop, channel, partial(_on_event, ref(self)))
            self._asks = self._watch.asks
        except OSError as error:
            self._miss(link, ConnectionLost(f"the event loop cannot watch the connection: {error}"))
            return
        if patience_s is not None:
            self._timer = self._loop.call_later(patience_s, _weak(self._lose_patience))
        self._stir()

    def _arrive(self, link: Link) -> None:
        """The broker has answered the greeting."""
        self._take_over(link)
        self._greets = None
        self._cancel_timer()
        if not self._first:
            self._is_back()

    def _lose_patience(self) -> None:
        self._timer = None
        with self._lock.hold(0) or _NOBODY:
            if self._greets is not None:
                self._miss(self._greets, self._unanswered())
        self.wake()

    def _miss(self, link: Link, error: HermesError) -> None:
        """``link`` came to ``error``: go on without it.  The lock is held."""
        if self._greets is link:
            self._greets = None
            self._cancel_timer()
            try:
                self._leave(link, error)
            except HermesError as better:
                error = better
            self._go_without(error)
        elif self.link is link:
            assert isinstance(error, ConnectionLost)
            with contextlib.suppress(HermesError):  # kept, and raised by who waits
                self._broke(error)
        self.wake()

    def _go_without(self, error: HermesError) -> None:
        """An attempt came to ``error``."""
        if self._first:
            self.give_up(error.error if isinstance(error, Slip) else error)
        else:
            with contextlib.suppress(HermesError):  # kept, and raised by who waits
                self._not_again(error)
        self.wake()

    def _attempt(self) -> None:
        """Dial; :meth:`_dialled` is called with what comes of it."""
        self._timer = None
        if self.link is not None or self.over or self._closer:
            return
        self._attempts += 1
        transport, url, found = self._transport, self.url, WeakMethod(self._dialled)
        limit = time.monotonic_ns() + int(ATTEMPT_S * NS_PER_S)

        def done(errand: Errand[Channel]) -> None:
            dialled = found()
            if dialled is None or errand.abandoned:
                errand.abandon()
            else:
                dialled(errand)

        self._dialling = Errand(
            self._loop, lambda: base.dial(transport, url, limit), done, lambda late: late.close()
        )

    def _dialled(self, errand: Errand[Channel]) -> None:
        self._dialling = None
        with self._lock.hold(0) or _NOBODY as held:
            if held is None or self.over or self._closer or self.link is not None:
                errand.abandon()
            else:
                try:
                    self._greet_on(errand.take(), ATTEMPT_S)
                except HermesError as error:
                    self._go_without(error)
        self.wake()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _retire(self) -> None:
        if self._greets is self.link is not None:  # another call has found out
            self._greets = None
            self._cancel_timer()
        found, self._watch = self._watch, None
        if found is not None:
            found.close()  # before the descriptor can be another's
        super()._retire()

    # ---- the end ----

    async def end(self, timeout: float | None) -> None:
        """See :meth:`hermes.aio.Client.close`."""
        if self.forked or self.closed:
            return
        deadline, patience = self.deadline(timeout), Shielded()
        problem: HermesError | None = None
        try:
            try:
                await self.follow(self._settling(), deadline, patience)
            except HermesError as error:
                problem = self._unacknowledged(error)
            if problem is None:
                problem = self._told()
            with contextlib.suppress(HermesError):
                await self.follow(self._parting(), deadline, patience)
        except CancelledError:
            self._say_missing("because closing the client was cancelled")
            raise
        finally:
            with self.locked(None):
                self._drop()
        if patience.cancelled is not None:
            raise patience.cancelled from problem
        if problem is not None:
            raise problem

    def _drop(self) -> None:
        if self._loop.is_running() and _get_running_loop() is not self._loop and not self.exiting:
            with contextlib.suppress(RuntimeError):  # it has been closed meanwhile
                self._loop.call_soon_threadsafe(self._drop)  # from a finalizer in another thread
                return
        self._cancel_timer()
        if self._dialling is not None:
            self._dialling.abandon()
        super()._drop()


_NOBODY: contextlib.nullcontext[None] = contextlib.nullcontext()
"""In place of a lock that a finalizer in another thread has."""


def _on_event(reference: ref[LoopConnection]) -> None:
    found = reference()
    if found is not None:
        found._event()


def _expire(waiter: Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)


def _weak(method: Callable[..., object]) -> Callable[[], object]:
    """Calls ``method`` as long as its object lives, which this does not keep alive."""
    reference = WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is not None:
            found()

    return call
