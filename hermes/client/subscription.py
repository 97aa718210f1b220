"""Subscriptions: message by message, or batch by batch.  This is the consumer's side of a queue; the
connection fills it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NoReturn

from hermes import checks
from hermes.client import requests
from hermes.client.batch import SLICE_SIZE, Batch
from hermes.client.connection import Connection
from hermes.client.inbox import Inbox
from hermes.client.session import Feed, Gap, Segment, Session
from hermes.client.starts import checked_positions
from hermes.closing import Closable
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
from hermes.native.api import Message, Reader
from hermes.native.outbox import NS_PER_S

OnGap = Literal["raise", "skip"] | Callable[[Gap], object]
SLICE_NS = 200_000_000
"""How long the first try of a wait for messages may take."""
FOR_EVER = float("inf")
"""A timeout that never passes."""
POSITIONS_MAX = 1024
"""Streams that a commit may name: as many as a broker may announce."""


class Subscription(Closable):
    """The messages of the topics a pattern matches; made by :meth:`Client.subscribe`.

    Iterate it, or call :meth:`receive`, for messages; :meth:`batches` for whole batches, which cost
    far less each.  Any thread may consume it; each message is handed out once.
    """

    def __init__(self, connection: Connection, feed: Feed, on_gap: OnGap) -> None:
        self._connection = connection
        self._feed = feed
        self._on_gap = on_gap
        self._reader = Reader(connection.session.limits.message_max)
        self._direct = self._reader.direct
        self._ready: deque[Message] = deque()  # of the batch being handed out
        self._segment: Segment | None = None
        self._closed = False

    @property
    def pattern(self) -> str:
        """What it was made with."""
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
        ready = self._ready
        while ready:
            try:
                return ready.popleft()
            except IndexError:  # another thread was faster
                pass
        return self._next(_limit(timeout))

    def __iter__(self) -> Iterator[Message]:
        """The messages, for ever, until :meth:`close`."""
        return self.messages()

    def messages(self, timeout: float | None = None) -> Iterator[Message]:
        """The messages; ends with :exc:`Timeout` when none comes for ``timeout`` seconds.

        Raises: as :meth:`receive`.
        """
        return self._messages(_limit(timeout))

    def _messages(self, limit: float) -> Iterator[Message]:
        ready = self._ready
        while not self._closed:
            if ready:  # looked at first, because an exception costs more than a look
                try:
                    message = ready.popleft()
                except IndexError:  # another thread was faster
                    continue
            else:
                try:
                    message = self._next(limit)
                except Closed:
                    if self._closed:
                        return
                    raise
            yield message

    def batches(self, timeout: float | None = None) -> Iterator[Batch]:
        """The messages as they arrived together; ends with :exc:`Timeout` when none comes for
        ``timeout`` seconds.

        Raises: as :meth:`receive`.
        """
        return self._batches(_limit(timeout))

    def _batches(self, limit: float) -> Iterator[Batch]:
        while not self._closed:
            try:
                batch = self._next_batch(limit)
            except Closed:
                if self._closed:
                    return
                raise
            yield batch

    # ---- positions ----

    @property
    def positions(self) -> dict[str, int]:
        """Stream name to the last sequence that was handed out or was not wanted.

        What :meth:`commit` stores; as ``start`` of another subscription it goes on from here.  While
        other threads consume, it may be behind what they have just been given, never ahead.
        """
        while True:
            segment, found = self._segment, dict(self._feed.done)
            if segment is None:
                return found
            try:
                found[segment.stream] = self._ready[0].sequence - 1
            except IndexError:
                found[segment.stream] = segment.through
            if segment is self._segment:  # else another thread has gone on meanwhile
                return found

    def commit(
        self, positions: Mapping[str, int] | None = None, *, timeout: float | None = None
    ) -> None:
        """Store how far this durable subscription is, by default everything handed out so far.

        When this returns the broker has stored these positions, or later ones: a position only moves
        forwards, and one that is behind what is stored changes nothing.  What lies before it is read
        again by a subscription without the durable name, from a ``start`` of its own.

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
        """End the subscription.  Idempotent."""
        if self._closed:
            return
        self._closed = True
        if not self._connection.over:
            with self._connection.locked(None):
                requests.close_feed(self._connection, self._feed)

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

    def _next(self, timeout: float) -> Message:
        """The next message, from the connection.

        Taken with the lock held: what is ready may be gone once it is let go.
        """
        connection, ready = self._connection, self._ready
        deadline = connection.deadline(timeout)
        connection.lock(deadline)
        try:
            feed = self._feed
            if not (ready or feed.queue or feed.dropped or self._closed):
                self._finish_segment()  # lets its memory go
                left = int(min(timeout * NS_PER_S, SLICE_NS))
                connection.receive_for(self._take, left)
            while True:
                if ready:
                    try:
                        return ready.popleft()
                    except IndexError:  # another thread was faster: that needs no lock
                        continue
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
                ready.extend(found)
                self._segment = segment
        finally:
            connection.unlock()

    def _take(self, inbox: Inbox, session: Session) -> None:
        """The quick way of a batch into our hands: C checks it and makes its messages."""
        protocol = session.protocol
        found = self._direct(
            inbox.buffer,
            inbox.start,
            inbox.end,
            self._feed.id,
            protocol.coverage,
            protocol.stream_names,
            session.senders,
        )
        if found is None:
            return
        messages, start, stop, stream, after, through = found
        self._ready.extend(messages)
        self._segment = Segment(inbox.buffer, start, stop, stream, after, through)
        inbox.start = stop

    def _finish_segment(self) -> None:
        segment = self._segment
        if segment is not None:
            self._feed.done[segment.stream] = segment.through
            self._segment = None

    def _next_batch(self, timeout: float) -> Batch:
        connection = self._connection
        deadline = connection.deadline(timeout)
        with connection.locked(deadline):
            while True:
                segment = self._rest() or self._next_segment(deadline)
                if segment is None:
                    continue
                start, stop = segment.start, segment.stop
                index = self._reader.index(
                    segment.buffer, start, stop, segment.after, segment.through
                )
                if not isinstance(index, int):
                    break
                self._unsound(index, segment)
            self._segment = segment
            frames = memoryview(segment.buffer).toreadonly()[start:stop]
            return Batch(
                frames, index, segment.stream, segment.after, segment.through, self._reader
            )

    def _next_segment(self, deadline: int | None) -> Segment | None:
        """The next batch with messages; what was before it is done.  The lock is held.

        None: there are messages ready, which another thread has read meanwhile.  Whoever hands a
        batch out makes it ``_segment`` once its messages are ready: positions are read without the
        lock, and never say more than is handed out.
        """
        feed, connection = self._feed, self._connection
        while not self._ready:
            self._finish_segment()
            item = feed.take()
            if isinstance(item, Segment):
                connection.freed()
                return item
            if item is not None:
                self._gap(item)
            elif self._closed:
                raise Closed("the subscription is closed")
            elif feed.failure is not None:
                raise feed.failure.with_traceback(None)
            elif not connection.wait(self._something, deadline):
                raise Timeout(f"no message for {self.pattern!r} came in time")
        return None

    def _something(self) -> bool:
        feed = self._feed
        if feed.dropped and not feed.queue:
            requests.recall(self._connection, feed)
        return bool(feed.queue or self._ready) or feed.failure is not None or self._closed

    def _gap(self, gap: Gap) -> None:
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

    def _rest(self) -> Segment | None:
        """What :meth:`receive` has left of a batch, so that nothing is skipped."""
        ready, segment, first = self._ready, self._segment, None
        if not ready:
            return None
        assert segment is not None
        self._segment = None  # what is taken here is not handed out yet
        while ready:  # from behind: another thread may be taking from the front, without the lock
            try:
                first = ready.pop()
            except IndexError:
                break
        if first is None:
            self._segment = segment
            return None
        handed = first.sequence - 1
        index = self._reader.index(
            segment.buffer, segment.start, segment.stop, segment.after, segment.through
        )
        assert isinstance(index, bytes)
        sequences, offsets = memoryview(index).cast("Q"), memoryview(index).cast("I")
        number = next(i for i in range(len(index) // SLICE_SIZE) if sequences[i * 4] > handed)
        start = segment.start + offsets[number * 8 + 4]
        return Segment(segment.buffer, start, segment.stop, segment.stream, handed, segment.through)

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


def _limit(timeout: float | None) -> float:
    limit = checks.duration(timeout, "timeout")
    return FOR_EVER if limit is None else limit


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
