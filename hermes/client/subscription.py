"""Subscriptions: message by message, or batch by batch.  This is the consumer's side of a queue; the
connection fills it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hermes.base import checks
from hermes.base.closing import Closable
from hermes.client import requests
from hermes.client.batch import Batch
from hermes.client.pump import deadline_in
from hermes.client.receiving import AnySubscription
from hermes.errors import Closed
from hermes.native.api import Message

SLICE_NS = 200_000_000
"""How long the first try of a wait for messages may take."""


class Subscription(AnySubscription, Closable):
    """The messages of the topics a pattern matches; made by :meth:`Client.subscribe`.

    Iterate it, or call :meth:`receive`, for messages; :meth:`batches` for whole batches, which cost
    far less each.  Any thread may consume it; each message is returned once.
    """

    # ---- consuming ----

    def receive(self, timeout: float | None = None) -> Message:
        """The next message, waiting for it; ``timeout`` seconds at most, by default for ever.

        Raises:
            Timeout: none came in time.
            GapDetected: messages are missing; which ones is stated.  The next call goes on.
            MalformedInput: what came is not what was published, several times in a row, each over a
                new connection; the client is closed.
            ConnectionLost: the connection broke and did not come back.
        """
        kind = timeout.__class__
        if timeout is not None and kind is not float and kind is not int:
            timeout = checks.duration(timeout, "timeout")
        ready = self._ready
        while ready:
            try:
                return ready.popleft()
            except IndexError:  # another thread was faster
                pass
        return self._next(checks.nanoseconds(timeout, "timeout"))

    def __iter__(self) -> Iterator[Message]:
        """The messages, for ever, until :meth:`close`, or the client's."""
        return self.messages()

    def messages(self, timeout: float | None = None) -> Iterator[Message]:
        """The messages; ends with :exc:`Timeout` when none comes for ``timeout`` seconds.

        Raises: as :meth:`receive`.
        """
        return self._messages(checks.nanoseconds(timeout, "timeout"))

    def _messages(self, limit: int) -> Iterator[Message]:
        ready = self._ready
        while not self._closed:
            if not ready:  # looked at first, because an exception costs more than a look
                try:
                    self._fill(deadline_in(limit), limit)
                except Closed:
                    return
            try:
                # In one step: an interrupt in between would lose the message.
                yield ready.popleft()
            except IndexError:  # another thread was faster
                continue

    def batches(self, timeout: float | None = None) -> Iterator[Batch]:
        """The messages as they arrived together; ends with :exc:`Timeout` when none comes for
        ``timeout`` seconds.

        Raises: as :meth:`receive`.
        """
        return self._batches(checks.nanoseconds(timeout, "timeout"))

    def _batches(self, limit: int) -> Iterator[Batch]:
        while not self._closed:
            try:
                self._fill_batches(deadline_in(limit))
            except Closed:
                return
            try:
                yield self._feed.batches.popleft()[1]
            except IndexError:  # another thread was faster
                continue

    # ---- positions ----

    def commit(
        self, positions: Mapping[str, int] | None = None, *, timeout: float | None = None
    ) -> None:
        """Store the position of this durable subscription, by default after everything returned so
        far.

        When this returns the broker has stored these positions, or later ones: a position only
        moves forwards, and one that is behind what is stored changes nothing.  What lies before it
        is read again by a subscription without the durable name, from a ``start`` of its own.

        Raises:
            UsageError: the subscription has no durable name, or ``positions`` are none.
            Refused: the broker cannot store them.
        """
        connection = self._connection
        given = self._commit_of(positions)
        deadline = connection.deadline(timeout)
        with connection.locked(deadline):
            done = self.positions if given is None else given
            connection.run_held(requests.commit(connection, self._feed, done), deadline)

    def close(self) -> None:
        """End the subscription.  Idempotent; never waits for the broker."""
        self._end()

    # ---- inside ----

    def _next(self, limit_ns: int) -> Message:
        """The next message, from the connection."""
        ready, deadline = self._ready, deadline_in(limit_ns)
        while True:
            self._prepare(deadline, limit_ns)
            if not ready:
                self._fill(deadline, limit_ns)
            try:
                # Behind the lock: an interrupt must not come between this and the caller.
                return ready.popleft()
            except IndexError:  # another thread was faster
                pass

    def _fill(self, deadline: int | None, limit_ns: int) -> None:
        """Wait until a message is ready."""
        ready, gaps = self._ready, self._feed.gaps
        while not ready:
            if not gaps:
                self._prepare(deadline, limit_ns)
            if gaps and not ready:
                self._tell(gaps)

    def _prepare(self, deadline: int | None, limit_ns: int) -> None:
        """Have a message ready, or a gap."""
        connection = self._connection
        with connection.locked(deadline):
            if self._is_empty():
                self._feed.finish()  # lets its memory go
                connection.receive_for(self._take, limit_ns if limit_ns < SLICE_NS else SLICE_NS)
                if self._ready:
                    return
            while not self._advance():
                self._wait(deadline)

    def _fill_batches(self, deadline: int | None) -> None:
        """Wait until a batch is there."""
        batches, gaps = self._feed.batches, self._feed.gaps
        while not batches:
            self._prepare_batch(deadline)
            if gaps and not batches:
                self._tell(gaps)

    def _prepare_batch(self, deadline: int | None) -> None:
        """Have a batch ready, or a gap."""
        with self._connection.locked(deadline):
            while not self._advance_batch():
                self._wait(deadline)

    def _wait(self, deadline: int | None) -> None:
        """Until something came; the lock is held."""
        until = self._more()
        if not self._connection.wait(until.ready, deadline):
            raise until.late()
