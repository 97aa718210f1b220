"""The requests of one client: answered, and what they open kept until it ends.

Requests that take long are worked on in steps; the connection lets later ones wait.  Knows neither
bytes nor sockets.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Protocol

from hermes.broker import queries
from hermes.broker.acks import Acks
from hermes.broker.context import Context
from hermes.broker.output import Output
from hermes.broker.owners import durable_key, durable_name
from hermes.broker.publishers import Publisher, PublisherHost
from hermes.broker.subscriptions import (
    Opening,
    RequestRefused,
    Subscription,
    SubscriptionHost,
)
from hermes.errors import HermesError, InvalidTopic, Refused, SystemFault
from hermes.native.conn import Conn
from hermes.native.patterns import covers
from hermes.native.stream import Ingest
from hermes.spi.hooks import ConnectionInfo, Denial, Grant
from hermes.spi.transport import Peer
from hermes.wire import messages as m
from hermes.wire.server import Event, PublisherRefused, ServerProtocol, ServerState, Violation

LOG = logging.getLogger("hermes.broker")

OPENING_MAX = 8192
"""Subscribes under way and Pings behind them, with which no further Ping is read: twice the frames of
answers that may wait."""
OWNERS_SHOWN = 8
"""Identities named by the refusal to forget a durable name that several have."""

_OPEN = ServerState.OPEN


class RequestsHost(SubscriptionHost, PublisherHost, Protocol):
    """The connection whose requests they are."""

    @property
    def number(self) -> int:
        """Its number in the broker."""

    def mark(self) -> None:
        """Have the transport told that there may be output."""

    def refuse(self, code: str, message: str) -> None:
        """End the connection with an error."""

    def wait(self) -> None:
        """Requests are under way: go on with them in later passes."""


class Requests:
    """The requests of one client, and what they have opened.  Belongs to the loop's thread."""

    __slots__ = (
        "_acks",
        "_conn",
        "_connection",
        "_context",
        "_info",
        "_ingest",
        "_output",
        "_peer",
        "_protocol",
        "closed",
        "grant",
        "opening",
        "subscriptions",
    )

    def __init__(
        self,
        connection: RequestsHost,
        peer: Peer,
        context: Context,
        *,
        protocol: ServerProtocol,
        ingest: Ingest,
        acks: Acks,
        output: Output,
        conn: Conn,
    ) -> None:
        self._connection = connection
        self._peer = peer
        self._context = context
        self._protocol = protocol
        self._ingest = ingest
        self._acks = acks
        self._output = output
        self._conn = conn
        self.closed = False
        self._info: ConnectionInfo | None = None
        self.grant: Grant | None = None
        """Permissions of the peer where the broker authenticates; None: everything is allowed."""
        self.subscriptions: dict[int, Subscription] = {}
        self.opening: deque[Opening | m.Ping] = deque()
        """Subscribes under way, and the Pings behind them."""

    @property
    def identity(self) -> str | None:
        """Identity of the peer: proven if the broker authenticates, else what the transport has proven
        or the peer claims."""
        if self.grant is not None:
            return self.grant.identity
        hello = self._protocol.hello
        return self._peer.identity or (hello.identity if hello else None)

    def handle(self, event: Event) -> None:
        """Answer a request, or note what the protocol has found."""
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def must_wait(self, event: Event) -> bool:
        """Whether ``event`` is to be handled after the Subscribes under way."""
        if not self.opening:
            return False
        if isinstance(event, m.Ping):
            return len(self.opening) >= OPENING_MAX
        return isinstance(event, m.Unsubscribe | m.Commit | m.Query)

    def durable_taken(self, subscription: Subscription, newer: Subscription) -> None:
        """``newer`` commits under the durable name of our ``subscription``, which ends here."""
        if self.subscriptions.pop(subscription.id, None) is not subscription:
            return
        self._end(subscription)
        self._protocol.error(
            "durable_in_use",
            f"another client ({newer.connection.address}) subscribed as "
            f"{subscription.durable!r}: let one program use a durable name at a time",
            subscription=subscription.id,
        )
        self._connection.mark()

    def drop_subscriptions(self) -> None:
        """End every subscription, and give up those under way."""
        subscriptions, self.subscriptions = self.subscriptions, {}
        for subscription in subscriptions.values():
            self._end(subscription)
        while self.opening:
            self._close_opening(self.opening.popleft())

    def end(self, error: Exception | None) -> None:
        """Give up everything, because the connection has ended."""
        self.closed = True
        self.drop_subscriptions()
        if self._info is not None:
            self._context.hooks.connection_closed(self._info, error)
        del self._connection

    # Answering.

    def _on_hello(self, hello: m.Hello) -> None:
        context = self._context
        if context.hooks.authenticates and not self._admit(hello):
            return
        self._protocol.welcome(
            server=context.server, broker_id=context.broker_id, durable=context.durable
        )
        if context.hooks.follows_connections:
            self._info = ConnectionInfo(
                self._connection.number, self._peer, hello.client, self.identity
            )
            context.hooks.connection_opened(self._info)

    def _admit(self, hello: m.Hello) -> bool:
        """Ask who decides; whether the peer may come in."""
        credentials, hello.credentials = hello.credentials, {}  # nobody needs them any more
        answer = self._context.hooks.authenticate(self._peer, hello.identity, credentials)
        if isinstance(answer, Denial):
            self._context.counters.denials += 1
            LOG.warning("%s (%s) was refused", self._peer.address, self._peer.transport)
            self._connection.refuse("authentication_failed", answer.reason)
            return False
        self.grant = answer
        self._protocol.identity = answer.identity
        if ">" not in answer.publish:
            self._ingest.restrict(answer.publish)
        return True

    def _on_open(self, request: m.Open) -> None:
        if request.ack == "durable" and not self._context.durable:
            self._protocol.error(
                "durable_unavailable",
                f"the storage {self._context.storage.url} keeps nothing on disk",
                publisher=request.publisher,
                fatal=True,
            )
            return
        publisher = Publisher(
            self._connection, request.publisher, request.publisher_id, request.ack
        )
        stored_id, older = publisher.stored_id, None
        try:
            self._context.syncs.recall(stored_id)
            if stored_id != request.publisher_id:  # as brokers that do not authenticate store it
                older = request.publisher_id
                self._context.syncs.recall(older)
        except SystemFault as error:
            text = f"what is stored of publisher {request.publisher} cannot be read: {error}"
            self._protocol.error("storage_failed", text, publisher=request.publisher, fatal=True)
            return
        last = self._ingest.open(request.publisher, stored_id, older)
        self._acks.open(publisher)
        # Messages that a log elsewhere has not confirmed are not acknowledged natively.
        level = "stored" if self._context.streams.backed else request.ack
        self._conn.set_level(request.publisher, level)
        self._protocol.ack(request.publisher, last, "opened")

    def _on_subscribe(self, request: m.Subscribe) -> None:
        context, opening = self._context, Opening(request)
        try:
            self._check_grant(request)
            try:
                opening.want(context.streams)
            except Refused:
                context.turns.close_discarded()  # filters that nobody uses may be what there is
                opening.want(context.streams)
        except (HermesError, RequestRefused) as error:
            self._refuse_subscribe(request, error)
            return
        self.opening.append(opening)
        self._protocol.hold_pongs = True
        if len(self.opening) == 1:
            self.open_subscriptions(0)
        if self.opening:
            self._connection.wait()
        if not opening.matched():
            context.turns.sweep(stream for stream, _ in opening.wanted)

    def _refuse_subscribe(self, request: m.Subscribe, error: Exception) -> None:
        number, protocol = request.subscription, self._protocol
        if isinstance(error, RequestRefused):
            protocol.error(error.code, str(error), subscription=number)
        elif isinstance(error, SystemFault):
            text = f"where to begin cannot be found: {error}"
            protocol.error("storage_failed", text, subscription=number)
        elif isinstance(error, InvalidTopic):
            protocol.error("invalid_filter", str(error), subscription=number)
        elif isinstance(error, Refused):
            protocol.error("too_many_subscriptions", str(error), subscription=number)
        else:
            raise error

    def open_subscriptions(self, ends_ns: int) -> None:
        """Go on with the Subscribes under way, in order, until ``ends_ns``; at least one step."""
        while self.opening and self._context.streams.opened:
            opening = self.opening[0]
            if isinstance(opening, m.Ping):
                self.opening.popleft()
                self._protocol.pong(opening.token)
                self._connection.mark()
                continue
            if opening.subscription is None:
                if not opening.matched():
                    break
                try:
                    opening.subscription = self._subscription(opening.request)
                except (HermesError, RequestRefused) as error:
                    self._refuse_subscribe(opening.request, error)
                    self._close_opening(self.opening.popleft())
                    self._connection.mark()
                    continue
            if not opening.subscription.collect():
                self.opening.popleft()
                opening.release()
                self._subscribed(opening.subscription)
            if time.monotonic_ns() >= ends_ns:
                break
        self._protocol.hold_pongs = bool(self.opening)

    def _subscription(self, request: m.Subscribe) -> Subscription:
        """Open the readers."""
        name, stored = request.durable, None
        if name is not None:
            stored = self._context.durables.positions_of(name, self._connection)
        subscription = Subscription(self._connection, request)
        subscription.open(self._context.streams, request.start, stored)
        if request.start.at == "durable" and subscription.durable_key is not None:
            rewound = self._context.durables.positions.take_rewound(subscription.durable_key)
            for reader in subscription.readers:
                reader.rewound = rewound.get(reader.stream.name, 0)
        return subscription

    def _subscribed(self, subscription: Subscription) -> None:
        """Answer Subscribe, and deliver."""
        number = subscription.id
        self._context.durables.claim(subscription)
        self.subscriptions[number] = subscription
        self._connection.mark()
        for reader in subscription.readers:
            stream = reader.stream
            through, epoch = reader.cursor.through, stream.epochs.current
            if reader.rewound > through:
                stream.gaps += 1
                self._protocol.stream(stream.index, stream.name, epoch)
                self._protocol.gap(
                    number, stream.index, first=through + 1, last=reader.rewound, reason="epoch"
                )
            self._protocol.position(number, stream.index, stream.name, through, epoch)
            self._conn.add(reader.cursor)

    def _on_ping(self, request: m.Ping) -> None:
        if self.opening:
            self.opening.append(request)  # its answer says that they have been answered
        else:
            self._protocol.pong(request.token)

    def _close_opening(self, opening: Opening | m.Ping) -> None:
        """Give up a Subscribe under way."""
        if isinstance(opening, m.Ping):
            return
        if opening.subscription is not None:
            opening.subscription.close()
        self._context.turns.sweep(opening.release())

    def _check_grant(self, request: m.Subscribe) -> None:
        """Raises RequestRefused unless the peer may have all that the filter can match."""
        grant = self.grant
        if grant is None:
            return
        prefix = request.kind == "prefix"
        if not any(covers(allowed, request.filter, prefix=prefix) for allowed in grant.subscribe):
            may = ", ".join(grant.subscribe) or "nothing"
            raise RequestRefused(
                "not_allowed",
                f"{grant.identity!r} may not subscribe to all of {request.filter!r}; it may to: "
                f"{may}",
            )

    def _on_unsubscribe(self, request: m.Unsubscribe) -> None:
        subscription = self.subscriptions.pop(request.subscription, None)
        if subscription is None:
            self._unknown_subscription(request.subscription)
            return
        self._end(subscription)
        self._protocol.unsubscribed(request.subscription)

    def _unknown_subscription(self, number: int) -> None:
        """A request waited for a Subscribe that was refused."""
        text = f"subscription {number} is not open"
        self._protocol.error("unknown_subscription", text, subscription=number)

    def _on_commit(self, request: m.Commit) -> None:
        number = request.subscription
        subscription = self.subscriptions.get(number)
        if subscription is None:
            self._unknown_subscription(number)
            return
        positions = self._common(request)
        problem = self._commit_problem(subscription, positions)
        if problem:
            self._protocol.error("commit_refused", problem, subscription=number, fatal=False)
            return

        def done(error: HermesError | None) -> None:
            if self.closed or self._protocol.state is not _OPEN:
                return
            if error is None:
                self._protocol.committed(number, request.positions)
            else:
                self._protocol.error("storage_failed", str(error), subscription=number, fatal=False)
            self._connection.mark()

        self._context.durables.commit(subscription, positions, done)

    def _common(self, request: m.Commit) -> dict[str, int]:
        """The positions to commit, as far as this log has what their epochs had."""
        common = {}
        for name, sequence in request.positions.items():
            stream = self._context.streams.by_name(name)
            epoch = request.epochs.get(name, 0)
            common[name] = sequence if stream is None else stream.epochs.common(sequence, epoch)
        return common

    def _commit_problem(self, subscription: Subscription, positions: dict[str, int]) -> str | None:
        if subscription.durable is None:
            return "the subscription has no durable name"
        for name, sequence in positions.items():
            stream = self._context.streams.by_name(name)
            if stream is None:
                return f"there is no stream {name!r}"
            if self.grant is not None and all(
                of.stream is not stream for of in subscription.readers
            ):
                return f"the subscription does not read the stream {name!r}"
            if sequence > stream.last_sequence:
                return f"{sequence} lies ahead of stream {name!r}, which ends at {stream.last_sequence}"
        return None

    def _forget(self, request: m.Query) -> None:
        """Forget a durable name that nobody uses; answered when that is stored."""
        number, name = request.query, request.arguments.get("durable", "")
        owner = request.arguments.get("identity")
        keys = (
            [durable_key(owner or None, name)]
            if owner is not None
            else self._context.durables.keys(name)
        )
        if len(keys) > 1:
            owners = ", ".join(repr(durable_name(key).owner or "") for key in keys[:OWNERS_SHOWN])
            self._protocol.error(
                "durable_ambiguous",
                f"{len(keys)} identities have a durable name {name!r}: name one of them ({owners})",
                query=number,
            )
            return
        key = keys[0] if keys else durable_key(None, name)
        holder = self._context.durables.holder(key)
        if holder is not None:
            text = f"a client ({holder}) commits as {name!r}: end its subscription first"
            self._protocol.error("durable_in_use", text, query=number)
            return

        def done(error: HermesError | None) -> None:
            if self.closed or self._protocol.state is not _OPEN:
                return
            if error is None:
                self._protocol.info(number, True)
            else:
                self._protocol.error("storage_failed", str(error), query=number, fatal=False)
            self._connection.mark()

        if not self._context.durables.positions.forget(key, done):
            self._protocol.info(number, False)

    def _on_query(self, request: m.Query) -> None:
        pages = queries.pages(self._context, request.what, request.arguments, self.grant)
        if self.grant is not None and not queries.may_ask(self.grant, request.what):
            self._protocol.error(
                "not_allowed",
                f"{self.grant.identity!r} may not ask for {request.what!r}",
                query=request.query,
            )
        elif request.what == queries.FORGET:
            self._forget(request)
        elif pages is None:
            self._protocol.error(
                "unknown_query",
                f"no answer to {request.what!r}; ask for one of: {', '.join(queries.QUESTIONS)}",
                query=request.query,
            )
        else:
            self._output.answers.append((request.query, pages))

    def _on_close(self, request: m.Close) -> None:
        if request.publisher is None:
            self.drop_subscriptions()
            return
        self._acks.close(request.publisher)
        self._conn.set_level(request.publisher, "closed")

    def _on_refused(self, event: PublisherRefused) -> None:
        self._context.counters.refusals += 1
        self._context.refusals.refused(event.code, event.error)

    def _on_violation(self, event: Violation) -> None:
        self._context.counters.violations += 1

    def _end(self, subscription: Subscription) -> None:
        for reader in subscription.readers:
            self._conn.remove(reader.cursor)
        self._context.durables.release(subscription)
        self._context.turns.discard(subscription)


_HANDLERS: dict[type, Any] = {
    m.Hello: Requests._on_hello,
    m.Open: Requests._on_open,
    m.Subscribe: Requests._on_subscribe,
    m.Unsubscribe: Requests._on_unsubscribe,
    m.Commit: Requests._on_commit,
    m.Ping: Requests._on_ping,
    m.Query: Requests._on_query,
    m.Close: Requests._on_close,
    PublisherRefused: Requests._on_refused,
    Violation: Requests._on_violation,
}
