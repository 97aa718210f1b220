"""Subscriptions: message by message, or batch by batch.  This is the consumer's side of a queue; the
connection fills it.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NoReturn

from hermes.base import checks
from hermes.base.closing import Closable
from hermes.client import requests
from hermes.client.batch import SLICE_SIZE, Batch
from hermes.client.connection import Connection
from hermes.client.inbox import Inbox
from hermes.client.position import Position
from hermes.client.pump import deadline_in
from hermes.client.session import Feed, Gap, Segment, Session
from hermes.client.starts import checked_positions
from hermes.errors import (
    Closed,
    GapDetected,
    HermesError,
    MalformedInput,
    Timeout,
    UsageError,
    WrongType,
)
from hermes.native import _errors
from hermes.native.api import Message, Reader, together
from hermes.native.frames import STORED_MAX

OnGap = Literal["raise", "skip"] | Callable[[Gap], object]
SLICE_NS = 200_000_000
"""How long the first try of a wait for messages may take."""
POSITIONS_MAX = 1024
"""Streams that a commit may name: as many as a broker may announce."""


class Subscription(Closable):
    """The messages of the topics a pattern matches; made by :meth:`Client.subscribe`.

    Iterate it, or call :meth:`receive`, for messages; :meth:`batches` for whole batches, which cost
    far less each.  Any thread may consume it; each message is returned once.
    """

    def __init__(self, connection: Connection, feed: Feed, on_gap: OnGap) -> None:
        self._connection = connection
        self._feed = feed
        self._on_gap = on_gap
        self._reader = Reader(STORED_MAX)  # limits of today are for publishers
        self._direct = self._reader.direct
        self._ready = feed.ready
        self._closed = False

    @property
    def pattern(self) -> str:
        """The pattern that the subscription was made with."""
        return self._feed.pattern

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

    @property
    def positions(self) -> dict[str, Position]:
        """Stream name to the last sequence that was returned or was not wanted, with its epoch.

        :meth:`commit` stores it; given as ``start``, another subscription goes on from here.  While
        other threads consume, it may be behind what they have just been given, never ahead.
        """
        feed = self._feed
        while True:
            segment, found = feed.segment, dict(feed.done)
            epochs = dict(feed.epochs)
            if segment is None:
                return _with_epochs(found, epochs)
            try:
                found[segment.stream] = self._ready[0].sequence - 1
            except IndexError:
                found[segment.stream] = segment.after if feed.batches else segment.through
            if segment is feed.segment:  # else another thread has gone on meanwhile
                return _with_epochs(found, epochs)

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
        self._usable()
        if self._feed.durable is None:
            raise UsageError("only a durable subscription can commit: subscribe(..., durable=NAME)")
        if positions is not None:
            positions = _checked_positions(positions)
        deadline = connection.deadline(timeout)
        with connection.locked(deadline):
            done = self.positions if positions is None else positions
            requests.commit(connection, self._feed, done, deadline)

    def close(self) -> None:
        """End the subscription.  Idempotent; never waits for the broker."""
        connection = self._connection
        if self._closed:
            return
        self._closed = True
        if not connection.over:
            connection.let_go(self._feed)

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._connection.over or self._connection.forked:
            return
        self._connection.let_go(self._feed)
        if self._feed.id:
            text = f"a subscription of {self._connection.url} to {self.pattern!r} was not closed"
            warnings.warn(text, ResourceWarning, stacklevel=2)

    def __reduce__(self) -> NoReturn:
        raise WrongType(
            "a Subscription cannot be pickled or copied: it belongs to a connection of this process; pass "
            "its pattern and positions, and subscribe there"
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"at {self.positions}"
        return f"<Subscription to {self.pattern!r}, {state}>"

    # ---- inside ----

    def _usable(self) -> None:
        self._connection.check()
        if self._closed:
            raise Closed("the subscription is closed")

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
        connection, feed = self._connection, self._feed
        with connection.locked(deadline):
            if not (
                feed.queue
                or self._ready
                or feed.gaps
                or feed.dropped
                or feed.batches
                or feed.taken
                or self._closed
            ):
                feed.finish()  # lets its memory go
                connection.receive_for(self._take, limit_ns if limit_ns < SLICE_NS else SLICE_NS)
                if self._ready:
                    return
            while not (self._ready or feed.gaps):
                segment = self._next_segment(deadline)
                if segment is None:
                    continue
                found = self._reader.messages(
                    segment.buffer,
                    segment.start,
                    segment.stop,
                    segment.stream,
                    segment.after,
                    segment.through,
                )
                if isinstance(found, int):
                    self._unsound(found, segment)
                    continue
                feed.hand_out(segment, found)

    def _take(self, inbox: Inbox, session: Session) -> None:
        """The quick way of a batch into our hands: C checks it and makes its messages."""
        protocol = session.protocol
        self._direct(
            inbox.buffer,
            inbox.start,
            inbox.end,
            self._feed.id,
            protocol.coverage,
            protocol.stream_names,
            session.senders,
            self._feed,
            inbox,
            Segment,
        )

    def _fill_batches(self, deadline: int | None) -> None:
        """Wait until a batch is there."""
        batches, gaps = self._feed.batches, self._feed.gaps
        while not batches:
            self._prepare_batch(deadline)
            if gaps and not batches:
                self._tell(gaps)

    def _prepare_batch(self, deadline: int | None) -> None:
        """Have a batch ready, or a gap."""
        feed = self._feed
        with self._connection.locked(deadline):
            while not (feed.batches or feed.gaps):
                self._take_back()
                segment = self._next_segment(deadline)
                if segment is None:
                    continue
                start, stop = segment.start, segment.stop
                index = self._reader.index(
                    segment.buffer, start, stop, segment.after, segment.through
                )
                if isinstance(index, int):
                    self._unsound(index, segment)
                    continue
                frames = memoryview(segment.buffer).toreadonly()[start:stop]
                batch = Batch(
                    frames, index, segment.stream, segment.after, segment.through, self._reader
                )
                feed.hand_out_batch(segment, batch)

    def _next_segment(self, deadline: int | None) -> Segment | None:
        """The next batch with messages; what was before it is done.  The lock is held.

        It stays in the queue, until it is handed out in one step.  None: there is something else to
        hand out.
        """
        feed = self._feed
        if feed.taken:  # a call was interrupted while it took them back
            self._put_back()
        if self._ready or feed.gaps:
            return None
        if feed.batches:
            self._unbatch()
            return None
        feed.finish()
        segment = feed.next()
        if segment is None and not feed.gaps:
            self._wait(deadline)
        return segment

    def _wait(self, deadline: int | None) -> None:
        """Until something came, or nothing can come any more."""
        if self._closed:
            raise Closed("the subscription is closed")
        if self._feed.failure is not None:
            raise self._feed.failure.with_traceback(None)
        if not self._connection.wait(self._something, deadline):
            raise Timeout(f"no message for {self.pattern!r} came in time")

    def _something(self) -> bool:
        feed = self._feed
        if feed.dropped and not feed.queue:
            requests.recall(self._connection, feed)
        found = feed.queue or self._ready or feed.gaps or feed.batches
        return bool(found) or feed.failure is not None or self._closed

    def _tell(self, gaps: deque[Gap]) -> None:
        """Tell the program of a gap, without the lock: its function may use this very client."""
        try:
            gap = gaps.popleft()
        except IndexError:  # another thread was faster
            return
        if self._on_gap == "skip":
            return
        if self._on_gap == "raise":
            raise GapDetected(
                f"messages are missing: {gap}; the next call goes on behind them",
                stream=gap.stream,
                first=gap.first,
                last=gap.last,
                reason=gap.reason,
            )
        assert callable(self._on_gap)
        self._on_gap(gap)

    def _unbatch(self) -> None:
        """Have the messages of a batch ready that :meth:`batches` was interrupted before handing
        out."""
        feed = self._feed
        segment = feed.batches[0][0]
        found = self._reader.messages(
            segment.buffer,
            segment.start,
            segment.stop,
            segment.stream,
            segment.after,
            segment.through,
        )
        assert isinstance(found, list)
        together(feed.ready.extend, (found,), feed.batches.popleft, ())

    def _take_back(self) -> None:
        """Put the rest of a batch that :meth:`receive` began back into the queue, so that nothing is
        skipped."""
        if self._ready:
            together(self._feed.taken.extend, (self._ready,), self._ready.clear, ())
        if self._feed.taken:
            self._put_back()

    def _put_back(self) -> None:
        feed, segment = self._feed, self._feed.segment
        assert segment is not None
        handed = feed.taken[0].sequence - 1
        index = self._reader.index(
            segment.buffer, segment.start, segment.stop, segment.after, segment.through
        )
        assert isinstance(index, bytes)
        sequences, offsets = memoryview(index).cast("Q"), memoryview(index).cast("I")
        number = next(i for i in range(len(index) // SLICE_SIZE) if sequences[i * 4] > handed)
        start = segment.start + offsets[number * 8 + 4]
        rest = Segment(segment.buffer, start, segment.stop, segment.stream, handed, segment.through)
        feed.put_back(rest, handed)

    def _unsound(self, code: int, segment: Segment) -> None:
        """Have ``segment`` sent again.

        Raises:
            MalformedInput: it has come so too often; the connection is closed.
        """
        text = (
            f"a batch of {segment.stream!r} that covers {segment.after + 1} to {segment.through} is "
            "not what was published"
        )
        try:
            _errors.fail(code, text)
        except MalformedInput as error:
            self._connection.distrust(self._feed, segment, error)
        except HermesError as error:  # of codes that say nothing about bytes
            self._connection.distrust(self._feed, segment, MalformedInput(str(error)))


def checked_on_gap(on_gap: OnGap) -> None:
    """Raise unless ``on_gap`` is one of its forms."""
    if not callable(on_gap) and not (isinstance(on_gap, str) and on_gap in ("raise", "skip")):
        kind = UsageError if isinstance(on_gap, str) else WrongType
        raise kind(f"on_gap takes 'raise', 'skip' or a function, not {checks.shown(on_gap)}")


def _with_epochs(positions: dict[str, int], epochs: dict[str, int]) -> dict[str, Position]:
    return {of: Position(sequence, epochs.get(of, 0)) for of, sequence in positions.items()}


def _checked_positions(positions: Mapping[str, int]) -> dict[str, int]:
    if isinstance(positions, Message):
        raise WrongType(
            "positions takes a dict of stream name to sequence, not a Message: commit it with "
            "{message.stream: message.sequence}"
        )
    found = checked_positions(positions, "positions")
    if len(found) > POSITIONS_MAX:
        raise UsageError(f"positions names {POSITIONS_MAX} streams at most, not {len(found)}")
    return found
