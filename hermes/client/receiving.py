"""Subscriptions of every client: what has arrived, as messages and batches.

The halves of :class:`hermes.Subscription` and :class:`hermes.aio.Subscription` that do not wait.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, NoReturn

from hermes.base import checks
from hermes.client import requests
from hermes.client.batch import SLICE_SIZE, Batch
from hermes.client.connection import Connection
from hermes.client.inbox import Inbox
from hermes.client.position import Position
from hermes.client.session import Feed, Gap, Segment, Session
from hermes.client.starts import checked_positions
from hermes.client.steps import Until
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
POSITIONS_MAX = 1024
"""Streams that a commit may name: as many as a broker may announce."""


class AnySubscription:
    """A subscription without its waiting."""

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

    def _commit_of(self, positions: Mapping[str, int] | None) -> Mapping[str, int] | None:
        """The positions to commit, checked; None: those that are had when it is done."""
        self._usable()
        if self._feed.durable is None:
            raise UsageError("only a durable subscription can commit: subscribe(..., durable=NAME)")
        return None if positions is None else _checked_positions(positions)

    def _end(self) -> None:
        """End the subscription, without waiting."""
        if self._closed:
            return
        self._closed = True
        if not self._connection.over:
            self._connection.let_go(self._feed)

    # ---- what has arrived; the lock is held ----

    def _is_empty(self) -> bool:
        """Whether nothing waits, and nothing is to be put in order."""
        feed = self._feed
        return not (
            feed.queue
            or self._ready
            or feed.gaps
            or feed.dropped
            or feed.batches
            or feed.taken
            or self._closed
        )

    def _advance(self) -> bool:
        """Have a message ready, or a gap, of what has arrived; False: nothing has."""
        feed = self._feed
        while not (self._ready or feed.gaps):
            segment = self._next_segment()
            if segment is None:
                return bool(self._ready or feed.gaps)
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
        return True

    def _advance_batch(self) -> bool:
        """Have a batch ready, or a gap, of what has arrived; False: nothing has."""
        feed = self._feed
        while not (feed.batches or feed.gaps):
            self._take_back()
            segment = self._next_segment()
            if segment is None:
                return bool(feed.batches or feed.gaps)
            start, stop = segment.start, segment.stop
            index = self._reader.index(segment.buffer, start, stop, segment.after, segment.through)
            if isinstance(index, int):
                self._unsound(index, segment)
                continue
            frames = memoryview(segment.buffer).toreadonly()[start:stop]
            batch = Batch(
                frames, index, segment.stream, segment.after, segment.through, self._reader
            )
            feed.hand_out_batch(segment, batch)
        return True

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

    def _next_segment(self) -> Segment | None:
        """The next batch with messages; what was before it is done.  The lock is held.

        It stays in the queue until it is taken in one step.  None: something else is ready, or nothing.
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
        return feed.next()

    def _more(self) -> Until:
        """The wait for more than has arrived; raises if nothing can come any more."""
        if self._closed:
            raise Closed("the subscription is closed")
        if self._feed.failure is not None:
            raise self._feed.failure.with_traceback(None)
        return Until(self._something, self._late)

    def _late(self) -> Timeout:
        return Timeout(f"no message for {self.pattern!r} came in time")

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
        """Have the messages of a batch ready that :meth:`batches` was interrupted before
        returning."""
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
