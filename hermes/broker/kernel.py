"""The kernel: makes connections, and tells the transports which of them may have output.

Puts the broker's parts together; owns no thread and no socket.  Implements
:class:`hermes.spi.transport.Kernel` for the transports and :class:`hermes.broker.loop.Passes` for the
loop.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable

from hermes.base.faults import Faults
from hermes.broker import queries
from hermes.broker.clock import WATCH_NS, Clock
from hermes.broker.config import Config
from hermes.broker.connection import Connection, Queue
from hermes.broker.context import Context
from hermes.broker.counters import Counters
from hermes.broker.durables import Durables
from hermes.broker.guard import Guard
from hermes.broker.hooks import Hooks
from hermes.broker.loop import Loop
from hermes.broker.positions import Positions
from hermes.broker.publishers import PublisherClaims
from hermes.broker.refusals import ROOM_NS, Refusals
from hermes.broker.streams import Streams, message_max
from hermes.broker.syncs import Syncs
from hermes.broker.turns import Turns
from hermes.errors import ConnectionLost, Refused
from hermes.native.envelopes import address_of
from hermes.spi.hooks import BrokerInfo, ListenerInfo
from hermes.spi.storage import Storage
from hermes.spi.transport import Agent, PathWatcher, Peer
from hermes.spi.units import Duration
from hermes.spi.url import parse_url
from hermes.wire.messages import Limits

LOG = logging.getLogger("hermes.broker")

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
FAREWELLS_MAX = 64
"""Connections over the limit that are kept open at a time to receive the error; further ones are
closed at once."""
PATHS_NS = NS_PER_S
"""How often agents look for peers whose machines answer nothing any more."""
GREETING_NS = NS_PER_S // 4
"""How often connections that have not said Hello are looked at."""


class Kernel:
    """The broker, as transports and the loop know it.  Belongs to the loop's thread."""

    def __init__(
        self,
        config: Config,
        storage: Storage,
        streams: Streams,
        loop: Loop,
        hooks: Hooks | None = None,
    ) -> None:
        hooks = Hooks() if hooks is None else hooks
        self.authenticates = hooks.authenticates
        self.agents: list[Agent] = []
        self.connections: dict[int, Connection] = {}
        self._streams = streams
        self._loop = loop
        self.turns = Turns()
        self._guard = Guard(Faults(LOG))
        refusals = Refusals(storage)
        self.syncs = Syncs(
            storage,
            streams,
            loop=loop,
            turns=self.turns,
            guard=self._guard,
            refusals=refusals,
        )
        scratch = bytearray(SCRATCH_SIZE)
        positions = Positions(storage, loop.call, names_max=config.limits.durables)
        self.context = Context(
            config=config,
            hooks=hooks,
            storage=storage,
            streams=streams,
            loop=loop,
            limits=_limits(config),
            server=_server_name(),
            broker_id=os.urandom(16),
            durable=storage.durable,
            started_ns=time.monotonic_ns(),
            scratch=memoryview(scratch),
            # The address is taken of the bytes, not of the view: CPython 3.11 crashes when a view that
            # something refers to becomes garbage in a circle, as a kernel is after an exception.
            scratch_address=address_of(scratch),
            clock=Clock(),
            counters=Counters(),
            guard=self._guard,
            turns=self.turns,
            refusals=refusals,
            syncs=self.syncs,
            durables=Durables(positions, names_max=config.limits.durables),
            publishers=PublisherClaims(),
            agents=self.agents,
            connections=self.connections,
        )
        """The parts that its connections share."""
        self._queues: dict[object, Queue] = {}
        self._ungreeted: dict[int, Connection] = {}
        self._stopping = False
        self._begin_timers()

    # Calls of a transport.

    def connect(self, owner: object, peer: Peer) -> Connection:
        """A new connection of ``owner``'s.  One too many is told so, and ends."""
        refusal = self._refusal()
        if refusal and len(self.connections) >= self._most_connections + FAREWELLS_MAX:
            code, text = refusal
            raise Refused(text, code=code)
        queue = self._queues.setdefault(owner, Queue())
        counters = self.context.counters
        counters.connections += 1
        number = counters.connections
        connection = Connection(self, self.context, queue, peer, number)
        self.connections[number] = self._ungreeted[number] = connection
        if refusal:
            connection.refuse(*refusal)
        return connection

    @property
    def _most_connections(self) -> int:
        return self.context.config.limits.connections

    def _refusal(self) -> tuple[str, str] | None:
        """Why nobody else may come in; None: somebody may."""
        if self._stopping:
            return "stopping", "the broker is stopping"
        most = self._most_connections
        if len(self.connections) >= most:
            return "too_many_connections", f"the broker has {most} connections, as many as it may"
        return None

    def ready(self, owner: object) -> Iterable[Connection]:
        """The connections of ``owner`` that may have output."""
        turns = self.turns
        if self._streams.moved:
            self._collect()
        if turns.pulls:
            turns.mark_pulls()
        if turns.busy:
            turns.step()
        queue = self._queues.get(owner)
        if queue is None:
            return ()
        items, queue.items = queue.items, []
        for number in queue.conns.flush():
            connection = self.connections.get(number)
            if connection is not None and not connection.marked:
                items.append(connection)
        return items

    def _collect(self) -> None:
        """Wake the subscriptions that may have something in the streams that moved."""
        streams = self._streams
        moved, streams.moved = streams.moved, 0
        for stream in streams.of_bits(moved):
            if stream.backed is None:
                stream.native.wake()
            else:
                self.syncs.hand_over(stream, stream.backed)

    # Calls of the loop.

    def after_pass(self) -> None:
        """Begin the syncs that this pass's messages wait for."""
        if self._streams.backed and self._streams.moved:
            self._collect()
        self.syncs.after_pass()

    # Calls of connections and of the broker.

    def forget(self, connection: Connection) -> None:
        """Drop ``connection``, which has ended."""
        number = connection.number
        self.connections.pop(number, None)
        self._ungreeted.pop(number, None)
        self.syncs.forget(number)

    def describe(self) -> BrokerInfo:
        """Description of this broker for plugins."""
        context = self.context
        return BrokerInfo(
            broker_id=context.broker_id,
            server=context.server,
            listeners=tuple(
                ListenerInfo(agent.url, parse_url(agent.url).scheme) for agent in self.agents
            ),
            storage=context.storage.url,
            streams=tuple(stream.name for stream in self._streams),
        )

    def watch_logs(self) -> None:
        """The streams are open: follow their clock and their logs' descriptors."""
        clock = self.context.clock
        self._streams.router.set_clock(clock.offset_ns)
        clock.newest(max(stream.log.status().last_time_ns for stream in self._streams))
        self.syncs.watch()

    # A listener that fails.

    def agent_failed(self, agent: Agent, error: Exception, *, lost: bool) -> None:
        """Polling ``agent`` raised: have it look at all of its connections again, because what was
        reported as ready may have been forgotten; or close it if it is ``lost``."""
        self._guard.faults.caught(f"the listener {agent.url}", error)
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
        self.context.counters.lost_listeners.append(agent.url)
        LOG.error(
            "the listener %s is closed, because polling it fails again and again: start the broker "
            "again to have it back; the other listeners go on",
            agent.url,
        )
        try:
            agent.close()
        except Exception as error:
            self._guard.faults.caught(f"closing the listener {agent.url}", error)
        queue = self._queues.pop(agent, None)
        for connection in list(self.connections.values()):
            if queue is not None and connection.belongs_to(queue):
                connection.connection_lost(ConnectionLost("its listener has failed"))

    # Timers.

    def _begin_timers(self) -> None:
        every, context = self._loop.call_every, self.context
        every(PROGRESS_NS, self._mark_progress)
        every(TRIM_NS, self._trim)
        every(WATCH_NS, self._watch_clock)
        every(GREETING_NS, self._dismiss_silent)
        every(PATHS_NS, self._watch_paths)
        every(ROOM_NS, context.refusals.tell_of_room)
        if context.hooks.measures:
            every(
                int(context.config.metrics),
                lambda: context.hooks.metrics(queries.counters(context)),
            )
        interval = context.storage.sync_interval_ns
        if interval:
            every(interval, self.syncs.sync_all)

    def _mark_progress(self) -> None:
        """Let selecting subscriptions that are caught up say what they have covered."""
        for stream in self._streams:
            stream.mark_progress()

    def _trim(self) -> None:
        """Apply retention, and copy output for whose sake a stalled connection holds segments."""
        pinned = 0
        for stream in self._streams:
            stream.warn_of_topics()
            backed = stream.backed
            status = stream.log.status()
            if stream.settings.retention_ns or backed or status.pinned or status.hot_bytes:
                stream.log.trim(self.context.clock.age_ns())
            if backed is not None:
                self.syncs.stored(stream, backed)
            pinned += stream.log.status().pinned
        if pinned:
            self._guard.each(self.connections, self._unpin)

    def _unpin(self, connection: Connection) -> None:
        self.context.counters.copied_bytes += connection.unpin()

    def _watch_clock(self) -> None:
        clock = self.context.clock
        step_ns = clock.watch()
        self._streams.router.set_clock(clock.offset_ns)
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
        patience = time.monotonic_ns() - self.context.config.limits.hello

        def look(connection: Connection) -> None:
            if connection.greeted:
                self._ungreeted.pop(connection.number, None)
            elif connection.opened_ns < patience:
                self._ungreeted.pop(connection.number, None)
                connection.refuse("too_slow", "no Hello came in time")

        self._guard.each(self._ungreeted, look)

    # Stopping.

    def begin_stop(self) -> None:
        """Take no new connections and close those there are as soon as they have their output."""
        self._stopping = True
        self.context.hooks.stopping(self.describe())
        for agent in self.agents:
            agent.stop_accepting()

    def close_connections(self) -> int:
        """Say Close wherever everything has been pulled; returns how many connections are left."""
        self._guard.each(
            self.connections, lambda connection: connection.begin_close("the broker is stopping")
        )
        return len(self.connections)


def _limits(config: Config) -> Limits:
    largest = message_max(config)
    return Limits(
        message_max=largest,
        batch_max=largest + BATCH_SLACK,
        publishers_max=config.limits.publishers,
        subscriptions_max=config.limits.subscriptions,
    )


def _server_name() -> str:
    from importlib import metadata

    try:
        return f"hermes {metadata.version('hermes-broker')}"
    except metadata.PackageNotFoundError:
        return "hermes"
