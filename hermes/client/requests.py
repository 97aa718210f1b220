"""What is asked for over a connection: publishers, subscriptions, positions, the broker's own state.

Opened, refused and opened again, committed, ended.  Each is a sequence (:mod:`hermes.client.steps`)
that runs with the connection's lock held, and without it while it waits; see
:meth:`Connection.run`.  What is asked for is asked again on a new link by the session; here it is waited
for.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from hermes.client.connection import Connection
from hermes.client.position import epochs_of
from hermes.client.session import Answer, Feed, Line
from hermes.client.steps import Steps
from hermes.errors import HermesError, Refused
from hermes.native.outbox import Outbox
from hermes.wire.messages import QUERIES_MAX, Start

# ---- publishers ----


def open_line(connection: Connection, line: Line, linger_ns: int, window: int) -> Steps[None]:
    """Open a publisher; whoever asked for it ends ``line`` if this raises."""
    yield connection.until(connection.greeted, "opening a publisher")
    session = connection.session
    protocol = session.protocol
    assert protocol.welcome is not None
    if line.level == "durable" and not protocol.welcome.durable:
        raise Refused(
            "this broker's storage cannot promise durable acknowledgements: ask for "
            "'appended', or start the broker with --storage mmap:",
            code="durable_unavailable",
        )
    if protocol.publishers >= session.limits.publishers_max:
        raise Refused(
            f"this client has {protocol.publishers} publishers open, as many as the broker takes of "
            "one connection (limits.publishers): close some, or connect once more",
            code="too_many_publishers",
        )
    line.id = protocol.new_id()
    session.lines[line.id] = line
    connection.say(protocol.open_publisher(line.id, line.publisher_id, line.level))
    first = 1
    if line.resumes:
        yield connection.until(line.answered, "opening a publisher")
        if line.failure is not None:  # right behind the answer
            raise line.failure
        assert line.opened is not None
        first = line.opened + 1
    outbox = Outbox(capacity=window, id=line.id, first_sequence=first)
    outbox.limit(session.limits.message_max)
    connection.output.add(outbox, linger_ns)
    line.outbox, line.lingers = outbox, linger_ns > 0
    if line.level == "appended":
        session.senders[line.id] = outbox.sender(None)


def reopen_line(connection: Connection, line: Line) -> Steps[None]:
    """Open a refused publisher again and send what is not acknowledged."""
    outbox, doing = line.outbox, "opening the publisher again"
    assert outbox is not None
    yield connection.until(connection.greeted, doing)
    before, line.failure = line.failure, None
    protocol = connection.session.protocol
    if line.opened is None:  # else a new connection has opened it already
        connection.say(protocol.open_publisher(line.id, line.publisher_id, line.level))
    yield connection.until(line.answered, doing)
    if line.failure is not None:
        raise line.lost()
    outbox.reopen()
    if connection.session.protocol is not protocol:
        return
    assert line.opened is not None
    taken = isinstance(before, Refused) and before.code == "publisher_taken"
    connection.check_opened(line, outbox, line.opened, taken=taken)
    if line.failure is not None:
        raise line.lost()
    resumed = False

    def again() -> bool:
        nonlocal resumed
        resumed = resumed or connection.output.resume(outbox)
        return resumed

    yield connection.until(again, "sending again")


def abandon_line(connection: Connection, line: Line) -> HermesError | None:
    """End a publisher whose connection is given up; what to tell about it, which is told once.

    Takes the lock.
    """
    if connection.forked or connection.closed or not connection.session.forget(line):
        return None
    return connection.lost([line])


# ---- subscriptions ----


def open_feed(connection: Connection, feed: Feed, start: Start) -> Steps[None]:
    """Subscribe, and wait until the broker has confirmed; whoever asked for it ends ``feed`` if this
    raises."""
    yield connection.until(connection.greeted, "subscribing")
    protocol, pattern = connection.session.protocol, feed.pattern
    feed.id = protocol.new_id()
    connection.session.feeds[feed.id] = feed
    connection.say(protocol.subscribe(feed.id, pattern, start=start, durable=feed.durable))
    yield from round_trip(connection, lambda: feed.failure is not None, f"to {pattern!r}")
    if feed.failure is not None:
        raise feed.failure


def commit(connection: Connection, feed: Feed, positions: Mapping[str, int]) -> Steps[None]:
    """Store positions and wait for the broker to confirm."""
    while True:
        yield connection.until(connection.greeted, "committing")
        protocol, before, id = connection.session.protocol, feed.commits, feed.id
        feed.commit_failure = None
        plain = {stream: int(sequence) for stream, sequence in positions.items()}
        connection.say(protocol.commit(id, plain, epochs_of(positions)))

        def answered(protocol: object = protocol, before: int = before, id: int = id) -> bool:
            # A subscription that is refused or was opened anew, or a new connection, will not bring
            # the answer.
            other = connection.session.protocol is not protocol or feed.failure is not None
            return feed.commits != before or other or feed.id != id

        yield connection.until(answered, "committing")
        if feed.commits != before or feed.failure is not None:
            break
    failure = feed.failure or feed.commit_failure
    if failure is not None:
        raise failure


def recall(connection: Connection, feed: Feed) -> None:
    """Ask for what ``feed`` had no room for."""
    if connection.greeted() and feed.failure is None and feed.id in connection.session.feeds:
        connection.say(b"".join(connection.session.again(feed)))


# ---- the broker itself ----


def query(connection: Connection, what: str, arguments: dict[str, str]) -> Steps[Any]:
    """What the broker answers, asked again if the connection breaks meanwhile."""
    while True:
        answer = yield from _ask(connection, what, arguments)
        if answer.failure is not None:
            raise answer.failure
        if answer.complete:
            return answer.value()


def _ask(connection: Connection, what: str, arguments: dict[str, str]) -> Steps[Answer]:
    """Ask once; incomplete if the connection broke meanwhile."""
    session = connection.session

    def room() -> bool:
        return connection.greeted() and session.protocol.asked < QUERIES_MAX

    yield connection.until(room, f"asking for {what}")
    protocol = session.protocol
    number, answer = protocol.new_id(), Answer()
    session.answers[number] = answer

    def over() -> bool:
        done = answer.complete or answer.failure is not None
        return done or session.protocol is not protocol

    try:
        connection.say(protocol.query(number, what, arguments))
        yield connection.until(over, f"asking for {what}")
    finally:
        session.answers.pop(number, None)
    return answer


def round_trip(connection: Connection, ready: Callable[[], bool], what: str) -> Steps[None]:
    """Wait until the broker has answered everything sent so far, or ``ready``."""
    session = connection.session
    while True:
        yield connection.until(connection.greeted, what)
        token, protocol = secrets.randbits(62), session.protocol
        session.pings.add(token)
        connection.say(protocol.ping(token))

        def answered(token: int = token, protocol: object = protocol) -> bool:
            other = session.protocol is not protocol
            return token not in session.pings or ready() or other

        try:
            yield connection.until(answered, what)
        finally:
            session.pings.discard(token)
        if session.protocol is protocol:
            return
        # Reconnected: what was asked is asked again by itself.
