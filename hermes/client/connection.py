"""A connection that comes back: greeting the broker, taking a session over, trying again, ending.

This is what a client, its publishers and its subscriptions share, and what lives as long as one of
them does.  What is open outlives a link (:mod:`hermes.client.session`).  Knows nothing of what is
asked for over it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from hermes.base.checks import FOR_EVER_NS
from hermes.base.closing import AtExit, at_exit
from hermes.client.keeper import KEEPER
from hermes.client.link import Link, Output
from hermes.client.output import ChannelOutput
from hermes.client.pump import ATTEMPT_S, NS_PER_S, SLICE_NS, Pump, Slip, deadline_of, open_pumps
from hermes.client.session import Feed, Line, Segment, Session
from hermes.client.steps import Steps
from hermes.errors import (
    ConnectFailed,
    ConnectionLost,
    HermesError,
    InvalidUrl,
    MalformedInput,
    Refused,
    Timeout,
    restated,
)
from hermes.native.outbox import Flusher, Outbox
from hermes.spi.transport import Channel, Transport, medium_of, refuse_listen_options
from hermes.spi.url import Url
from hermes.wire.client import ClientState, what_answers

LOG = logging.getLogger("hermes.client")

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.02, 1.0
"""Pause between attempts: doubled each time, and shortened at random so that clients spread."""
SLIPS_MAX = 5
"""Times in a row the broker may break the protocol, or end a connection with the same error, before a
client gives up: what one connection cannot bear, such as changed bytes, the next may not meet."""
SLIP_NS = 10_000_000_000
"""A slip this long after the one before it begins a new row."""
WORDS_MAX = 64
"""Bytes looked at of what is no broker: enough to tell what it is."""
HUNG_UP = (
    "that was before the broker said anything: check that a Hermes broker listens there, and for this "
    "scheme (if it is a ZeroMQ socket: use zmq+tcp://)"
)
_SPEAKING = (ClientState.GREETING, ClientState.OPEN)
LASTING_NS = 1_000_000_000
"""A connection that comes back and breaks within this time counts as another attempt that failed."""
DIAL_MAX_NS = 7 * 86400 * NS_PER_S
"""Time-outs over a week are none to a transport: many system calls count milliseconds in 31 bits."""
EXIT_S = 5.0
"""Seconds at the end of the program for what clients that are still open have not sent yet."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client connects, checked; see :func:`hermes.connect`."""

    url: Url
    timeout: float | None
    name: str | None = None
    reconnect_ns: int = 0
    spin_ns: int = 0
    queue_bytes: int = 1
    identity: str | None = None
    credentials: Mapping[str, str] | None = None


class Connection(Pump):
    """Connects when it is told to, and again when that is lost."""

    def __init__(self, settings: Settings, transport: Transport, channel: Channel) -> None:
        """``channel`` is one of those that the client will have, and tells what its ways out are."""
        self.closed = True  # there is nothing to close yet
        url = settings.url
        native = channel.stream_fd is not None or medium_of(channel) is not None
        output: Output = Flusher() if native else ChannelOutput()
        super().__init__(
            url,
            Session(output, settings.queue_bytes),
            output,
            timeout=settings.timeout,
            spin_ns=settings.spin_ns,
        )
        self._transport = transport
        self._identity = url.username if settings.identity is None else settings.identity
        password = {} if url.password is None else {"password": url.password}
        self._credentials = {**password, **(settings.credentials or {})}
        self._name = settings.name
        self._reconnect_ns = settings.reconnect_ns
        self._lost_ns = self._next_ns = self._since_ns = 0
        self._attempts = 0
        self._slip: tuple[type, str] | None = None
        self._slip_ns = self._slips = 0
        self._ours = False
        """Whether the last connection was given up because a call was interrupted."""

    @classmethod
    def open(cls, settings: Settings) -> Connection:
        """Connect, and have the keeper look after it.

        Raises: as :func:`hermes.connect`.
        """
        transport = transport_for(settings.url)
        channel = dial(transport, settings.url, deadline_of(settings.timeout))
        self = cls(settings, transport, channel)
        try:
            with self.locked(None):
                self._establish(channel, self.deadline(None))
        except Slip as slip:
            self._drop()
            raise slip.error from None
        except BaseException:
            self._drop()
            raise
        KEEPER.add(self)
        return self

    # ---- connecting ----

    def _establish(self, channel: Channel, deadline: int | None) -> None:
        """Greet the broker on a new channel and take the session over to it.  The lock is held."""
        link = self._greet(channel)
        try:
            while not self._resumed():
                self.go_on()
                left = SLICE_NS if deadline is None else deadline - time.monotonic_ns()
                if left <= 0:
                    raise self._unanswered()
                self._step(link, self._resumed, min(left, SLICE_NS), True)
                if self.link is not link:
                    raise ConnectionLost("another call has ended the connection")
            self._take_over(link)
        except BaseException as error:
            self._leave(link, error)
            raise

    def _greet(self, channel: Channel) -> Link:
        """Begin on a new channel, which is closed if that fails."""
        try:
            frames = self.session.begin(
                client=_introduction(self._name),
                identity=self._identity,
                credentials=self._credentials,
            )
        except BaseException:  # no link owns the channel yet
            channel.close()
            raise
        link = self.link = Link(channel, self.output)
        try:
            link.write(b"".join(frames))
        except BaseException as error:
            self._leave(link, error)
            raise
        return link

    def _take_over(self, link: Link) -> None:
        """The broker has answered the greeting: go on with all that is open."""
        self._resume_lines(link)
        self._since_ns = time.monotonic_ns()
        self.wake()

    def _leave(self, link: Link, error: BaseException) -> None:
        """The greeting on ``link`` came to ``error``: raise what that says of the broker, if it says
        anything."""
        unknown = isinstance(error, ConnectionLost) and self.session.protocol.welcome is None
        words = _last_words(link.channel) if unknown else b""
        if self.link is link:  # else another thread found out first
            self._retire()
        if words:
            text = f"{what_answers(words)} [not_hermes]"
            raise MalformedInput(text, code="not_hermes") from error
        if unknown:
            raise ConnectionLost(f"{error}; {HUNG_UP}") from error

    def _unanswered(self) -> Timeout:
        return Timeout(
            f"{self.url} accepted the connection but did not answer in time: is that a Hermes broker?"
        )

    def _resumed(self) -> bool:
        session = self.session
        return session.protocol.welcome is not None and all(
            line.opened is not None for line in session.lines.values() if line.failure is None
        )

    def _resume_lines(self, link: Link) -> None:
        for line in self.session.lines.values():
            outbox = line.outbox
            if outbox is None or line.opened is None or line.failure is not None:
                continue
            outbox.limit(self.session.limits.message_max)
            self.check_opened(line, outbox, line.opened)
            if line.failure is None:
                link.output.resume(outbox)
        link.output.drain()

    def check_opened(
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

    # ---- again ----

    def _broke(self, error: ConnectionLost, *, ours: bool = False) -> None:
        """The connection broke: take it down, and begin to try again unless that is not wanted."""
        now = time.monotonic_ns()
        again = not ours and self._attempts > 0 and now - self._since_ns < LASTING_NS
        if not again:  # first: should an interrupt come between, the next attempt is not the last
            self._lost_ns = self._next_ns = now
            self._attempts, self._ours = 0, ours
        self._retire()
        if self._closer:
            return  # there is nothing to say any more
        if not ours and (self.closed or self._reconnect_ns <= 0 or self._slipped_too_often(error)):
            known = error.error if isinstance(error, Slip) else error
            self.give_up(known)
            raise known from None
        for line in self.session.lines.values():
            if line.outbox is not None:
                line.outbox.rewind()  # what was not acknowledged is not on any wire
        if again:
            self._failed_attempt(error)
            return
        if not ours:
            ever = self._reconnect_ns >= FOR_EVER_NS
            bound = "ever" if ever else f"{self._reconnect_ns / NS_PER_S:g} s"
            self._note("%s: %s; trying to connect again for %s", self.url, error, bound)

    def _note(self, text: str, *details: object) -> None:
        """Log, without the lock: a handler may use this very client."""
        with self._lock.away(None, True):
            LOG.warning(text, *details)

    def distrust(self, feed: Feed, segment: Segment, error: MalformedInput) -> None:
        """``segment``, just taken from ``feed``, is not what was published: have it sent again, over a
        new connection.  The lock is held.

        Raises:
            MalformedInput: ``error``, which has come too often.
        """
        feed.take_back(segment)
        if self.link is not None:
            self._broke(Slip(str(error), error))
        elif self._slipped_too_often(Slip(str(error), error)):
            self.give_up(error)
            raise error

    def _slipped_too_often(self, error: HermesError) -> bool:
        """Count what the broker did wrong, if it did; whether that was once too often in a row."""
        if not isinstance(error, Slip):
            return False
        kind = (type(error.error), str(getattr(error.error, "code", "")))
        now = time.monotonic_ns()
        again = kind == self._slip and now - self._slip_ns < SLIP_NS
        self._slips = self._slips + 1 if again else 1
        self._slip, self._slip_ns = kind, now
        return self._slips >= SLIPS_MAX

    def give_up(self, error: HermesError) -> None:
        self.failure = error
        self._retire()
        for line in self.session.lines.values():
            if line.outbox is not None:
                line.outbox.close()
        self.wake()

    def _reconnect(self, now: int, left_ns: int, deadline: int | None) -> None:
        """Try to connect again, if it is time to; else wait a little."""
        if now < self._next_ns:
            self._sleep(min(self._next_ns - now, left_ns))
            return
        attempt = now + int(ATTEMPT_S * NS_PER_S)
        limit = attempt if deadline is None else min(attempt, deadline)
        self._attempts += 1
        try:
            self._establish(dial(self._transport, self.url, limit), limit)
        except HermesError as error:
            self._not_again(error)
        else:
            self._is_back()

    def _not_again(self, error: HermesError) -> None:
        """An attempt came to ``error``: note when to make the next one.

        Raises:
            HermesError: there will be none.
        """
        # An invalid URL too: it was good before, its name is not known for a while.
        if not isinstance(error, ConnectFailed | ConnectionLost | InvalidUrl | Timeout):
            self.give_up(error)
            raise error
        if isinstance(error, Slip) and self._slipped_too_often(error):
            self.give_up(error.error)
            raise error.error from None
        self._failed_attempt(error)

    def _is_back(self) -> None:
        gone = (time.monotonic_ns() - self._lost_ns) / NS_PER_S
        if not self._ours:
            self._note("%s: connected again after %.1f s", self.url, gone)

    def _failed_attempt(self, error: HermesError) -> None:
        now = time.monotonic_ns()
        # An attempt may end with the call that made it: one of ours needs more than a short one's time.
        least_ns = int(ATTEMPT_S * NS_PER_S) if self._ours else 0
        if now - self._lost_ns >= max(self._reconnect_ns, least_ns):
            waited = (now - self._lost_ns) / NS_PER_S
            lost = ConnectionLost(
                f"the connection to {self.url} broke and {self._attempts} attempts in "
                f"{waited:.1f} s did not bring it back; the last one: {error}"
            )
            self.give_up(lost)
            raise lost from error
        pause = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(self._attempts, 16))
        self._next_ns = now + int(pause * random.uniform(0.25, 1.0) * NS_PER_S)

    # ---- the end of publishers and subscriptions ----

    def close_line(self, line: Line) -> None:
        """End a publisher."""
        outbox = line.outbox
        if not self.session.forget(line):
            return
        if outbox is not None:
            outbox.close()
            self.output.remove(outbox)
        if self.link is not None and self.session.protocol.state in _SPEAKING:
            self._say_last(self.session.protocol.close_publisher(line.id))

    def close_feed(self, feed: Feed) -> None:
        """End a subscription."""
        open_there = feed.failure is None and feed.id in self.session.feeds
        self.session.feeds.pop(feed.id, None)
        feed.clear()
        self.wake()
        if open_there and self.link is not None and self.session.protocol.state in _SPEAKING:
            self._say_last(self.session.protocol.unsubscribe(feed.id))

    def _say_last(self, frame: bytes) -> None:
        if frame:  # else it was never opened on this connection
            with contextlib.suppress(ConnectionLost):  # found out by whoever needs the connection
                self.say(frame)

    def _end(self, what: Feed | Line) -> bool:
        if isinstance(what, Feed):
            self.close_feed(what)
            return True
        what.settle()
        if what.failure is None and what.unacknowledged:
            return False
        self.close_line(what)
        return True

    # ---- the end ----

    def close(self, timeout: float | None) -> None:
        """See :meth:`Client.close`.  Takes the lock."""
        if self.forked:
            return
        if self._lock.mine:  # from a signal handler, in the middle of another call
            self.ending = True
            self._pending.append(timeout)
            return
        if self.closed:  # a call that was interrupted may have left something
            with self.locked(None):
                self._drop()
            return
        deadline = self.deadline(timeout)
        problem: HermesError | None = None
        try:
            self.run(self._settling(), deadline)
        except HermesError as error:
            problem = self._unacknowledged(error)
        if problem is None:
            problem = self._told()
        try:
            with contextlib.suppress(HermesError):
                self.run(self._parting(), deadline)
        finally:
            with self.locked(None):
                self._drop()
            KEEPER.remove(self)
        if problem is not None:
            raise problem

    def _finish(self, timeout: float | None) -> None:
        deadline = self.deadline(timeout)
        try:
            with contextlib.suppress(HermesError):
                self.run_held(self._settling(), deadline)
                self.run_held(self._parting(), deadline)
        finally:
            self._drop()

    def _settling(self) -> Steps[None]:
        """Take nothing new, and have all that was taken acknowledged."""
        self.ending = True
        for line in self.session.lines.values():
            if line.outbox is not None:
                line.outbox.close()
        self.wake()
        if self.failure is None and not self.closed:
            yield self.until(self._all_settled, "closing")

    def _unacknowledged(self, error: HermesError) -> HermesError | None:
        left = sum(line.unacknowledged for line in self.session.lines.values())
        text = f"{error}; {left} messages are unacknowledged"
        if left and isinstance(error, Timeout):
            error.queued = left
        return restated(error, text) if left else None

    def _told(self) -> HermesError | None:
        """Return the error to raise for a refused publisher or a connection that was given up; None: none."""
        for line in self.session.lines.values():
            if line.failure is not None:
                return line.lost()
        if self.failure is not None:
            return self.lost(list(self.session.lines.values()))
        return None

    def _all_settled(self) -> bool:
        for line in self.session.lines.values():
            line.settle()
            if line.failure is None and line.unacknowledged:
                return False
        return True

    def _parting(self) -> Steps[None]:
        """Close, then read on until the broker's Close; other calls end now."""
        link, session = self.link, self.session
        if link is None or self.failure is not None or self._closer:
            return
        for feed in session.feeds.values():  # what still comes is not wanted
            feed.clear()
        session.feeds.clear()
        for line in session.lines.values():  # nothing may go out behind Close
            if line.outbox is not None and line.failure is None:
                self.output.pause(line.outbox)
        self._closer = threading.get_ident()
        self.wake()
        link.write(session.protocol.close())
        yield self.until(lambda: session.closed or self.link is not link, "parting")

    def end_at_exit(self, deadline: int) -> None:
        """End in order within what is left of the program's time, and say what could not be sent."""
        self.exiting = True
        left = max(0, deadline - time.monotonic_ns()) / NS_PER_S
        try:
            self.close(left if self.timeout is None else min(left, self.timeout))
        except HermesError as error:
            self._say_missing(f"at the end of the program: {error}")

    def _say_missing(self, why: str) -> None:
        """Log what was sent and is not acknowledged: nothing is lost without a word."""
        for line in self.session.lines.values():
            if line.unacknowledged:
                LOG.warning(
                    "%s: %d messages of the publisher of %r (%s) are not acknowledged, %s",
                    self.url,
                    line.unacknowledged,
                    "any topic" if line.topic is None else line.topic.decode(),
                    line.publisher_id.hex(),
                    why,
                )

    def __del__(self) -> None:
        if not self.closed and not self.forked:
            text = f"client of {self.url} was not closed"
            self._say_missing("because the client was not closed")
            self._drop()
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)


def _end_all() -> None:
    """The program ends: so does every client that is still open."""
    deadline = time.monotonic_ns() + int(EXIT_S * NS_PER_S)
    for connection in open_pumps():
        if isinstance(connection, Connection):
            connection.end_at_exit(deadline)


at_exit(AtExit.CLIENTS, _end_all)


def transport_for(url: Url) -> Transport:
    """The transport that serves ``url``: made once, so that connecting again starts no plugin, which
    a signal handler's exception would make look broken.

    Raises:
        PluginNotFound, PluginFailed, InvalidUrl: there is none, or not for this URL.
    """
    from hermes.plugins.discovery import default_plugins

    transport = default_plugins().transport_of(url)
    refuse_listen_options(transport, url)
    return transport


def dial(transport: Transport, url: Url, deadline: int | None) -> Channel:
    """A new channel to the broker at ``url``.

    Raises:
        ConnectFailed: nobody answered there.
    """
    left = -1 if deadline is None else max(1, deadline - time.monotonic_ns())
    return transport.dial(url, left if left < DIAL_MAX_NS else -1)


def _last_words(channel: Channel) -> bytes:
    """Read the bytes that are left in a connection that broke before the broker's Welcome."""
    buffer = bytearray(WORDS_MAX)
    try:
        return bytes(buffer[: channel.receive_into(memoryview(buffer))])
    except HermesError:
        return b""


def _introduction(name: str | None) -> str:
    from importlib.metadata import version

    library = f"hermes-python/{version('hermes-broker')}"
    return f"{library} {name}" if name else f"{library} pid {os.getpid()}"
