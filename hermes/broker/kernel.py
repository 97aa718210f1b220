"""The kernel: hands out connections, and tells the transports which of them may have output.

Joins streams, durable positions and connections; owns no thread and no socket.  Implements
:class:`hermes.spi.transport.Kernel` for the transports and :class:`hermes.broker.loop.Passes` for the
loop.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from hermes.base.faults import Faults
from hermes.base.rlimits import limited
from hermes.broker import queries
from hermes.broker.backed import CHOKE_BYTES, HAND_OVER_BYTES, Backed
from hermes.broker.clock import WATCH_NS, Clock
from hermes.broker.config import Config
from hermes.broker.connection import Connection
from hermes.broker.hooks import Hooks
from hermes.broker.loop import Loop
from hermes.broker.owners import NOBODY, durable_key, durable_name
from hermes.broker.positions import Done, Positions
from hermes.broker.streams import ServedStream, Streams, message_max
from hermes.broker.subscriptions import RequestRefused
from hermes.errors import ConnectionLost, HermesError, Refused, StorageFull
from hermes.native.envelopes import EFILES, EFSIZE, EMAPS, address_of, error_text
from hermes.native.express import HandOut
from hermes.native.log import LogEvent
from hermes.spi.hooks import BrokerInfo, Grant, ListenerInfo
from hermes.spi.storage import Storage
from hermes.spi.transport import Agent, PathWatcher, Peer
from hermes.spi.units import Duration
from hermes.spi.url import parse_url
from hermes.wire.messages import Limits

if TYPE_CHECKING:
    from hermes.broker.output import Outgoing
    from hermes.broker.publishers import Acknowledging, Publisher
    from hermes.broker.subscriptions import Subscription

LOG = logging.getLogger("hermes.broker")

C = TypeVar("C", bound="Acknowledging")

SCRATCH_SIZE = 1048576
"""Bytes read at a time, by all connections in turn: large enough that the system call's price is
small, small enough to stay in the cache."""
BATCH_SLACK = 1048576
"""Bytes a batch may have beyond the message limit."""
NS_PER_S = 1_000_000_000
PROGRESS_NS = NS_PER_S
"""How often a caught-up subscription is told what it has covered without getting a message."""
TRIM_NS = NS_PER_S
"""How often retention by age is applied, and segments that a stalled connection holds are looked
for."""
TOPICS_WARN = 0.8
"""Share of the topics that a stream may have at which a warning is logged."""
FAREWELLS_MAX = 64
"""Connections over the limit that are kept open at a time to receive the error; further ones are
closed at once."""
STORAGE_TROUBLE = {
    "storage_full": "it is full: make room on its disk, or keep less (retention)",
    "storage_failed": "an I/O error: look at its disk, then start the broker again",
}
"""Refusals that whoever runs the broker has to do something about, and what."""
MACHINE_LIMITS = (EFILES, EMAPS, EFSIZE)
"""Refusals for want of something else than space on a disk: the core's text says of what."""
TELL_NS = 60 * NS_PER_S
"""How often that is said at most: every client may be refused, again and again."""
ROOM_NS = NS_PER_S
"""How long no message may have been refused before it is said that they are taken again."""
TURN_NS = 500_000
"""How long a pass works on requests that are under way, of all connections together, ns."""
SWEEP_BUDGET = 16384
"""Topic names matched in one pass for filters that have come or gone: about 0.5 ms."""
PATHS_NS = NS_PER_S
"""How often agents look for peers whose machines answer nothing any more."""
GREETING_NS = NS_PER_S // 4
"""How often connections that have not said Hello are looked at."""


class Queue:
    """The connections of one agent that may have output."""

    __slots__ = ("items", "lent")

    def __init__(self) -> None:
        self.items: list[Connection] = []
        self.lent = False
        """Some of the agent's connections have been lent their socket."""


class Kernel:
    """What a transport may ask of the broker, and what the loop asks of it."""

    questions = queries.QUESTIONS

    def __init__(
        self,
        config: Config,
        storage: Storage,
        streams: Streams,
        loop: Loop,
        hooks: Hooks | None = None,
    ) -> None:
        self.config = config
        self.hooks = Hooks() if hooks is None else hooks
        self.authenticates = self.hooks.authenticates
        self.storage = storage
        self.streams = streams
        self.loop = loop
        self.durable = storage.durable
        self.server = _server_name()
        self.broker_id = os.urandom(16)
        self.clock = Clock()
        self.started_ns = time.monotonic_ns()
        self.agents: list[Agent] = []
        largest = message_max(config)
        self.limits = Limits(
            message_max=largest,
            batch_max=largest + BATCH_SLACK,
            publishers_max=config.limits.publishers,
            subscriptions_max=config.limits.subscriptions,
        )
        scratch = bytearray(SCRATCH_SIZE)
        self.scratch = memoryview(scratch)
        # Of the bytes, not of the view: CPython 3.11 crashes when a view that something refers to
        # becomes garbage in a circle, as a kernel is after an exception.
        self.scratch_address = address_of(scratch)
        self.moved = 0
        """Bit set of the streams appended to since they were last looked at."""
        self.follow_epoch = 0
        """Changes whenever somebody begins or ceases to follow a stream."""
        self.express_spin_ns = 0
        """How long a connection's express may poll for more input."""
        self.express_rounds = 0
        self.unfinished = False
        self.syncing = False
        self._busy = False  # one of the following three has something
        self._waiting: deque[Connection] = deque()  # their requests are under way
        self._discarded: deque[Subscription] = deque()  # ended, and to be closed
        self._unswept: dict[ServedStream, None] = {}  # filters have come or gone
        self.refusals = 0
        self._told_ns = -TELL_NS
        self._refused_ns = 0  # when a message was refused last; 0: not since room was reported
        self._room = False  # a log has room again
        self.denials = 0
        self.violations = 0
        self.faults = Faults(LOG)
        """Unexpected errors in serving a client, which ended its connection."""
        self.lost_listeners: list[str] = []
        """Listeners that were closed because polling them failed again and again."""
        self.connections_total = 0
        self.copied_bytes = 0
        self.connections: dict[int, Connection] = {}
        self.positions = Positions(storage, loop.call, names_max=config.limits.durables)
        self._queues: dict[object, Queue] = {}
        self._handing_out = HandOut()
        self._again: list[Outgoing] = []
        self._ungreeted: dict[int, Connection] = {}
        self._durables: dict[str, Subscription] = {}
        self._publishers: dict[bytes, Publisher] = {}  # by their 16 bytes
        self._awaiting: dict[int, Acknowledging] = {}  # publishers of theirs wait for a sync
        self._sync_wanted = False
        self.backed: list[Backed] = []
        """The streams whose log is not native memory."""
        self.choked: dict[int, Connection] = {}
        """Connections that are not read from until a log has caught up."""
        self._sync_always = storage.sync_interval_ns == 0
        self._stopping = False
        self._begin_timers()

    # What a transport asks.

    def connect(self, owner: object, peer: Peer) -> Connection:
        """A new connection of ``owner``'s.  One too many is told so, and ends."""
        refusal = self._refusal()
        if refusal and len(self.connections) >= self.config.limits.connections + FAREWELLS_MAX:
            code, text = refusal
            raise Refused(text, code=code)
        queue = self._queues.setdefault(owner, Queue())
        self.connections_total += 1
        number = self.connections_total
        connection = Connection(self, queue, peer, number)
        self.connections[number] = self._ungreeted[number] = connection
        if refusal:
            connection.refuse(*refusal)
        return connection

    def _refusal(self) -> tuple[str, str] | None:
        """Why nobody else may come in; None: somebody may."""
        if self._stopping:
            return "stopping", "the broker is stopping"
        most = self.config.limits.connections
        if len(self.connections) >= most:
            return "too_many_connections", f"the broker has {most} connections, as many as it may"
        return None

    def ready(self, owner: object) -> Iterable[Connection]:
        """The connections of ``owner`` that may have output."""
        if self.moved or self._again:
            self._collect()
        if self._busy:
            self._go_on()
        queue = self._queues.get(owner)
        if queue is None or not queue.items:
            return ()
        items = queue.items
        queue.items = []
        return self._hand_out(items) if queue.lent else items

    def _hand_out(self, items: list[Connection]) -> list[Connection]:
        """Send what connections have whose socket was lent, all in one call; returns those that
        need more than that."""
        rest: list[Connection] = []
        served: list[Connection] = []
        wanted: list[tuple[int, int, int, int]] = []
        for connection in items:
            try:
                want = connection.hand_out()
            except Exception as error:
                self._failed(connection, error)
                want = None
            if want is None:
                rest.append(connection)
            else:
                served.append(connection)
                wanted.append(want)
        if served:
            found = self._handing_out.run(wanted, self.clock.now_ns())
            for connection, (sent, deliveries, special) in zip(served, found, strict=True):
                try:
                    if special:
                        rest.append(connection)
                        connection.handed_out_partly(sent, deliveries)
                    else:
                        connection.handed_out(sent, deliveries)
                except Exception as error:
                    self._failed(connection, error)
        return rest

    def _collect(self) -> None:
        """Mark the connections whose readers may have something in the streams that moved."""
        moved, self.moved = self.moved, 0
        streams = self.streams
        while moved:
            lowest = moved & -moved
            moved ^= lowest
            place = streams[lowest.bit_length() - 1]
            if place.backed is None:
                self._activate_followers(place)
            else:
                place.backed.hand_over()
                self._stored(place, place.backed)
        if self._again:
            again, self._again = self._again, []
            self.unfinished = self._busy
            for connection in again:
                connection.mark()

    def _activate_followers(self, place: ServedStream) -> None:
        for reader in place.everything:
            if not reader.active:
                reader.connection.activate(reader)
        followers = place.followers
        for number in place.stream.ready():
            for reader in followers.get(number, ()):
                if not reader.active:
                    reader.connection.activate(reader)
                if reader.live:
                    reader.settle()

    # What the loop asks.

    def after_pass(self) -> None:
        """Begin the syncs that this pass's messages wait for: one for all of them."""
        if self.backed and self.moved:
            self._collect()
        if self._sync_always:
            self._sync_all()
        if self._sync_wanted:
            self._sync_wanted = False
            for place in self.streams:
                if place.sync_wanted and not place.syncing:
                    self._begin_sync(place)

    # What connections ask.

    def again(self, connection: Outgoing) -> None:
        """Pull ``connection`` in the next pass: a reader has not finished its walk."""
        self._again.append(connection)
        self.unfinished = True

    def wait(self, connection: Connection) -> None:
        """Requests of ``connection`` are under way: have it go on, in turn with others."""
        self._waiting.append(connection)
        self._busy = self.unfinished = True

    def discard(self, subscription: Subscription) -> None:
        """``subscription`` has ended: close it, in turn with other work."""
        self._discarded.append(subscription)
        self._busy = self.unfinished = True

    def sweep(self, places: Iterable[ServedStream]) -> None:
        """Filters have come or gone in ``places``: match their topics, in turn with other work."""
        for place in places:
            self._unswept[place] = None
            self._busy = self.unfinished = True

    def close_discarded(self) -> None:
        """Close all subscriptions that have ended."""
        while self._discarded:
            self._close_discarded()

    def _close_discarded(self) -> None:
        subscription = self._discarded.popleft()
        places = [reader.place for reader in subscription.readers]
        subscription.close()
        self.sweep(places)
        self.follow_epoch += 1

    def _go_on(self) -> None:
        """One step of the work whose cost grows with what the broker holds."""
        ends = time.monotonic_ns() + TURN_NS
        if self._unswept:
            place = next(iter(self._unswept))
            del self._unswept[place]
            if place.stream.sweep(SWEEP_BUDGET):
                self._unswept[place] = None  # behind the other streams
        while self._discarded and time.monotonic_ns() < ends:
            self._close_discarded()
        for _ in range(len(self._waiting)):
            connection = self._waiting.popleft()
            if connection.go_on(ends):
                self._waiting.append(connection)
            if time.monotonic_ns() >= ends:
                break
        self._busy = bool(self._waiting or self._discarded or self._unswept)
        self.unfinished = self._busy or bool(self._again)

    def forget(self, connection: Connection) -> None:
        """The connection is over."""
        self.connections.pop(connection.number, None)
        self._ungreeted.pop(connection.number, None)
        self._awaiting.pop(connection.number, None)
        self.choked.pop(connection.number, None)

    def durable_positions(self, name: str, connection: Connection) -> dict[str, int] | None:
        """Return the positions that the connection's owner has committed under a durable name.

        Raises:
            RequestRefused: this connection commits under it; or there are as many names as there
            may be.
        """
        key = durable_key(connection.owner, name)
        holder = self._durables.get(key)
        if holder is not None and holder.connection is connection:
            raise RequestRefused("durable_in_use", f"this client commits as {name!r} already")
        if not self.positions.has_room(key):
            most = self.config.limits.durables
            owner = connection.owner
            raise RequestRefused(
                "too_many_durables",
                f"the broker keeps the positions of {most} durable names at most"
                + ("" if owner is None else f", and {owner!r} has as many as are left for others"),
            )
        stored = self.positions.get(key)
        return self._unowned(key, name) if stored is None else stored

    def commit(self, subscription: Subscription, positions: dict[str, int], done: Done) -> None:
        """Store ``positions`` under the subscription's durable name; see
        :meth:`Positions.commit`."""
        key, name = subscription.durable_key, subscription.durable
        assert key is not None
        assert name is not None
        if self.positions.get(key) is None:
            positions = {**(self._unowned(key, name) or {}), **positions}
        self.positions.commit(key, positions, done)

    def _unowned(self, key: str, name: str) -> dict[str, int] | None:
        """The positions that an owned name which has committed nothing begins with: what is stored
        under the name without an owner, by a broker that did not authenticate.  That is read and
        never changed, so no identity takes it from another."""
        unowned = durable_key(None, name)
        return None if unowned == key else self.positions.get(unowned)

    def durable_keys(self, name: str) -> list[str]:
        """The keys of every owner's durable name ``name`` that is in use or has committed
        something."""
        keys = {*self._durables, *self.positions.names()}
        return sorted(key for key in keys if key.endswith(name) and durable_name(key).name == name)

    def holder(self, key: str) -> str | None:
        """The address of the client that commits under a durable name now."""
        subscription = self._durables.get(key)
        return None if subscription is None else subscription.connection.peer.address

    def claim_durable(self, subscription: Subscription) -> None:
        """``subscription`` commits under its durable name from now on; the one that did before
        ends.

        The newer wins: it may be the same program, back before its old connection was found dead.
        """
        key = subscription.durable_key
        if key is None:
            return
        older = self._durables.get(key)
        self._durables[key] = subscription
        self.positions.reserve(key)
        if older is not None:
            older.connection.durable_taken(older, subscription)

    def release_durable(self, subscription: Subscription) -> None:
        """Give the name back, if the subscription holds one."""
        key = subscription.durable_key
        if key is not None and self._durables.get(key) is subscription:
            del self._durables[key]
            self.positions.release(key)

    def claim_publisher(self, publisher: Publisher) -> None:
        """``publisher`` was opened: another that has its id must not append any more.

        The newer wins: it may be the same program, back before its old connection was found dead.
        """
        if publisher.stored_id == NOBODY:
            return
        older = self._publishers.get(publisher.stored_id)
        self._publishers[publisher.stored_id] = publisher
        if older is not None:
            older.connection.publisher_taken(older, publisher)

    def release_publisher(self, publisher: Publisher) -> None:
        """Give its id back, if nobody else has taken it."""
        if self._publishers.get(publisher.stored_id) is publisher:
            del self._publishers[publisher.stored_id]

    def want_stored(
        self, streams: int, connection: Acknowledging, *, durable: bool
    ) -> list[tuple[ServedStream, int]]:
        """Schedule a store, or a sync, of the streams of a bit set after this pass.  Returns the
        streams and sequences to wait for."""
        targets = []
        while streams:
            lowest = streams & -streams
            streams ^= lowest
            place = self.streams[lowest.bit_length() - 1]
            last = place.appended_sequence
            if durable and place.synced < last:
                place.sync_wanted = self._sync_wanted = True
            targets.append((place, last))
        self._awaiting[connection.number] = connection
        return targets

    def recall(self, publisher: bytes) -> None:
        """Ask logs elsewhere what they have of a publisher that is about to open."""
        for backed in self.backed:
            backed.recall(publisher)

    def relieve(self, connection: Connection) -> None:
        """``connection`` has brought input: keep what logs elsewhere have not got yet bounded."""
        for place in self.streams:
            backed = place.backed
            if backed is None:
                continue
            if backed.unhanded_bytes >= HAND_OVER_BYTES:
                backed.hand_over()
                self._stored(place, backed)
            if backed.problem is None and backed.behind_bytes >= CHOKE_BYTES:
                connection.paused = True
                self.choked[connection.number] = connection

    def answer(
        self, what: str, arguments: dict[str, str], grant: Grant | None
    ) -> Iterator[tuple[object, bool]] | None:
        """Pages of the answer to a query, each with whether another follows; None: nothing to say
        to this.  ``grant`` is what the peer may see; None: all."""
        return queries.pages(self, what, arguments, grant)

    def describe(self) -> BrokerInfo:
        """What plugins are told of this broker."""
        return BrokerInfo(
            broker_id=self.broker_id,
            server=self.server,
            listeners=tuple(
                ListenerInfo(agent.url, parse_url(agent.url).scheme) for agent in self.agents
            ),
            storage=self.storage.url,
            streams=tuple(place.name for place in self.streams),
        )

    # Syncs.

    def watch_logs(self) -> None:
        """The streams are open: have the loop watch their logs' descriptors."""
        self.backed = [place.backed for place in self.streams if place.backed is not None]
        self.streams.router.set_clock(self.clock.offset_ns)
        newest = max(place.log.status().last_time_ns for place in self.streams)
        self.clock.newest(newest)
        for place in self.streams:
            fd = place.log.fileno()
            if fd >= 0:
                self.loop.watch(fd, partial(self._log_event, place))

    def _begin_sync(self, place: ServedStream) -> None:
        place.sync_wanted = False
        try:
            place.log.sync_begin()
        except HermesError:
            self._sync_failed(place)
            return
        place.syncing = self.syncing = True
        if place.log.fileno() < 0:
            self._log_event(place)

    def _log_event(self, place: ServedStream) -> None:
        events = place.log.events()
        status = place.log.status()
        if place.backed is None or LogEvent.SYNC in events:
            place.syncing = False
        place.synced = status.synced_sequence
        refused = self._refused_ns > 0
        self._room |= refused and LogEvent.SPACE in events
        if place.backed is not None:
            place.backed.retry()
            self._room |= refused and place.backed.problem is None
            self._stored(place, place.backed)
        elif status.failed and place.synced < place.last_sequence:
            self._sync_failed(place)
        self._acknowledge_reached()
        if place.syncing:
            return
        if place.sync_wanted:
            self._begin_sync(place)
        elif self._sync_always and place.log.fileno() >= 0:
            self._sync_all()
        self.syncing = any(other.syncing for other in self.streams)
        self.unfinished = self._busy or bool(self._again)

    def _acknowledge_reached(self) -> None:
        def look(connection: Acknowledging) -> None:
            if connection.synced():
                self._awaiting.pop(connection.number, None)

        self._each(self._awaiting, look)

    def _stored(self, place: ServedStream, backed: Backed) -> None:
        """Follow what a log elsewhere has by now: deliver, acknowledge, read on."""
        if backed.collect():
            self._activate_followers(place)
            self._acknowledge_reached()
        if backed.problem is not None and not isinstance(backed.problem, StorageFull):
            self._sync_failed(place)
        if self.choked and all(b.problem or b.behind_bytes < CHOKE_BYTES for b in self.backed):
            choked, self.choked = self.choked, {}
            for connection in choked.values():
                connection.paused = connection.holding
                connection.mark()

    def tell_of_refusal(self, code: str, error: int) -> None:
        """Tell whoever runs the broker, once in a while, that messages are refused for its storage's
        sake; the clients have been told, each of its own."""
        now_ns = time.monotonic_ns()
        if code not in STORAGE_TROUBLE:
            return
        self._refused_ns, self._room = now_ns, False
        if now_ns < self._told_ns + TELL_NS:
            return
        self._told_ns = now_ns
        why = error_text(error) if -error in MACHINE_LIMITS else STORAGE_TROUBLE[code]
        why += limited("RLIMIT_FSIZE") if -error not in MACHINE_LIMITS else ""
        LOG.error("%s refuses messages: %s", self.storage.url, why)

    def _tell_of_room(self) -> None:
        """Tell whoever runs the broker that what was missing is there again, once no message has
        been refused for a while."""
        if self._room and time.monotonic_ns() >= self._refused_ns + ROOM_NS:
            self._room, self._told_ns, self._refused_ns = False, -TELL_NS, 0
            LOG.warning("%s takes messages again", self.storage.url)

    def _sync_failed(self, place: ServedStream) -> None:
        """No durable acknowledgement can come any more from this stream: say so instead of staying
        silent."""
        self._each(self._awaiting, lambda connection: connection.sync_failed(place))

    # Errors in serving one of many.

    def _each(self, connections: dict[int, C], do: Callable[[C], object]) -> None:
        """Do something for each connection; one that fails ends, and the others are served on."""
        for connection in list(connections.values()):
            try:
                do(connection)
            except Exception as error:
                self._failed(connection, error)

    def _failed(self, connection: Acknowledging, error: Exception) -> None:
        try:
            connection.fail(error)
        except Exception as again:
            self.faults.caught(f"ending connection {connection.number}", again)
            connection.connection_lost(again)

    def agent_failed(self, agent: Agent, error: Exception, *, lost: bool) -> None:
        """Polling ``agent`` raised: have it look at all of its connections again, because what was
        reported as ready may have been forgotten; or close it if it is ``lost``."""
        self.faults.caught(f"the listener {agent.url}", error)
        queue = self._queues.get(agent)
        if lost:
            self._lose(agent)
        elif queue is not None:
            queue.items = []
            for connection in self.connections.values():
                connection.mark_again(queue)

    def _lose(self, agent: Agent) -> None:
        """A listener serves no more: its clients are hung up on, the other listeners go on."""
        self.agents.remove(agent)
        self.lost_listeners.append(agent.url)
        LOG.error(
            "the listener %s is closed, because polling it fails again and again: start the broker "
            "again to have it back; the other listeners go on",
            agent.url,
        )
        try:
            agent.close()
        except Exception as error:
            self.faults.caught(f"closing the listener {agent.url}", error)
        queue = self._queues.pop(agent, None)
        for connection in list(self.connections.values()):
            if queue is not None and connection.belongs_to(queue):
                connection.connection_lost(ConnectionLost("its listener has failed"))

    # Timers.

    def _begin_timers(self) -> None:
        self.loop.call_every(PROGRESS_NS, self._mark_progress)
        self.loop.call_every(TRIM_NS, self._trim)
        self.loop.call_every(WATCH_NS, self._watch_clock)
        self.loop.call_every(GREETING_NS, self._dismiss_silent)
        self.loop.call_every(PATHS_NS, self._watch_paths)
        self.loop.call_every(ROOM_NS, self._tell_of_room)
        if self.hooks.measures:
            self.loop.call_every(
                int(self.config.metrics), lambda: self.hooks.metrics(queries.counters(self))
            )
        interval = self.storage.sync_interval_ns
        if interval:
            self.loop.call_every(interval, self._sync_all)

    def _sync_all(self) -> None:
        for place in self.streams:
            if not place.syncing and self.durable and place.synced < place.last_sequence:
                self._begin_sync(place)

    def _mark_progress(self) -> None:
        """Let selecting readers that are caught up say what they have covered."""
        for place in self.streams:
            last = place.last_sequence
            if last != place.marked_sequence:
                place.marked_sequence = last
                self._activate_followers(place)  # an express may have served them without us
                for readers in place.followers.values():
                    for reader in readers:
                        if not reader.live:
                            reader.progress = True
                            if not reader.active:
                                reader.connection.activate(reader)

    def _look_at_topics(self, place: ServedStream) -> None:
        """Tell whoever runs the broker, once, that a stream will soon take no new topics."""
        topics = place.stream.status().topics
        if not place.filling and topics >= TOPICS_WARN * place.topics_max:
            place.filling = True
            LOG.warning(
                "stream %r has %d of the %d topics that it may have: then messages of new topics are "
                "refused; look for publishers that make topics of times or counters "
                "(`hermes topics`), or raise limits.topics",
                place.name,
                topics,
                place.topics_max,
            )

    def _trim(self) -> None:
        pinned = 0
        for place in self.streams:
            self._look_at_topics(place)
            backed = place.backed
            if place.settings.retention_ns or backed or place.log.status().pinned:
                place.log.trim(self.clock.age_ns())
            if backed is not None:
                self._stored(place, backed)
            pinned += place.log.status().pinned
        if pinned:
            self._each(self.connections, self._unpin)

    def _unpin(self, connection: Connection) -> None:
        self.copied_bytes += connection.unpin()

    def _watch_clock(self) -> None:
        step_ns = self.clock.watch()
        self.streams.router.set_clock(self.clock.offset_ns)
        if step_ns is not None:
            LOG.warning(
                "the wall clock was set %s by %s: append times follow it from now on",
                "forward" if step_ns > 0 else "back",
                Duration(abs(step_ns) // NS_PER_S * NS_PER_S),
            )

    def _watch_paths(self) -> None:
        for agent in self.agents:
            if isinstance(agent, PathWatcher):
                agent.watch_paths()

    def _dismiss_silent(self) -> None:
        if not self._ungreeted:
            return
        patience = time.monotonic_ns() - self.config.limits.hello

        def look(connection: Connection) -> None:
            if connection.greeted:
                self._ungreeted.pop(connection.number, None)
            elif connection.opened_ns < patience:
                self._ungreeted.pop(connection.number, None)
                connection.refuse("too_slow", "no Hello came in time")

        self._each(self._ungreeted, look)

    # Stopping.

    def begin_stop(self) -> None:
        """Take no new connections and close those there are as soon as they have their output."""
        self._stopping = True
        self.hooks.stopping(self.describe())
        for agent in self.agents:
            agent.stop_accepting()

    def close_connections(self) -> int:
        """Say Close wherever everything has been pulled; returns how many connections are left."""
        self._each(
            self.connections, lambda connection: connection.begin_close("the broker is stopping")
        )
        return len(self.connections)


def _server_name() -> str:
    from importlib import metadata

    try:
        return f"hermes {metadata.version('hermes-broker')}"
    except metadata.PackageNotFoundError:
        return "hermes"
