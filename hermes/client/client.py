"""The synchronous client: a shell that moves bytes inside its callers' calls.

It has no thread of its own.  One lock guards its state and is never held while it waits for bytes; of
the threads that wait for input one reads for all (``_pumping``), the others sleep until it has.
Sending a single message takes no lock at all: see :mod:`hermes.client.publisher`.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from hermes.client.inbox import Inbox
from hermes.client.link import Link, Output
from hermes.client.output import ChannelOutput
from hermes.client.publisher import Publisher
from hermes.client.session import Answer, Feed, Line, Session
from hermes.client.starts import StartPoint, start_of
from hermes.client.subscription import OnGap, Subscription
from hermes.errors import (
    Closed,
    ConnectFailed,
    ConnectionLost,
    Forked,
    HermesError,
    MalformedInput,
    PeerError,
    Refused,
    Timeout,
    UsageError,
)
from hermes.native.frames import HEADER_SIZE
from hermes.native.outbox import CAPACITY, CAPACITY_MIN, Flusher, Outbox
from hermes.native.patterns import check_pattern, check_topic
from hermes.transport import Channel, medium_of
from hermes.url import Url, parse_url
from hermes.wire.client import ClientState
from hermes.wire.messages import AckLevel

DEFAULT_URL = "tcp://127.0.0.1:7601"
TIMEOUT_S = 5.0
"""Seconds a call waits for the broker, unless told otherwise."""
RECONNECT_S = 30.0
"""Seconds a client tries to connect again after a connection broke."""
ATTEMPT_S = 5.0
"""Seconds one attempt may take: a broker that is up answers sooner."""
BACKOFF_MIN_S, BACKOFF_MAX_S = 0.02, 1.0
"""Pause between attempts: doubled each time, and shortened at random so that clients spread."""
LASTING_NS = 1_000_000_000
"""A connection that comes back and breaks within this time counts as another attempt that failed."""
SLICE_NS = 200_000_000
"""How long a thread waits at a time: how late it may notice that another closed or reconnected."""
QUEUE_MAX = 8 << 20
"""Bytes a subscription may have waiting while others on its client are read; then reading stops."""
QUEUES_DROP = 4
"""Times that much may wait while an answer is: it stands behind what is on the way already, which
is about 10 MB in the sockets of both ends.  What comes then is dropped, and asked for again."""
NS_PER_S = 1_000_000_000

_SPEAKING = (ClientState.GREETING, ClientState.OPEN)

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def connect(
    url: str | None = None,
    *,
    timeout: float | None = TIMEOUT_S,
    name: str | None = None,
    reconnect: bool | float = True,
    spin: float = 0.0,
    queue_bytes: int = QUEUE_MAX,
    identity: str | None = None,
    credentials: Mapping[str, str] | None = None,
) -> Client:
    """Connect to a broker.

    ``url`` defaults to the environment's ``HERMES_URL``, then to ``tcp://127.0.0.1:7601``.
    ``timeout``: seconds that calls wait for the broker; None: for ever.  ``name``: shown by
    ``hermes stats``.  ``reconnect``: seconds to go on trying after a connection broke; True: 30;
    False: not at all.  ``spin``: seconds to try reading before a thread that waits for messages is
    put to sleep: saves the wake-up, burns a core meanwhile.  ``queue_bytes``: what a subscription
    may have waiting while others on this client are read.  ``identity`` and ``credentials``: who
    we say we are, and what proves it, for a broker that asks; as in ``tcp://NAME:PASSWORD@HOST``,
    where the password is the credential ``password``.  They are never logged.

    Raises:
        ConnectFailed: nobody answered there.
        InvalidUrl: the URL makes no sense.
        AuthenticationFailed, VersionRefused, Refused: the broker does not want us.
        Timeout: somebody answered, but not in time.
    """
    bound = RECONNECT_S if reconnect is True else float(reconnect)
    return Client(
        parse_url(url or os.environ.get("HERMES_URL") or DEFAULT_URL),
        timeout=timeout,
        name=name,
        reconnect_s=bound,
        spin_ns=int(spin * NS_PER_S),
        queue_bytes=queue_bytes,
        identity=identity,
        credentials=credentials,
    )


class Client:
    """A connection to a broker, shared by its publishers and subscriptions; see :func:`connect`.

    Any thread may use it, and everything made from it.  A forked child may not: it gets
    :exc:`Forked`.
    """

    def __init__(
        self,
        url: Url,
        *,
        timeout: float | None,
        name: str | None,
        reconnect_s: float,
        spin_ns: int,
        queue_bytes: int,
        identity: str | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self._identity = url.username if identity is None else identity
        password = {} if url.password is None else {"password": url.password}
        self._credentials = {**password, **(credentials or {})}
        self.timeout = timeout
        """Seconds that calls wait for the broker; None: for ever."""
        self._name = name
        self._reconnect_ns = int(reconnect_s * NS_PER_S)
        self._spin_ns = spin_ns
        self._queue_bytes = queue_bytes
        self._asking = 0
        """Calls that wait for an answer, which may stand behind what nobody consumes meanwhile."""
        self._closed = True
        self._forked = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sleepers = 0
        self._pumping = False
        self._link: Link | None = None
        self._failure: HermesError | None = None
        self._lost_ns = self._next_ns = self._since_ns = 0
        self._attempts = 0
        channel = self._dial(self.deadline(timeout))
        native = channel.stream_fd is not None or medium_of(channel) is not None
        self._output: Output = Flusher() if native else ChannelOutput()
        self._session = Session(self._output, queue_bytes * QUEUES_DROP)
        self._inbox = Inbox()
        self._closed = False
        _clients.add(self)
        try:
            with self._lock:
                self._establish(channel, self.deadline(timeout))
        except BaseException:
            self._drop()
            raise

    # ---- what a user calls ----

    def publisher(
        self,
        topic: str | None = None,
        *,
        ack: AckLevel = "appended",
        linger: float | None = None,
        window: int = CAPACITY,
        publisher_id: bytes | None = None,
        timeout: float | None = None,
    ) -> Publisher:
        """Open a publisher.

        ``topic``: what its messages carry unless told otherwise.  ``ack``: what is waited for
        before a message is forgotten: ``none``, ``appended`` (it is in the log) or ``durable`` (on
        disk).  ``linger``: seconds a message may wait for others to share a system call; None: it
        goes out at once.  ``window``: bytes that may be unacknowledged.  ``publisher_id``: 16 bytes
        that name the publisher across connections and processes: messages go on behind the last
        one the broker has of it.

        Raises:
            InvalidTopic: the topic is not legal.
            Refused: the broker cannot give this acknowledgement, or not one publisher more.
        """
        self.check()
        name = None if topic is None else _encoded_topic(topic)
        linger_ns = 0 if linger is None else round(linger * NS_PER_S)
        if linger_ns < 0:
            raise UsageError(f"linger is a time in seconds, not {linger}")
        if window < CAPACITY_MIN:
            raise UsageError(f"window has {CAPACITY_MIN} bytes at least, not {window}")
        if publisher_id is not None and len(publisher_id) != 16:
            raise UsageError(f"publisher_id has 16 bytes, not {len(publisher_id)}")
        deadline = self.deadline(timeout)
        with self.locked(deadline):
            self._until(self._greeted_there, deadline, "opening a publisher")
            line = self._open_line(ack, publisher_id, linger_ns, window, deadline)
        return Publisher(self, line, name, ack)

    def subscribe(
        self,
        pattern: str,
        *,
        start: StartPoint = "latest",
        durable: str | None = None,
        on_gap: OnGap = "raise",
        timeout: float | None = None,
    ) -> Subscription:
        """Subscribe to the topics that ``pattern`` matches.

        The broker has confirmed when this returns: what is published from then on is seen.
        ``start``: see :data:`~hermes.client.starts.StartPoint`.  ``durable``: name under which the
        broker keeps the position given by :meth:`Subscription.commit`; where there is one, it is
        where the subscription begins.  ``on_gap``: what to do when messages are missing:
        ``raise`` :exc:`GapDetected` (once; the subscription can be read on), ``skip`` them, or call
        a function.

        Raises:
            InvalidTopic: the pattern is not legal.
            Refused: the broker says no; the message says why.
        """
        self.check()
        check_pattern(pattern)
        point = start_of(start, durable)
        deadline = self.deadline(timeout)
        with self.locked(deadline):
            self._until(self._greeted_there, deadline, "subscribing")
            protocol = self._session.protocol
            feed = Feed(protocol.new_id(), pattern, durable)
            self._session.feeds[feed.id] = feed
            try:
                self._say(protocol.subscribe(feed.id, pattern, start=point, durable=durable))
                self._round_trip(lambda: feed.failure is not None, deadline, f"to {pattern!r}")
                if feed.failure is not None:
                    raise feed.failure
            except BaseException:
                self.close_feed(feed)
                raise
        return Subscription(self, feed, on_gap)

    def query(self, what: str, *, timeout: float | None = None, **arguments: str) -> Any:
        """Ask the broker about itself: ``streams``, ``topics``, ``stats`` or ``config``.

        Raises:
            Refused: it does not answer that.
        """
        self.check()
        deadline = self.deadline(timeout)
        with self.locked(deadline):
            while True:
                answer = self._ask(what, arguments, deadline)
                if answer.failure is not None:
                    raise answer.failure
                if answer.complete:
                    return answer.value()

    def streams(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The broker's streams."""
        found: list[dict[str, Any]] = self.query("streams", timeout=timeout)
        return found

    def topics(
        self,
        pattern: str | None = None,
        *,
        stream: str | None = None,
        timeout: float | None = None,
    ) -> list[dict[str, Any]]:
        """The topics the broker knows, of one pattern and stream or all."""
        arguments = {"pattern": pattern, "stream": stream}
        given = {name: value for name, value in arguments.items() if value is not None}
        found: list[dict[str, Any]] = self.query("topics", timeout=timeout, **given)
        return found

    def stats(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The broker's counters."""
        found: dict[str, Any] = self.query("stats", timeout=timeout)
        return found

    def ping(self, *, timeout: float | None = None) -> float:
        """Wait for the broker to answer; returns how long it took, seconds."""
        self.check()
        deadline = self.deadline(timeout)
        begun = time.perf_counter()
        with self.locked(deadline):
            self._round_trip(lambda: False, deadline, "a ping")
        return time.perf_counter() - begun

    @property
    def limits(self) -> dict[str, int]:
        """What the broker accepts: ``message_max`` and others, by name."""
        limits = self._session.limits
        return {name: getattr(limits, name) for name in limits.__struct_fields__}

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._link is not None and not self._closed

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called, or the connection is given up."""
        return self._closed or self._failure is not None

    def close(self, timeout: float | None = None) -> None:
        """End in order: what was published is sent and acknowledged first.  Idempotent.

        Raises:
            Timeout: that took longer than ``timeout`` seconds (the client's own by default); the
                client is closed all the same, and the message says what is not acknowledged.
        """
        if self._closed or self._forked:
            return
        deadline = self.deadline(timeout)
        problem: HermesError | None = None
        try:
            with self.locked(deadline):
                if self._failure is None:
                    self._until(self._all_settled, deadline, "closing", writing=True)
        except HermesError as error:
            left = sum(line.unacknowledged for line in self._session.lines.values())
            problem = type(error)(f"{error}; {left} messages are unacknowledged") if left else None
        for line in self._session.lines.values():
            if line.failure is not None and problem is None:
                problem = line.lost()
        if self._failure is not None and problem is None:
            problem = self.lost(list(self._session.lines.values()))
        try:
            self._shake_hands(deadline)
        finally:
            self._drop()
        if problem is not None:
            raise problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(HermesError):  # the error under way says more
            self.close(timeout=0 if issubclass(kind, Timeout) else None)

    def __del__(self) -> None:
        if not self._closed and not self._forked:
            text = f"client of {self.url} was not closed"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)
            self._drop()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected" if self.connected else "reconnecting"
        return f"<Client of {self.url}, {state}>"

    # ---- for publishers and subscriptions ----

    def deadline(self, timeout: float | None) -> int | None:
        """When ``timeout`` seconds from now are over; None: never.  None means the client's own."""
        seconds = self.timeout if timeout is None else timeout
        return None if seconds is None else time.monotonic_ns() + int(seconds * NS_PER_S)

    def check(self) -> None:
        """Raise unless the client is usable."""
        if self._forked:
            raise Forked(
                "this client was made before the fork: connect in the child for one of its own"
            )
        if self._closed:
            raise Closed("the client is closed")
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def lost(self, lines: list[Line]) -> HermesError | None:
        """What to tell about ``lines`` now that the connection is given up; None: nothing is missing."""
        for line in lines:
            line.settle()
        left = sum(line.unacknowledged for line in lines)
        failure = self._failure
        if failure is None or not left:
            return None
        return type(failure)(f"{failure}; {left} messages are unacknowledged")

    def lock(self, deadline: int | None) -> None:
        """Take the lock.

        Raises:
            Timeout: another thread had it until the deadline.
            Forked: this is a child, where it may be held for ever.
        """
        if self._forked:
            self.check()
        if not self._lock.acquire(blocking=False) and not self._lock.acquire(
            timeout=_seconds_until(deadline)
        ):
            raise Timeout("another thread held the client until the deadline: it is reconnecting")

    def unlock(self) -> None:
        """Let the lock go."""
        self._lock.release()

    @contextlib.contextmanager
    def locked(self, deadline: int | None) -> Iterator[None]:
        """The lock, for as long as the caller may wait."""
        self.lock(deadline)
        try:
            yield
        finally:
            self.unlock()

    def wait(
        self, ready: Callable[[], bool], deadline: int | None, *, writing: bool = False
    ) -> bool:
        """Move bytes until ``ready()``; False if the deadline passes first.  The lock is held.

        Raises:
            Closed, ConnectionLost, PeerError: that will not come to be.
        """
        while not ready():
            self.check()
            now = time.monotonic_ns()
            left = SLICE_NS if deadline is None else min(deadline - now, SLICE_NS)
            if self._link is None:
                if left <= 0:
                    return False
                self._reconnect(now, left, deadline)
                continue
            link = self._link
            try:
                self._step(link, ready, max(left, 0), writing)
            except ConnectionLost as error:
                if self._link is link:  # else another thread found out first
                    self._lost(error)
                continue
            except PeerError as error:
                self._give_up(error)
                raise
            if left <= 0:
                return ready()
        return True

    def tend(self) -> None:
        """Take what has arrived and send what waits, without waiting, if nobody else is at it."""
        if self._lock.acquire(blocking=False):
            try:
                if self._closed or self._failure is not None:
                    return
                if self._link is None:
                    now = time.monotonic_ns()
                    self._reconnect(now, 0, now + int(ATTEMPT_S * NS_PER_S))
                elif not self._pumping:
                    self.wait(lambda: False, 0, writing=True)
            finally:
                self._lock.release()

    def _until(
        self,
        ready: Callable[[], bool],
        deadline: int | None,
        what: str,
        *,
        writing: bool = False,
    ) -> None:
        if not self.wait(ready, deadline, writing=writing):
            raise Timeout(f"{what} took too long: {self.obstacle()}")

    def _answer_to(self, ready: Callable[[], bool], deadline: int | None, what: str) -> None:
        """Wait for an answer; full subscriptions do not stop the reading."""
        self._asking += 1
        self.freed()
        try:
            self._until(ready, deadline, what, writing=True)
        finally:
            self._asking -= 1

    def obstacle(self) -> str:
        """What may keep the broker from answering, for a message."""
        full = [feed.pattern for feed in self._session.feeds.values() if self._is_full(feed)]
        if full:
            names = " and ".join(map(repr, full))
            return (
                f"nothing is read any more, because subscription {names} has {self._queue_bytes} "
                "bytes waiting: consume it, or give it a client of its own"
            )
        if self._link is None:
            return f"there is no connection to {self.url}: the broker is gone, or restarting"
        return f"the broker at {self.url} has not answered in time"

    def freed(self) -> None:
        """Something was consumed: who stopped reading may go on."""
        if self._sleepers:
            self._changed.notify_all()

    # ---- moving bytes; the lock is held ----

    def _is_full(self, feed: Feed) -> bool:
        return feed.queued_bytes >= self._queue_bytes

    def _full(self) -> bool:
        if self._asking:
            return False
        limit = self._queue_bytes
        for feed in self._session.feeds.values():  # noqa: SIM110 - a third of what any() costs
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

    def receive_for(self, take: Callable[[Inbox, Session], None], timeout_ns: int) -> None:
        """Read once, offering what comes to ``take`` before it is looked at in general.

        Does nothing if that cannot be done right now: :meth:`wait` knows why.  The lock is held.
        """
        link = self._link
        if link is None or self._pumping or self._closed or self._forked or self._full():
            return
        try:
            self._pump(link, timeout_ns, False, take)
        except ConnectionLost as error:
            if self._link is link:  # else another thread found out first
                self._lost(error)
        except PeerError as error:
            self._give_up(error)
            raise

    def _pump(
        self,
        link: Link,
        left_ns: int,
        blocked: bool,
        take: Callable[[Inbox, Session], None] | None = None,
    ) -> None:
        """Read once, for everybody."""
        inbox, session = self._inbox, self._session
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
        if link is not self._link or size < 0:
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
        output = self._session.protocol.output
        frames = b"".join(output)
        output.clear()
        link.write(frames)

    def _say(self, frame: bytes) -> None:
        """Send a frame that a new connection would make up for, should this one be broken."""
        link = self._link
        assert link is not None
        try:
            link.write(frame)
        except ConnectionLost as error:
            self._lost(error)

    def _dismissed(self) -> None:
        """The broker has ended the connection: with an error, or with Close."""
        session = self._session
        if session.failure is not None:
            if not session.failure_passes:
                self._give_up(session.failure)
                raise session.failure
            raise ConnectionLost(f"the broker ended the connection: {session.failure}")
        if session.protocol.state is ClientState.PEER_CLOSED:
            with contextlib.suppress(ConnectionLost):
                self._say(session.protocol.close())
            raise ConnectionLost("the broker closed the connection: it is stopping")

    def _ended(self) -> ConnectionLost:
        self._session.protocol.eof()
        return ConnectionLost("the broker ended the connection without a word: it was killed?")

    def _round_trip(self, ready: Callable[[], bool], deadline: int | None, what: str) -> None:
        """Wait until the broker has answered everything sent so far, or ``ready``."""
        self._until(self._greeted_there, deadline, what)
        token = secrets.randbits(62)
        session, protocol = self._session, self._session.protocol
        self._say(protocol.ping(token))

        def answered() -> bool:
            return token in session.pongs or ready() or session.protocol is not protocol

        self._answer_to(answered, deadline, what)
        session.pongs.discard(token)
        if session.protocol is not protocol:  # reconnected: what was asked is asked again by itself
            self._round_trip(ready, deadline, what)

    # ---- connecting ----

    def _dial(self, deadline: int | None) -> Channel:
        from hermes.plugins import default_plugins

        transport = default_plugins().transport(self.url.scheme)
        left = -1 if deadline is None else max(1, deadline - time.monotonic_ns())
        return transport.dial(self.url, left)

    def _establish(self, channel: Channel, deadline: int | None) -> None:
        """Greet the broker on a new channel and take the session over to it.  The lock is held."""
        session = self._session
        frames = session.begin(
            client=_introduction(self._name),
            identity=self._identity,
            credentials=self._credentials,
        )
        self._inbox.clear()
        link = self._link = Link(channel, self._inbox, self._output)
        try:
            link.write(b"".join(frames))
            while not self._greeted():
                left = SLICE_NS if deadline is None else deadline - time.monotonic_ns()
                if left <= 0:
                    raise Timeout(
                        f"{self.url} accepted the connection but did not answer in time: "
                        "is that a Hermes broker?"
                    )
                self._step(link, self._greeted, min(left, SLICE_NS), True)
            self._resume_lines(link)
            self._since_ns = time.monotonic_ns()
        except BaseException:
            if self._link is link:  # else another thread found out first
                self._link = None
                link.retire()
            raise
        if self._sleepers:
            self._changed.notify_all()

    def _greeted_there(self) -> bool:
        return self._link is not None and self._session.protocol.welcome is not None

    def _greeted(self) -> bool:
        session = self._session
        return session.protocol.welcome is not None and all(
            line.opened is not None for line in session.lines.values() if line.failure is None
        )

    def _resume_lines(self, link: Link) -> None:
        for line in self._session.lines.values():
            outbox = line.outbox
            if outbox is None or line.opened is None or line.failure is not None:
                continue
            outbox.limit(self._session.limits.message_max)
            self._check_opened(line, outbox, line.opened)
            if line.failure is None:
                link.output.resume(outbox)
        link.output.drain()

    def _check_opened(
        self, line: Line, outbox: Outbox, sequence: int, *, taken: bool = False
    ) -> None:
        """The broker's highest number of this publisher must be one of ours; ``taken``: another
        program had the publisher's id meanwhile, and may have used our numbers.

        It acknowledges nothing: what it stands for need not be on disk, and another stream, which
        lost more in a power failure, may have less.  What is not acknowledged is sent again.
        """
        line.settle()
        known = sequence <= outbox.status().acked or (not taken and sequence <= outbox.offered)
        if not known:
            line.failure = Refused(
                f"the broker has message {sequence} of this publisher, which does not come from "
                "here: another program uses its publisher_id",
                code="publisher_taken",
            )
            outbox.close()
        line.settle()

    def _lost(self, error: ConnectionLost) -> None:
        """The connection broke: take it down, and begin to try again unless that is not wanted."""
        link, self._link = self._link, None
        if link is not None:
            link.retire()
        if self._closed or self._reconnect_ns <= 0:
            self._give_up(error)
            raise error
        for line in self._session.lines.values():
            if line.outbox is not None:
                line.outbox.rewind()  # what was not acknowledged is not on any wire
        now = time.monotonic_ns()
        if self._attempts and now - self._since_ns < LASTING_NS:
            self._failed_attempt(error)
            return
        self._lost_ns = self._next_ns = now
        self._attempts = 0

    def _give_up(self, error: HermesError) -> None:
        self._failure = error
        link, self._link = self._link, None
        if link is not None:
            link.retire()
        for line in self._session.lines.values():
            if line.outbox is not None:
                line.outbox.close()
        if self._sleepers:
            self._changed.notify_all()

    def _reconnect(self, now: int, left_ns: int, deadline: int | None) -> None:
        """Try to connect again, if it is time to; else wait a little."""
        if now < self._next_ns:
            self._sleepers += 1
            try:
                self._changed.wait(min(self._next_ns - now, left_ns) / NS_PER_S)
            finally:
                self._sleepers -= 1
            return
        attempt = now + int(ATTEMPT_S * NS_PER_S)
        limit = attempt if deadline is None else min(attempt, deadline)
        self._attempts += 1
        try:
            self._establish(self._dial(limit), limit)
        except (ConnectFailed, ConnectionLost, Timeout) as error:
            self._failed_attempt(error)
        except HermesError as error:
            self._give_up(error)
            raise

    def _failed_attempt(self, error: HermesError) -> None:
        now = time.monotonic_ns()
        if now - self._lost_ns >= self._reconnect_ns:
            waited = (now - self._lost_ns) / NS_PER_S
            lost = ConnectionLost(
                f"the connection to {self.url} broke and {self._attempts} attempts in "
                f"{waited:.1f} s did not bring it back; the last one: {error}"
            )
            self._give_up(lost)
            raise lost from error
        pause = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(self._attempts, 16))
        self._next_ns = now + int(pause * random.uniform(0.5, 1.0) * NS_PER_S)

    # ---- publishers and subscriptions ----

    def _ask(self, what: str, arguments: dict[str, str], deadline: int | None) -> Answer:
        """Ask once; incomplete if the connection broke meanwhile."""
        self._until(self._greeted_there, deadline, f"asking for {what}")
        session, protocol = self._session, self._session.protocol
        number, answer = protocol.new_id(), Answer()
        session.answers[number] = answer

        def over() -> bool:
            done = answer.complete or answer.failure is not None
            return done or session.protocol is not protocol

        try:
            self._say(protocol.query(number, what, arguments))
            self._answer_to(over, deadline, f"asking for {what}")
        finally:
            del session.answers[number]
        return answer

    def _open_line(
        self,
        ack: AckLevel,
        publisher_id: bytes | None,
        linger_ns: int,
        window: int,
        deadline: int | None,
    ) -> Line:
        session = self._session
        protocol = session.protocol
        assert protocol.welcome is not None
        if ack == "durable" and not protocol.welcome.durable:
            raise Refused(
                "this broker's storage cannot promise durable acknowledgements: ask for "
                "'appended', or start the broker with --storage mmap:",
                code="durable_unavailable",
            )
        line = Line(protocol.new_id(), publisher_id or secrets.token_bytes(16), ack)
        session.lines[line.id] = line
        try:
            self._say(protocol.open_publisher(line.id, line.publisher_id, ack))
            first = 1
            if publisher_id is not None:
                self._until(
                    lambda: line.opened is not None or line.failure is not None,
                    deadline,
                    "opening a publisher",
                )
                if line.failure is not None:  # right behind the answer
                    raise line.failure
                assert line.opened is not None
                first = line.opened + 1
            outbox = Outbox(capacity=window, id=line.id, first_sequence=first)
            outbox.limit(session.limits.message_max)
            self._output.add(outbox, linger_ns)
            line.outbox, line.lingers = outbox, linger_ns > 0
        except BaseException:
            self.close_line(line)
            raise
        return line

    def close_line(self, line: Line) -> None:
        """End a publisher.  The lock is held."""
        outbox = line.outbox
        if self._session.lines.pop(line.id, None) is None:
            return
        if outbox is not None:
            outbox.close()
            self._output.remove(outbox)
        protocol = self._session.protocol
        if self._link is not None and protocol.state in _SPEAKING:
            frame = protocol.close_publisher(line.id)
            with contextlib.suppress(ConnectionLost):  # found out by whoever needs the connection
                if frame:
                    self._say(frame)

    def abandon_line(self, line: Line) -> HermesError | None:
        """End a publisher whose connection is given up; what to tell about it, which is told once."""
        if self._forked or self._closed or self._session.lines.pop(line.id, None) is None:
            return None
        return self.lost([line])

    def reopen_line(self, line: Line, deadline: int | None) -> None:
        """Open a refused publisher again and send what is not acknowledged.  The lock is held."""
        outbox = line.outbox
        assert outbox is not None
        self._until(self._greeted_there, deadline, "opening the publisher again")
        before, line.failure = line.failure, None
        protocol = self._session.protocol
        if line.opened is None:  # else a new connection has opened it already
            self._say(protocol.open_publisher(line.id, line.publisher_id, line.level))
        self._until(
            lambda: line.opened is not None or line.failure is not None,
            deadline,
            "opening the publisher again",
        )
        if line.failure is not None:
            raise line.lost()
        outbox.reopen()
        if self._session.protocol is protocol:
            assert line.opened is not None
            taken = isinstance(before, Refused) and before.code == "publisher_taken"
            self._check_opened(line, outbox, line.opened, taken=taken)
            if line.failure is not None:
                raise line.lost()
            self._until(
                lambda: self._output.resume(outbox), deadline, "sending again", writing=True
            )

    def commit(self, feed: Feed, positions: dict[str, int], deadline: int | None) -> None:
        """Store positions and wait for the broker to confirm.  The lock is held."""
        while True:
            self._until(self._greeted_there, deadline, "committing")
            protocol, before = self._session.protocol, feed.commits
            feed.commit_failure = None
            self._say(protocol.commit(feed.id, positions))

            def answered(protocol: object = protocol, before: int = before) -> bool:
                # A subscription that is refused, or a new connection, will not bring the answer.
                other = self._session.protocol is not protocol or feed.failure is not None
                return feed.commits != before or other

            self._answer_to(answered, deadline, "committing")
            if feed.commits != before or feed.failure is not None:
                break
        failure = feed.failure or feed.commit_failure
        if failure is not None:
            raise failure

    def recall(self, feed: Feed) -> None:
        """Ask for what ``feed`` had no room for.  The lock is held."""
        # Not while an answer is awaited: it may be one to this subscription.
        is_open = self._session.protocol.state is ClientState.OPEN
        if self._link is not None and is_open and feed.failure is None and not self._asking:
            self._say(b"".join(self._session.again(feed)))

    def close_feed(self, feed: Feed) -> None:
        """End a subscription.  The lock is held."""
        protocol = self._session.protocol
        open_there = feed.failure is None and feed.id in self._session.feeds
        self._forget_feed(feed)
        if open_there and self._link is not None and protocol.state in _SPEAKING:
            with contextlib.suppress(ConnectionLost):  # found out by whoever needs the connection
                self._say(protocol.unsubscribe(feed.id))

    def _forget_feed(self, feed: Feed) -> None:
        self._session.feeds.pop(feed.id, None)
        feed.queue.clear()
        feed.queued_bytes = 0
        self.freed()

    def fail(self, error: MalformedInput) -> None:
        """What the broker delivered is not sound: end the connection.  The lock is held."""
        self._give_up(error)

    # ---- closing ----

    def _all_settled(self) -> bool:
        for line in self._session.lines.values():
            line.settle()
            if line.failure is None and line.unacknowledged:
                return False
        return True

    def _shake_hands(self, deadline: int | None) -> None:
        """Close, then read on until the broker's Close."""
        with contextlib.suppress(HermesError), self.locked(deadline):
            link, session = self._link, self._session
            if link is None or self._failure is not None:
                return
            for feed in session.feeds.values():  # what still comes is not wanted
                feed.queue.clear()
                feed.queued_bytes = 0
            session.feeds.clear()
            link.write(session.protocol.close())
            self._reconnect_ns = 0
            self.wait(lambda: session.closed, deadline, writing=True)

    def _drop(self) -> None:
        """Let go of everything, at once."""
        self._closed = True
        with self._lock:
            link, self._link = self._link, None
            for line in self._session_lines():
                if line.outbox is not None:
                    line.outbox.close()
            if link is not None:
                link.retire()
            self._changed.notify_all()
        output = getattr(self, "_output", None)
        if output is not None:
            output.close()

    def _session_lines(self) -> list[Line]:
        session = getattr(self, "_session", None)
        return [] if session is None else list(session.lines.values())

    def mark_forked(self) -> None:
        """This is a child of the process that made the client: nothing here works any more."""
        self._forked = True
        for line in self._session_lines():
            if line.outbox is not None:
                line.outbox.close()


def _mark_forked() -> None:
    for client in list(_clients):
        client.mark_forked()


os.register_at_fork(after_in_child=_mark_forked)


def _encoded_topic(topic: str) -> bytes:
    check_topic(topic)
    return topic.encode()


def _introduction(name: str | None) -> str:
    from importlib.metadata import version

    library = f"hermes-python/{version('hermes-broker')}"
    return f"{library} {name}" if name else f"{library} pid {os.getpid()}"


def _seconds_until(deadline: int | None) -> float:
    return -1 if deadline is None else max(0.0, (deadline - time.monotonic_ns()) / NS_PER_S)
