"""What publishers and subscriptions ask for: opened, refused and opened again, committed, ended.

The lock is held, except where a client is closed already.  What is asked for is asked again on a new connection by the
session; here it is waited for.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable

from hermes.client.reconnecting import Reconnecting
from hermes.client.session import Answer, Feed, Line
from hermes.errors import ConnectionLost, HermesError, MalformedInput, Refused
from hermes.native.outbox import Outbox
from hermes.wire.client import ClientState
from hermes.wire.messages import AckLevel

_SPEAKING = (ClientState.GREETING, ClientState.OPEN)


class Requests(Reconnecting):
    """A connection that is asked for things."""

    # ---- for publishers and subscriptions ----

    def close_line(self, line: Line) -> None:
        """End a publisher.  The lock is held."""
        outbox = line.outbox
        if not self._session.forget(line):
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
        if self._forked or self._closed or not self._session.forget(line):
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

    def fail(self, error: MalformedInput) -> None:
        """What the broker delivered is not sound: end the connection.  The lock is held."""
        self._give_up(error)

    # ---- for the client ----

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
            if ack == "appended":
                session.senders[line.id] = outbox.sender(None)
        except BaseException:
            self.close_line(line)
            raise
        return line

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

    def _round_trip(self, ready: Callable[[], bool], deadline: int | None, what: str) -> None:
        """Wait until the broker has answered everything sent so far, or ``ready``."""
        session = self._session
        while True:
            self._until(self._greeted_there, deadline, what)
            token, protocol = secrets.randbits(62), session.protocol
            session.pings.add(token)
            self._say(protocol.ping(token))

            def answered(token: int = token, protocol: object = protocol) -> bool:
                other = session.protocol is not protocol
                return token not in session.pings or ready() or other

            try:
                self._answer_to(answered, deadline, what)
            finally:
                session.pings.discard(token)
            if session.protocol is protocol:
                return
            # Reconnected: what was asked is asked again by itself.

    def _forget_feed(self, feed: Feed) -> None:
        self._session.feeds.pop(feed.id, None)
        feed.queue.clear()
        feed.queued_bytes = 0
        self.freed()
