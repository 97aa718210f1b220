"""What a client has open and how far it is, sans-IO: events in, state changed.

Outlives connections: :meth:`Session.begin` takes it over to a new one.  Knows no socket, clock,
lock or thread; the synchronous client is one shell around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from hermes.errors import HermesError, MalformedInput, Refused
from hermes.native.api import Sender
from hermes.native.frames import HEADER_SIZE
from hermes.native.outbox import Outbox
from hermes.wire import messages as m
from hermes.wire.client import BatchReceived, ClientProtocol, Resume
from hermes.wire.errorcodes import ERROR_CODES, exception_for

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
    reason: Literal["retention", "damaged"]

    def __str__(self) -> str:
        why = "retention passed by" if self.reason == "retention" else "its storage is damaged"
        return f"{self.stream!r} lost {self.first} to {self.last}: {why}"


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
    """One subscription's queue, from the connection to whoever consumes it."""

    __slots__ = (
        "commit_failure",
        "commits",
        "done",
        "dropped",
        "durable",
        "failure",
        "id",
        "pattern",
        "queue",
        "queued_bytes",
    )

    def __init__(self, id: int, pattern: str, durable: str | None) -> None:
        self.id = id
        self.pattern = pattern
        self.durable = durable
        self.queue: deque[Segment | Gap] = deque()
        self.queued_bytes = 0
        self.failure: HermesError | None = None
        self.commit_failure: HermesError | None = None
        """Why the last commit that failed did."""
        self.commits = 0
        """Commits the broker has confirmed or refused."""
        self.done: dict[str, int] = {}
        """Stream name to the last sequence that is consumed or was not wanted."""
        self.dropped: dict[str, int] = {}
        """Stream name to the last sequence before the first that had no room: from there on all is
        dropped, until it is asked for again."""

    def drop(self, stream: str, after: int) -> None:
        """There is no room for what comes behind ``after``."""
        self.dropped.setdefault(stream, after)

    def add(self, segment: Segment) -> None:
        """A batch arrived."""
        queue = self.queue
        if segment.start == segment.stop:
            if not queue:
                self.done[segment.stream] = segment.through
                return
            last = queue[-1]
            if isinstance(last, Segment) and last.stream == segment.stream:
                last.through = segment.through
                return
        queue.append(segment)
        self.queued_bytes += segment.stop - segment.start + MARK_COST

    def add_gap(self, gap: Gap) -> None:
        """Messages are missing here."""
        self.queue.append(gap)
        self.queued_bytes += MARK_COST

    def take_back(self, segment: Segment) -> None:
        """``segment`` was taken and is of no use: drop what follows it in its stream, so that all of
        it is asked for again."""
        stream, kept = segment.stream, [one for one in self.queue if one.stream != segment.stream]
        self.queue.clear()
        self.queue.extend(kept)
        self.queued_bytes = sum(
            MARK_COST + (one.stop - one.start if isinstance(one, Segment) else 0) for one in kept
        )
        self.dropped[stream] = segment.after

    def take(self) -> Segment | Gap | None:
        """The next batch with messages, or gap; None if there is none."""
        while self.queue:
            item = self.queue.popleft()
            if isinstance(item, Gap):
                self.queued_bytes -= MARK_COST
                self.done[item.stream] = item.last
                return item
            self.queued_bytes -= item.stop - item.start + MARK_COST
            if item.start != item.stop:
                return item
            self.done[item.stream] = item.through
        return None


class Line:
    """One publisher: its outbox, and what the broker said of it."""

    __slots__ = ("failure", "id", "level", "lingers", "opened", "outbox", "publisher_id")

    def __init__(self, id: int, publisher_id: bytes, level: m.AckLevel) -> None:
        self.id = id
        self.publisher_id = publisher_id
        self.level = level
        self.lingers = False
        """Whether somebody else than the sending call puts its messages on the wire."""
        self.outbox: Outbox | None = None
        self.failure: HermesError | None = None
        self.opened: int | None = None
        """The last sequence the broker has of it, once it said so on this connection."""

    def settle(self) -> None:
        """Free what needs no acknowledgement.  With the client's lock: one thread acknowledges at a
        time."""
        if self.level == "none" and self.outbox is not None:
            self.outbox.ack(self.outbox.status().sent)

    def lost(self) -> HermesError:
        """What to tell the user of a publisher that was refused."""
        assert self.failure is not None
        kind = type(self.failure)
        text = f"{self.failure}; {self.unacknowledged} messages are unacknowledged"
        cure = "resend() tries them again"
        if isinstance(self.failure, Refused):
            return Refused(f"{text}; {cure}", code=self.failure.code)
        return kind(f"{text}; {cure}")

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
        resume.subscriptions = [s for s in resume.subscriptions if s.subscription in self.feeds]
        self._welcome = self.protocol.welcome or self._welcome
        self.protocol = ClientProtocol(last_id=self.protocol.last_id)
        self.failure, self.closed = None, False
        self.failure_passes = self.failure_final = False
        for line in self.lines.values():
            line.opened = None
        for subscription in resume.subscriptions:
            self._take_back(subscription)
        hello = self.protocol.hello(client=client, identity=identity, credentials=credentials)
        return [hello, *self.protocol.restore(resume)]

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
        protocol = self.protocol
        resume = protocol.snapshot()
        message = next(s for s in resume.subscriptions if s.subscription == feed.id)
        self._take_back(message)
        goodbye = protocol.unsubscribe(feed.id)
        del self.feeds[feed.id]
        feed.id = message.subscription = protocol.new_id()
        self.feeds[feed.id] = feed
        return [goodbye, *protocol.restore(Resume([], [message]))]

    def _take_back(self, subscription: m.Subscribe) -> None:
        """Have it begin where its feed began to drop."""
        feed = self.feeds.get(subscription.subscription)
        if feed is None:
            return
        subscription.start.positions.update(feed.dropped)
        feed.dropped.clear()

    # ---- input ----

    def receive(self, buffer: bytearray, start: int, end: int) -> int:
        """Take what stands in ``buffer[start:end]``; returns where the rest begins.

        Raises:
            MalformedInput, VersionRefused: the broker broke the protocol; ``protocol.output``
                holds what to tell it.
        """
        protocol = self.protocol
        receive, feeds, names = protocol.receive, self.feeds, protocol.stream_names
        while start < end:
            event = receive(buffer, start, end)
            start = protocol.position
            if event is None:
                return start
            if event.__class__ is BatchReceived:
                feed = feeds.get(event.subscription)
                if feed is None:
                    continue
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
        if feed.dropped:
            feed.drop(name, gap.first - 1)
        else:
            feed.add_gap(Gap(name, gap.first, gap.last, gap.reason))

    def _on_commit(self, commit: m.Commit) -> None:
        feed = self.feeds.get(commit.subscription)
        if feed is not None:
            feed.commits += 1

    def _on_pong(self, pong: m.Pong) -> None:
        self.pings.discard(pong.token)  # one that nobody awaits any more is none of them

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
