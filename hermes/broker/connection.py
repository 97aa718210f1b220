"""The broker's end of one client: takes what a transport brings, and has its parts do the rest.

Input goes to C in as few calls as it arrived in reads.  Requests are answered by
:mod:`hermes.broker.requests`, publishers acknowledged by :mod:`hermes.broker.acks`, and output is
:mod:`hermes.broker.output`.  See :class:`hermes.spi.transport.Connection` for the side a transport
sees.

This is the path every message takes: what runs once per read is written to do little.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from hermes.broker.acks import Acks, Sink
from hermes.broker.context import Context
from hermes.broker.output import Output
from hermes.broker.publishers import Publisher
from hermes.broker.requests import Requests
from hermes.broker.streams import ServedStream
from hermes.broker.subscriptions import Subscription
from hermes.broker.turns import TURN_NS
from hermes.native.conn import INPUT, READ_SIZE, WORK, Conn, Conns, Rounds
from hermes.native.envelopes import address_of
from hermes.native.stream import Ingest
from hermes.spi.transport import Flushed, Medium, Peer
from hermes.wire.server import Event, ServerProtocol, ServerState

OWN_BUFFER_FROM = 262144
"""Bytes of an unfinished frame from which it is collected in place instead of being copied from
read to read."""
OWN_BUFFER_MIN = 65536
"""Bytes such a buffer begins with; it doubles as they arrive, whatever length was announced."""
ANSWERS_MAX = 4096
"""Frames of answers that wait to be pulled; with more, the peer is not read from until it reads."""
ANSWERS_LIMIT = 4 * ANSWERS_MAX
"""Frames with which a peer whose transport goes on reading regardless is cut off."""
HELD_MAX = 4 * 1024 * 1024
"""Bytes of input that may wait for a connection's requests: a transport that reads on although the
connection is paused has it cut off with more."""
SERVE_BOUND_NS = 1_000_000
"""How long native code may serve one connection: timers and others wait meanwhile."""

_OPEN = ServerState.OPEN
_CLOSED = ServerState.CLOSED
_PEER_CLOSED = ServerState.PEER_CLOSED


class Queue:
    """The connections of one agent that may have output."""

    __slots__ = ("conns", "items")

    def __init__(self) -> None:
        self.items: list[Connection] = []
        """Connections for which there is something to do in Python."""
        self.conns = Conns()
        """All of them, with those that may have something to deliver."""


class Roster(Protocol):
    """The kernel, as far as its connections know it."""

    def forget(self, connection: Connection) -> None:
        """Drop ``connection``, which has ended."""


class Connection:
    """One client.  Belongs to the loop's thread."""

    __slots__ = (
        "_acks",
        "_conn",
        "_context",
        "_ended",
        "_have",
        "_held",
        "_held_event",
        "_host",
        "_ingest",
        "_lost",
        "_output",
        "_own",
        "_own_address",
        "_protocol",
        "_queue",
        "_receive",
        "_requests",
        "_rest",
        "_sink",
        "_waiting",
        "attachment",
        "bytes_in",
        "closing",
        "marked",
        "number",
        "opened_ns",
        "paused",
        "peer",
    )

    def __init__(
        self, host: Roster, context: Context, queue: Queue, peer: Peer, number: int
    ) -> None:
        self.peer = peer
        self.number = number
        self.attachment: Any = None
        self.closing = False
        self.paused = False
        self.marked = False
        """The transport has been told that there may be output."""
        self.opened_ns = time.monotonic_ns()
        self.bytes_in = 0
        self._host = host
        self._context = context
        self._queue = queue
        ingest = self._ingest = Ingest(context.streams.router, context.limits.message_max)
        sink = self._sink = Sink(ingest)
        protocol = self._protocol = ServerProtocol(sink, context.limits)
        acks = self._acks = Acks(self, context, protocol, ingest, sink)
        conn = self._conn = Conn(queue.conns, ingest, number)
        output = self._output = Output(self, context, protocol, acks, conn)
        self._requests = Requests(
            self,
            peer,
            context,
            protocol=protocol,
            ingest=ingest,
            acks=acks,
            output=output,
            conn=conn,
        )
        self._receive = protocol.receive
        self._rest = b""
        self._own: bytearray | None = None
        self._own_address: Any = None
        self._have = 0
        self._held: memoryview | None = None  # input behind a request that is under way
        self._held_event: Event | None = None  # the first of it
        self._ended = False  # the peer will send no more than that
        self._waiting = False
        self._lost = False

    # Input: what a transport calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        """The kernel's scratch buffer, behind what is left of an unfinished frame; or that frame's
        own."""
        if self._own is not None:
            return memoryview(self._own)[self._have :]
        rest = self._rest
        scratch = self._context.scratch
        if not rest:
            return scratch
        scratch[: len(rest)] = rest
        return scratch[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take everything that is whole; keep the rest."""
        if self._lost:
            return
        self.bytes_in += nbytes
        try:
            if self._held is not None:
                self._hold_more(self._context.scratch[:nbytes])
                return
            if self._own is not None:
                self._own_updated(nbytes)
                return
            context = self._context
            size = len(self._rest) + nbytes
            consumed = self._process(context.scratch_address, size)
            if consumed == size:
                self._rest = b""
            else:
                self._keep(context.scratch[consumed:size])
            if context.streams.backed:
                context.syncs.throttle(self)
        except Exception as error:
            self.fail(error)

    def data_received(self, data: memoryview) -> None:
        """Take what is whole from where it stands; an unfinished frame is finished by copying."""
        while (self._rest or self._own is not None) and data:
            buffer = self.get_buffer(-1)
            count = min(len(buffer), len(data))
            if self._rest:  # no more than completes it: what follows need not be copied
                count = min(count, max(1, self._protocol.needed - len(self._rest)))
            buffer[:count] = data[:count]
            data = data[count:]
            self.buffer_updated(count)
        if not data or self._lost:
            return
        self.bytes_in += len(data)
        try:
            if self._held is not None:
                self._hold_more(data)
                return
            with address_of(data) as place:
                consumed = self._process(place, len(data))
            if consumed < len(data):
                self._keep(data[consumed:])
            if self._context.streams.backed:
                self._context.syncs.throttle(self)
        except Exception as error:
            self.fail(error)

    def serve(self, medium: Medium, watch_fd: int) -> int:
        """Rounds of the common case in one call, where nothing stands in their way."""
        if self._rest or self._own is not None or self.paused or self._lost:
            return 0
        if self._protocol.state is not _OPEN or self._protocol.has_output:
            return 0
        context = self._context
        spin_ns = 0 if context.turns.unfinished else context.serve_spin_ns
        served = self._conn.serve(
            medium.fd, medium.address, watch_fd, context.scratch_address, spin_ns, SERVE_BOUND_NS
        )
        self.bytes_in += served.received
        self._sink.account(served.messages, served.batches, served.duplicates)
        context.counters.served_rounds += served.rounds
        if served.why in (INPUT, WORK):
            try:
                self._after_serve(served)
            except Exception as error:
                self.fail(error)
            return -1 if served.size == READ_SIZE else 1
        return served.rounds

    def attach(self, fd: int, sends: int = 0) -> bool:
        """Have output go to the socket ``fd`` when the transport asks who is ready."""
        self._conn.attach(fd, sends)
        return True

    def flush(self) -> Flushed:
        """Send what there is to the socket that is attached.

        Raises:
            OSError: the socket is broken.
        """
        self.marked = False
        return self._output.flush()

    def output(self, limit: int) -> Sequence[memoryview]:
        """Return output that was pulled and not taken yet, or pull about ``limit`` bytes."""
        self.marked = False
        return self._output.pull(limit)

    def advance(self, nbytes: int) -> None:
        """The medium has taken ``nbytes``."""
        self._conn.advance(nbytes)

    def release(self, nbytes: int) -> None:
        """The medium needs the first ``nbytes`` of what it has taken no more."""
        self._conn.release(nbytes)

    def eof_received(self) -> None:
        """The peer will send no more."""
        if self._lost:
            return
        if self._held is not None:
            self._ended = True
            return
        self._protocol.eof()
        self.follow_state()
        self.mark()

    def connection_lost(self, error: Exception | None) -> None:
        """The medium is gone: forget everything."""
        if self._lost:
            return
        self._lost = self.closing = True
        self._output.closed = self._requests.closed = True
        self.drop_subscriptions()
        self._acks.end()
        self._output.close()
        self._own = self._own_address = None
        self._rest = b""
        self._held = self._held_event = None
        self._ingest.close()
        self._host.forget(self)
        self._requests.end(error)

    # Calls of the kernel.

    def mark(self) -> None:
        """Have the transport told that there may be output; what Python has to say leaves first."""
        if not self.marked and not self._lost:
            self.marked = True
            self._queue.items.append(self)
            self._conn.hold()

    def mark_again(self, queue: Queue) -> None:
        """As :meth:`mark` for a connection of ``queue``, also if it was marked before."""
        if self._queue is queue:
            self.marked = False
            self.mark()

    def belongs_to(self, queue: Queue) -> bool:
        """Whether ``queue`` is its agent's."""
        return self._queue is queue

    def begin_close(self, reason: str) -> bool:
        """Say Close once everything there is has been pulled; True when it has been said."""
        state = self._protocol.state
        if state is _OPEN and (not self._output.idle):
            return False
        if state is _OPEN and (self._requests.opening or self._held is not None):
            return False
        if state is _OPEN and self._acks.waits():
            return False
        if state is not ServerState.CLOSING and state is not _CLOSED:
            self._protocol.close(reason)
            self.drop_subscriptions()  # what the peer still sends may wake no reader of its own
            self.mark()
        self.closing = self.closing or self._protocol.state is _CLOSED
        return True

    def go_on(self, ends_ns: int) -> bool:
        """Go on with the requests under way, until ``ends_ns``; True if some are left."""
        try:
            self._requests.open_subscriptions(ends_ns)
            if self._held is not None and time.monotonic_ns() < ends_ns:
                self._resume(ends_ns)
        except Exception as error:
            self.fail(error)
        self._waiting = self._held is not None or bool(self._requests.opening)
        return self._waiting

    def unpin(self) -> int:
        """Copy output that holds log memory and has not moved since the last call; returns the
        bytes copied."""
        return self._conn.unpin()

    @property
    def greeted(self) -> bool:
        """Whether the peer has said who it is."""
        return self._protocol.hello is not None

    def describe(self) -> dict[str, object]:
        """For ``hermes stats``."""
        hello, output = self._protocol.hello, self._conn.status()
        return {
            "number": self.number,
            "transport": self.peer.transport,
            "address": self.peer.address,
            "client": hello.client if hello else "",
            "identity": self.identity,
            "state": self._protocol.state.value,
            "age_ns": time.monotonic_ns() - self.opened_ns,
            "bytes_in": self.bytes_in,
            "bytes_out": output.sent,
            "batches_out": output.deliveries,
            "publishers": len(self._acks.publishers),
            "subscriptions": len(self._requests.subscriptions),
            "waiting_bytes": output.waiting + output.in_flight,
            **self._sink.totals(),
        }

    # Calls of its parts, and of other connections.

    @property
    def address(self) -> str:
        """Address of the peer."""
        return self.peer.address

    @property
    def identity(self) -> str | None:
        """Identity of the peer; see :attr:`Requests.identity`."""
        return self._requests.identity

    @property
    def owner(self) -> str | None:
        """The identity to which the durable names and publisher ids of this connection belong; None
        where the broker does not authenticate."""
        grant = self._requests.grant
        return None if grant is None else grant.identity

    @property
    def holding(self) -> bool:
        """Whether there is input that waits for requests before it."""
        return self._held is not None

    def control_taken(self) -> None:
        """Control frames that waited have been pulled: read on, unless something else forbids it."""
        self.paused = self._held is not None or self.number in self._context.syncs.choked

    def wait(self) -> None:
        """Requests are under way: go on with them in later passes."""
        if not self._waiting:
            self._waiting = True
            self._context.turns.wait(self)

    def refuse(self, code: str, message: str) -> None:
        """End the connection with an error."""
        self._protocol.error(code, message, fatal=True)
        self.follow_state()
        self.mark()

    def synced(self) -> bool:
        """More has been synced or stored; returns whether nothing is waited for any more."""
        return self._lost or self._acks.synced()

    def sync_failed(self, stream: ServedStream) -> None:
        """Messages appended to ``stream`` may never reach the disk."""
        if not self._lost:
            self._acks.sync_failed(stream)

    def durable_taken(self, subscription: Subscription, newer: Subscription) -> None:
        """``newer`` commits under the durable name of our ``subscription``, which ends here."""
        self._requests.durable_taken(subscription, newer)

    def publisher_taken(self, publisher: Publisher, newer: Publisher) -> None:
        """``newer`` has the id of our ``publisher``, which ends here."""
        self._acks.taken(publisher, newer)

    def drop_subscriptions(self) -> None:
        """End every subscription."""
        self._requests.drop_subscriptions()

    # Input, inside.

    def _process(self, data: Any, size: int) -> int:
        """Feed ``size`` bytes at ``data``; returns how many are done with."""
        now_ns = self._context.clock.now_ns()
        return self._work_off(self._receive(data, size, now_ns), data, size, now_ns)

    def _work_off(self, offset: int, data: Any, size: int, now_ns: int, ends_ns: int = 0) -> int:
        """Handle the event at ``offset``, and what follows, until ``ends_ns`` (0: for one turn)."""
        protocol, sink = self._protocol, self._sink
        event = protocol.event
        if event is not None and not ends_ns:
            ends_ns = time.monotonic_ns() + TURN_NS
        while event is not None:
            if sink.touched:
                self._acks.note_fed()  # what an event ends or refuses has been taken before it
            if self._requests.must_wait(event):
                self._hold(event)
                break
            self._requests.handle(event)
            if offset >= size:
                break
            if time.monotonic_ns() >= ends_ns and protocol.state is not _CLOSED:
                self._hold(None)
                break
            offset += self._receive(data + offset, size - offset, now_ns)
            event = protocol.event
        if sink.moved:
            self._context.streams.moved |= sink.moved
            sink.moved = 0
        if sink.touched:
            self._acks.note_fed()
        if protocol.has_output or self._output.answers:
            self._check_answers()
            self.mark()
        if protocol.state is not _OPEN:
            self.follow_state()
            if protocol.state is _CLOSED:
                self._held = self._held_event = None
                return size
        return offset

    def _hold(self, event: Event | None) -> None:
        """Leave the rest of the input, ``event`` first, for a later turn."""
        self._held = memoryview(b"")  # until _keep has what is left
        self._held_event = event
        self.paused = True
        self.wait()

    def _hold_more(self, data: memoryview) -> None:
        """Keep what arrives although the connection is paused."""
        assert self._held is not None
        if len(self._held) + len(data) > HELD_MAX:
            self.refuse("too_slow", "more is sent while requests are under way than is kept")
        else:
            self._held = memoryview(b"".join([self._held, data]))

    def _resume(self, ends_ns: int) -> None:
        """Go on with the input that was held."""
        context, protocol = self._context, self._protocol
        held, event = self._held, self._held_event
        assert held is not None
        self._held = self._held_event = None
        self.paused = self.number in context.syncs.choked
        size, now_ns = len(held), context.clock.now_ns()
        data = address_of(held) if size else context.scratch_address
        offset = 0
        if event is None:
            offset = self._receive(data, size, now_ns)
        else:
            protocol.event = event
        consumed = self._work_off(offset, data, size, now_ns, ends_ns)
        if consumed < size:
            self._keep(held[consumed:])
        if context.streams.backed:
            context.syncs.throttle(self)
        if self._held is None:
            self.mark()  # it may be read from again
            if self._ended:
                self.eof_received()

    def _after_serve(self, served: Rounds) -> None:
        """Go on with what native code has handed back."""
        context = self._context
        if served.held:
            context.streams.moved |= served.held
        if served.touched:
            self._acks.note(self._conn.touched(served.touched))
            self._acks.note_fed()
        if served.why == INPUT:
            feed, size, data = self._conn.feed, served.size, context.scratch_address
            if feed.touched:
                self._sink.touched = True
            now_ns = context.clock.now_ns()
            consumed = self._work_off(
                self._protocol.resume(feed, data, size, now_ns), data, size, now_ns
            )
            if consumed < size:
                self._keep(context.scratch[consumed:size])
        if context.streams.backed:
            context.syncs.throttle(self)

    def _keep(self, rest: memoryview) -> None:
        if self._held is not None:
            self._rest = b""
            self._held = memoryview(bytes(rest))
            return
        needed = self._protocol.needed
        if needed < OWN_BUFFER_FROM:
            self._rest = bytes(rest)
            return
        self._rest = b""
        self._own = bytearray(min(needed, max(OWN_BUFFER_MIN, 2 * len(rest))))
        self._own[: len(rest)] = rest
        self._own_address = address_of(self._own)
        self._have = len(rest)

    def _own_updated(self, nbytes: int) -> None:
        assert self._own is not None
        self._have += nbytes
        if self._have < len(self._own):
            return
        needed = self._protocol.needed
        if self._have < needed:
            grown = bytearray(min(needed, 2 * self._have))
            grown[: self._have] = self._own
            self._own, self._own_address = grown, address_of(grown)
            return
        own, size, address = self._own, self._have, self._own_address
        self._own = self._own_address = None
        self._have = 0
        consumed = self._process(address, size)
        if consumed < size:
            self._keep(memoryview(own)[consumed:size])

    def _check_answers(self) -> None:
        waiting = self._protocol.output_count
        if waiting > ANSWERS_LIMIT and self.paused:
            self.refuse("too_slow", "answers are not read")
        elif waiting > ANSWERS_MAX:
            self.paused = True

    # Ending.

    def fail(self, error: Exception) -> None:
        """End the connection because of an unexpected error in serving it; the broker goes on."""
        self._context.guard.faults.caught(f"connection {self.number} ({self.peer.address})", error)
        self.drop_subscriptions()
        self._acks.due.clear()
        self._output.answers.clear()
        if self._protocol.state is ServerState.AWAIT_WELCOME or self.greeted:
            self._protocol.error(
                "internal", f"{type(error).__name__}: see the broker's log", fatal=True
            )
        else:
            self._protocol.eof()
        self.closing = True
        self.mark()

    def follow_state(self) -> None:
        """Follow the protocol's state where it leads out of OPEN."""
        protocol = self._protocol
        state = protocol.state
        if state is _PEER_CLOSED and not self._acks.waits():
            self.drop_subscriptions()
            self._acks.put()
            protocol.close()
            state = protocol.state
        if state is _CLOSED and not self.closing:
            self.drop_subscriptions()
            self._output.answers.clear()
            self.closing = True
            self.mark()
