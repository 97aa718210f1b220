"""What a client has open and how far it is, sans-IO: events in, state changed.

Outlives connections: :meth:`Session.begin` takes it over to a new one.  Knows no socket, clock,
lock or thread; the synchronous client is one shell around it.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from hermes.errors import HermesError, MalformedInput, restated
from hermes.native.api import Message, Sender, acknowledge, together
from hermes.native.frames import HEADER_SIZE
from hermes.native.outbox import Outbox
from hermes.wire import messages as m
from hermes.wire.client import BatchReceived, ClientProtocol, ClientState, Resume
from hermes.wire.errorcodes import ERROR_CODES, exception_for

if TYPE_CHECKING:
    from hermes.client.batch import Batch

_OPEN = ClientState.OPEN

MARK_COST = 64
"""Bytes a queued progress mark counts for, so that a bound on bytes bounds them too."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages that a subscription will not get."""

    stream: str
    first: int
    """First missing sequence."""
    last: int
    """Last missing sequence, inclusive."""
    reason: Literal["retention", "damaged", "epoch"]
    epoch: int = 0
    """With ``epoch``: the epoch in which other messages have these sequences; it goes on with
    ``first``."""

    @property
    def position(self) -> int:
        """The subscription goes on behind it."""
        return self.first - 1 if self.reason == "epoch" else self.last

    def __str__(self) -> str:
        return f"{self.stream!r} lost {self.first} to {self.last}: {_WHY[self.reason]}"


_WHY = {
    "retention": "retention passed by",
    "damaged": "its storage is damaged",
    "epoch": "its log went back, and other messages have these sequences now",
}


class Segment(msgspec.Struct, gc=False):
    """A batch that waits to be consumed: where it stands, and what it covers (a struct, because it is
    made in a third of a class's time)."""

    buffer: bytearray
    start: int
    stop: int
    stream: str
    after: int
    through: int


class Feed:
    """One subscription's queue, from the connection to whoever consumes it.

    Changed with the client's lock held; messages alone are taken from ``ready`` without.  A step that
    an interrupt must not cut in two is one call of :func:`~hermes.native.api.together`.
    """

    __slots__ = (
        "batches",
        "commit_failure",
        "commits",
        "done",
        "dropped",
        "durable",
        "epochs",
        "failure",
        "gaps",
        "id",
        "latest",
        "pattern",
        "queue",
        "queued_bytes",
        "ready",
        "segment",
        "taken",
    )

    def __init__(self, id: int, pattern: str, durable: str | None) -> None:
        self.id = id
        self.pattern = pattern
        self.durable = durable
        self.queue: deque[Segment | Gap] = deque()
        self.queued_bytes = 0
        self.ready: deque[Message] = deque()
        """Messages of ``segment`` that the program has not taken yet."""
        self.segment: Segment | None = None
        """The batch that the program is taking messages from."""
        self.batches: deque[tuple[Segment, Batch]] = deque()
        """``segment`` as a batch that nobody has taken yet."""
        self.gaps: deque[Gap] = deque()
        """Gaps that the program has not been told of yet."""
        self.taken: list[Message] = []
        """Messages taken back out of ``ready``, which stand in no queue yet."""
        self.failure: HermesError | None = None
        self.commit_failure: HermesError | None = None
        """Why the last commit that failed did."""
        self.commits = 0
        """Commits the broker has confirmed or refused."""
        self.done: dict[str, int] = {}
        """Stream name to the last sequence that is consumed or was not wanted."""
        self.epochs: dict[str, int] = {}
        """Stream name to the epoch of what is in ``done``."""
        self.latest: dict[str, int] = {}
        """Stream name to the epoch of the newest that waits here."""
        self.dropped: dict[str, int] = {}
        """Stream name to the last sequence before the first that had no room: from there on all is
        dropped, until it is asked for again."""

    def drop(self, stream: str, after: int) -> None:
        """There is no room for what comes behind ``after``."""
        self.dropped.setdefault(stream, after)

    def begin(self, stream: str, epoch: int) -> None:
        """Note that messages of ``stream`` belong to ``epoch`` from now on.

        Messages that were returned before belong to it as well, unless a gap says that their
        sequences have been given to other messages.
        """
        if self.latest.get(stream) == epoch == self.epochs.get(stream):
            return
        self.latest[stream] = epoch
        if not any(
            isinstance(one, Gap) and one.stream == stream and one.reason == "epoch"
            for one in self.queue
        ):
            self.epochs[stream] = epoch

    def add(self, segment: Segment) -> None:
        """A batch arrived."""
        queue = self.queue
        if segment.start == segment.stop:
            if not queue:
                self._pass(segment)
                return
            last = queue[-1]
            if isinstance(last, Segment) and last.stream == segment.stream:
                last.through = segment.through
                return
        queue.append(segment)
        self.queued_bytes += _cost(segment)

    def _pass(self, mark: Segment) -> None:
        current = self.segment
        if current is None or current.stream != mark.stream:
            self.done[mark.stream] = mark.through
        elif self.ready or self.batches or self.taken:
            current.through = mark.through
        else:
            together(
                self.done.__setitem__, (mark.stream, mark.through),
                object.__setattr__, (self, "segment", None),
            )  # fmt: skip

    def add_gap(self, gap: Gap) -> None:
        """Messages are missing here."""
        self.queue.append(gap)
        self.queued_bytes += MARK_COST

    def take_back(self, segment: Segment) -> None:
        """``segment``, the first of the queue, is of no use: drop it and what follows it in its
        stream, so that all of it is asked for again."""
        kept = [one for one in self.queue if one.stream != segment.stream]
        together(
            self.dropped.__setitem__, (segment.stream, segment.after),
            self.queue.clear, (),
            self.queue.extend, (kept,),
        )  # fmt: skip
        self.recount()

    def next(self) -> Segment | None:
        """The next batch with messages, which stays in the queue; None: there is none.

        Gaps before it are moved to :attr:`gaps`, and end the search.
        """
        queue = self.queue
        while queue:
            item = queue[0]
            if isinstance(item, Gap):
                together(
                    self.done.__setitem__, (item.stream, item.position),
                    self.epochs.__setitem__, (
                        item.stream, item.epoch or self.epochs.get(item.stream, 0)
                    ),
                    self.gaps.append, (item,),
                    queue.popleft, (),
                )  # fmt: skip
                self.queued_bytes -= MARK_COST
                return None
            if item.start != item.stop:
                return item
            self.done[item.stream] = item.through
            queue.popleft()
            self.queued_bytes -= MARK_COST
        return None

    def hand_out(self, segment: Segment, messages: list[Message]) -> None:
        """``messages`` are those of ``segment``, the first of the queue."""
        together(
            self.ready.extend, (messages,),
            object.__setattr__, (self, "segment", segment),
            self.queue.popleft, (),
        )  # fmt: skip
        self.queued_bytes -= _cost(segment)

    def hand_out_batch(self, segment: Segment, batch: Batch) -> None:
        """``batch`` is ``segment``, the first of the queue."""
        together(
            self.batches.append, ((segment, batch),),
            object.__setattr__, (self, "segment", segment),
            self.queue.popleft, (),
        )  # fmt: skip
        self.queued_bytes -= _cost(segment)

    def finish(self) -> None:
        """All messages of the current segment were taken."""
        segment = self.segment
        if segment is not None:
            self.done[segment.stream] = segment.through
            self.segment = None

    def put_back(self, rest: Segment, handed: int) -> None:
        """Put ``rest``, which was taken out of ``ready``, back; its segment is done up to ``handed``."""
        together(
            self.queue.appendleft, (rest,),
            self.taken.clear, (),
            self.done.__setitem__, (rest.stream, handed),
            object.__setattr__, (self, "segment", None),
        )  # fmt: skip
        self.queued_bytes += _cost(rest)

    def clear(self) -> None:
        """Nobody wants what waits any more."""
        self.queue.clear()
        self.queued_bytes = 0

    def recount(self) -> None:
        """Count what waits again: a call was interrupted between changing it and counting."""
        self.queued_bytes = sum(
            MARK_COST if isinstance(item, Gap) else _cost(item) for item in self.queue
        )

    def positions(self) -> dict[str, int]:
        """Stream name to the last sequence that was taken, waits here or was not wanted."""
        found = {**self.dropped, **self.done}
        if self.segment is not None:
            found[self.segment.stream] = self.segment.through
        for item in self.queue:
            found[item.stream] = item.position if isinstance(item, Gap) else item.through
        return found


def _cost(segment: Segment) -> int:
    return segment.stop - segment.start + MARK_COST


class Line:
    """One publisher: its outbox, and what the broker said of it."""

    __slots__ = (
        "failure",
        "id",
        "level",
        "lingers",
        "opened",
        "outbox",
        "publisher_id",
        "resumes",
        "topic",
    )

    def __init__(self, publisher_id: bytes | None, level: m.AckLevel) -> None:
        self.id = 0
        """Its number on the wire, once it is opened."""
        self.publisher_id = publisher_id or secrets.token_bytes(m.PUBLISHER_ID_SIZE)
        self.topic: bytes | None = None
        """Topic of its messages, unless told otherwise."""
        self.resumes = publisher_id is not None
        """True if the publisher goes on behind its last message in the broker's log."""
        self.level = level
        self.lingers = False
        """True if a background thread sends its messages (linger > 0)."""
        self.outbox: Outbox | None = None
        self.failure: HermesError | None = None
        self.opened: int | None = None
        """The last sequence the broker has of it, once it said so on this connection."""

    def settle(self) -> None:
        """Free what needs no acknowledgement.  With the client's lock: one thread acknowledges at a
        time."""
        if self.level == "none" and self.outbox is not None:
            self.outbox.ack(self.outbox.status().sent)

    def answered(self) -> bool:
        """Whether the broker has opened it on this connection, or refused it."""
        return self.opened is not None or self.failure is not None

    def lost(self) -> HermesError:
        """What to tell the user of a publisher that was refused."""
        assert self.failure is not None
        left = self.unacknowledged
        text = f"{self.failure}; {left} messages are unacknowledged; resend() tries them again"
        found = restated(self.failure, text)
        found.__cause__ = self.failure
        return found

    @property
    def unacknowledged(self) -> int:
        """Messages put and not acknowledged."""
        if self.outbox is None:
            return 0
        status = self.outbox.status()
        return status.put - status.acked


class Answer:
    """A query under way."""

    __slots__ = ("complete", "failure", "parts")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.complete = False
        self.failure: HermesError | None = None

    def value(self) -> Any:
        """The parts as one: lists and maps are joined, a map's lists too."""
        if len(self.parts) == 1:
            return self.parts[0]
        if all(isinstance(part, list) for part in self.parts):
            return [item for part in self.parts for item in part]
        joined: dict[str, Any] = {}
        for part in self.parts:
            for key, value in part.items():
                known = joined.get(key)
                joined[key] = known + value if isinstance(known, list) else value
        return joined


class Way(Protocol):
    """What a session asks of the way out when the broker speaks of a publisher."""

    def pause(self, outbox: Outbox) -> None:
        """Send no more of it for now."""


class Session:
    """Everything that is open on one client."""

    def __init__(self, way: Way, queued_max: int) -> None:
        self._way = way
        self._queued_max = queued_max
        self.protocol = ClientProtocol()
        self._welcome: m.Welcome | None = None
        self.feeds: dict[int, Feed] = {}
        self.lines: dict[int, Line] = {}
        self.senders: dict[int, Sender] = {}
        """Of the lines whose messages are done with once they are appended."""
        self.answers: dict[int, Answer] = {}
        self.pings: set[int] = set()
        """Tokens of the pings that somebody awaits the answers to."""
        self.failure: HermesError | None = None
        """Why the broker ended the connection, if it did."""
        self.failure_passes = self.failure_final = False
        """Whether the condition passes by itself; whether no new connection can change it."""
        self.closed = False
        """The broker has sent Close."""
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Ack: self._on_ack,
            m.Gap: self._on_gap,
            m.Commit: self._on_commit,
            m.Pong: self._on_pong,
            m.Info: self._on_info,
            m.Error: self._on_error,
            m.Close: self._on_close,
        }

    # ---- a new connection ----

    def begin(
        self, *, client: str, identity: str | None, credentials: dict[str, str]
    ) -> list[bytes]:
        """The first frames of a connection, everything that is open included."""
        resume = self.protocol.snapshot()
        # What was closed meanwhile is over.  A refused publisher waits for resend(): another program
        # may have its id by now.
        resume.publishers = [one for one in resume.publishers if self._goes_on(one.publisher)]
        resume.subscriptions = [s for s in resume.subscriptions if self._is_open(s.subscription)]
        for subscription in resume.subscriptions:
            self._take_back(subscription)
        protocol = ClientProtocol(last_id=self.protocol.last_id)
        hello = protocol.hello(client=client, identity=identity, credentials=credentials)
        frames = [hello, *protocol.restore(resume)]
        for line in self.lines.values():
            line.opened = None
        self.failure, self.closed = None, False
        self.failure_passes = self.failure_final = False
        self._welcome = self.protocol.welcome or self._welcome
        self.protocol = protocol  # last: an interrupt before it leaves what is resumed from
        for subscription in resume.subscriptions:
            self.feeds[subscription.subscription].dropped.clear()
        return frames

    def _is_open(self, subscription: int) -> bool:
        feed = self.feeds.get(subscription)
        return feed is not None and feed.id == subscription

    def _goes_on(self, publisher: int) -> bool:
        line = self.lines.get(publisher)
        return line is not None and line.failure is None

    def forget(self, line: Line) -> bool:
        """Know nothing of ``line`` any more; whether it was known."""
        self.senders.pop(line.id, None)
        return self.lines.pop(line.id, None) is not None

    @property
    def limits(self) -> m.Limits:
        """What the broker accepts, or accepted on the connection before this one."""
        welcome = self.protocol.welcome or self._welcome
        assert welcome is not None
        return welcome.limits

    def again(self, feed: Feed) -> list[bytes]:
        """Ask for what ``feed`` has dropped: its subscription opened anew, under another id."""
        protocol, before = self.protocol, feed.id
        resume = protocol.snapshot()
        message = next(s for s in resume.subscriptions if s.subscription == before)
        self._take_back(message)
        message.subscription = protocol.new_id()
        # In this order one of the two is open, and known to the protocol, at every moment.
        frames = protocol.restore(Resume([], [message]))
        self.feeds[message.subscription] = feed
        feed.id = message.subscription
        goodbye = protocol.unsubscribe(before)
        del self.feeds[before]
        feed.dropped.clear()
        return [goodbye, *frames]

    def _take_back(self, subscription: m.Subscribe) -> None:
        """Have it begin behind what its feed has: that is what is told, not what was read."""
        feed = self.feeds[subscription.subscription]
        found = feed.positions()
        if found:
            start = subscription.start
            known = start.positions if start.at == "positions" else {}
            subscription.start = m.Start(
                at="positions",
                positions={**known, **found},
                otherwise=ClientProtocol.otherwise(start),
                epochs={**start.epochs, **feed.latest},
                time_ns=start.time_ns,
            )

    # ---- input ----

    def receive(self, buffer: bytearray, start: int, end: int) -> int:
        """Take what stands in ``buffer[start:end]``; returns where the rest begins.

        Raises:
            MalformedInput, VersionRefused: the broker broke the protocol; ``protocol.output``
                holds what to tell it.
        """
        protocol = self.protocol
        receive, feeds, names = protocol.receive, self.feeds, protocol.stream_names
        senders = self.senders
        while start < end:
            if senders and protocol.state is _OPEN:
                start = acknowledge(buffer, start, end, senders)
            event = receive(buffer, start, end)
            start = protocol.position
            if event is None:
                return start
            if event.__class__ is BatchReceived:
                feed = feeds.get(event.subscription)
                if feed is None:
                    continue
                if event.start == event.end:
                    name = names[event.stream]
                    feed.begin(name, protocol.epochs.get(name, 0))
                if feed.queued_bytes >= self._queued_max or feed.dropped:
                    feed.drop(names[event.stream], event.after)
                else:
                    feed.add(
                        Segment(
                            buffer,
                            event.start,
                            event.end,
                            names[event.stream],
                            event.after,
                            event.through,
                        )
                    )
            else:
                handler = self._handlers.get(type(event))
                if handler is not None:
                    handler(event)
        protocol.needed = HEADER_SIZE
        return start

    def _on_ack(self, ack: m.Ack) -> None:
        line = self.lines.get(ack.publisher)
        if line is None:
            return
        if ack.level == "opened":
            line.opened = ack.sequence
        elif ack.level == "durable" or line.level == "appended":
            assert line.outbox is not None
            if not line.outbox.ack(ack.sequence):
                raise MalformedInput(
                    f"the broker acknowledged message {ack.sequence} of a publisher, which was "
                    "never sent",
                    code="bad_sequence",
                )

    def _on_gap(self, gap: m.Gap) -> None:
        feed = self.feeds.get(gap.subscription)
        if feed is None:
            return
        name = self.protocol.stream_names[gap.stream]
        if gap.reason == "epoch":  # told once: it is not asked for again
            epoch = self.protocol.epochs.get(name, 0)
            feed.latest[name] = epoch
            feed.add_gap(Gap(name, gap.first, gap.last, gap.reason, epoch))
        elif feed.dropped:
            feed.drop(name, gap.first - 1)
        else:
            feed.add_gap(Gap(name, gap.first, gap.last, gap.reason))

    def _on_commit(self, commit: m.Commit) -> None:
        feed = self.feeds.get(commit.subscription)
        if feed is not None:
            feed.commits += 1

    def _on_pong(self, pong: m.Pong) -> None:
        self.pings.discard(pong.token)  # ignore a pong whose caller has gone

    def _on_info(self, info: m.Info) -> None:
        answer = self.answers.get(info.query)
        if answer is not None:
            answer.parts.append(msgspec.msgpack.decode(info.data))
            answer.complete = not info.more

    def _on_error(self, error: m.Error) -> None:
        exception = exception_for(error)
        if error.fatal:
            row = ERROR_CODES.get(error.code)
            self.failure = exception
            self.failure_passes = row is not None and row.retry
            self.failure_final = row is not None and row.final
        elif error.publisher is not None:
            self._on_refusal(error.publisher, exception)
        elif error.subscription is not None:
            feed = self.feeds.get(error.subscription)
            row = ERROR_CODES.get(error.code)
            if feed is not None and row is not None and not row.ends_subscription:
                feed.commit_failure = exception
                feed.commits += 1
            elif feed is not None:
                feed.failure = exception
        elif error.query is not None and error.query in self.answers:
            self.answers[error.query].failure = exception

    def _on_refusal(self, publisher: int, exception: HermesError) -> None:
        line = self.lines.get(publisher)
        if line is None:
            return
        line.failure = exception
        line.opened = None
        if line.outbox is not None:
            line.outbox.close()
            self._way.pause(line.outbox)

    def _on_close(self, _close: m.Close) -> None:
        self.closed = True
