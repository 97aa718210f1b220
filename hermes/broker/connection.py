"""The broker's end of one client: joins the wire protocol, the native ingest and the subscriptions'
readers.

Here is what comes in: it goes to C in as few calls as it arrived in reads, and requests are answered.
What goes out is :mod:`hermes.broker.output`; publishers and their acknowledgements are
:mod:`hermes.broker.publishers`.  Knows no socket: see :class:`hermes.spi.transport.Connection` for the
side a transport sees.

This is the path every message takes: what runs once per read is written to do little.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hermes.broker.output import Outgoing
from hermes.broker.owners import durable_key, durable_name
from hermes.broker.publishers import Publisher, publisher_level
from hermes.broker.queries import FORGET, may_ask
from hermes.broker.subscriptions import Opening, RequestRefused, Subscription
from hermes.errors import HermesError, InvalidTopic, Refused, SystemFault
from hermes.native.envelopes import address_of
from hermes.native.express import CURSORS_MAX, INPUT, READ_SIZE, WORK, Express, Result
from hermes.native.patterns import covers
from hermes.spi.hooks import ConnectionInfo, Denial, Grant
from hermes.spi.transport import Peer
from hermes.wire import messages as m
from hermes.wire.server import Event, PublisherRefused, ServerState, Violation

if TYPE_CHECKING:
    from hermes.broker.kernel import Kernel, Queue
    from hermes.broker.subscriptions import Reader

LOG = logging.getLogger("hermes.broker")

OWN_BUFFER_FROM = 262144
"""Bytes of an unfinished frame from which it is collected in place instead of being copied from
read to read."""
OWN_BUFFER_MIN = 65536
"""Bytes such a buffer begins with; it doubles as they arrive, whatever length was announced."""
EXPRESS_BOUND_NS = 1_000_000
"""How long one run of the common case may take: timers and others wait meanwhile."""
BULKY = 16
"""Pulls after which a connection whose output was not sent in one go is tried again."""
ANSWERS_MAX = 4096
"""Frames of answers that wait to be pulled; with more, the peer is not read from until it reads."""
OPENING_MAX = 2 * ANSWERS_MAX
"""Subscribes under way and Pings behind them, with which no further Ping is read."""
TURN_NS = 500_000
"""How long the requests of one read are worked on before others have their turn, ns."""
ANSWERS_LIMIT = 4 * ANSWERS_MAX
"""Frames with which a peer whose transport goes on reading regardless is cut off."""
HELD_MAX = 4 * 1024 * 1024
"""Bytes of input that may wait for a connection's requests: a transport that reads on although the
connection is paused has it cut off with more."""
OWNERS_SHOWN = 8
"""Identities named by the refusal to forget a durable name that several have."""

_OPEN = ServerState.OPEN
_CLOSED = ServerState.CLOSED
_PEER_CLOSED = ServerState.PEER_CLOSED


class Connection(Outgoing):
    """One client.  Belongs to the loop's thread."""

    __slots__ = (
        "_bulky",
        "_ended",
        "_epoch",
        "_express",
        "_fd",
        "_have",
        "_held",
        "_held_event",
        "_info",
        "_needed",
        "_opening",
        "_own",
        "_own_address",
        "_queue",
        "_receive",
        "_rest",
        "_seats",
        "_shared",
        "_subscriptions",
        "_waiting",
        "attachment",
        "bytes_in",
        "closing",
        "grant",
        "opened_ns",
    )

    def __init__(self, kernel: Kernel, queue: Queue, peer: Peer, number: int) -> None:
        super().__init__(kernel, peer, number)
        self.attachment: Any = None
        self.closing = False
        self.opened_ns = time.monotonic_ns()
        self.bytes_in = 0
        self.grant: Grant | None = None
        """What the peer may do, if the broker asks; None: everything."""
        self._info: ConnectionInfo | None = None
        self._queue = queue
        # What a log elsewhere has not confirmed is neither acknowledged nor delivered.
        self._express: Express | None = None if kernel.backed else Express(self._ingest)
        self._fd = -1
        self._bulky = 0
        self._seats: dict[int, Reader] = {}
        self._epoch = -1
        self._shared = 0
        self._receive = self._protocol.receive
        self._rest = b""
        self._own: bytearray | None = None
        self._own_address: Any = None
        self._have = 0
        self._subscriptions: dict[int, Subscription] = {}
        self._opening: deque[Opening | m.Ping] = deque()
        self._held: memoryview | None = None  # input behind a request that is under way
        self._held_event: Event | None = None  # the first of it
        self._ended = False  # the peer will send no more than that
        self._waiting = False

    # Input: what a transport calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        """The kernel's scratch buffer, behind what is left of an unfinished frame; or that frame's
        own."""
        if self._own is not None:
            return memoryview(self._own)[self._have :]
        rest = self._rest
        scratch = self._kernel.scratch
        if not rest:
            return scratch
        scratch[: len(rest)] = rest
        return scratch[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take everything that is whole; keep the rest."""
        self.bytes_in += nbytes
        try:
            if self._held is not None:
                self._hold_more(self._kernel.scratch[:nbytes])
                return
            if self._own is not None:
                self._own_updated(nbytes)
                return
            kernel = self._kernel
            size = len(self._rest) + nbytes
            consumed = self._process(kernel.scratch_address, size)
            if consumed == size:
                self._rest = b""
            else:
                self._keep(kernel.scratch[consumed:size])
            if kernel.backed:
                kernel.relieve(self)
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
            if self._kernel.backed:
                self._kernel.relieve(self)
        except Exception as error:
            self.fail(error)

    def express(self, fd: int, epoll_fd: int, medium: int = 0) -> int:
        """Rounds of the common case in one call, where nothing stands in their way."""
        express, kernel = self._express, self._kernel
        if express is None or self._out or self._active or self._acks or self._answers:
            return 0
        if self._rest or self._own is not None or self.paused or self._lost:
            return 0
        if self._protocol.state is not _OPEN or self._protocol.has_output:
            return 0
        if self._epoch != kernel.follow_epoch:
            self._shared = self._shared_streams()
        shared, spin_ns = self._shared, 0 if kernel.unfinished else kernel.express_spin_ns
        scratch = kernel.scratch_address
        if medium:
            result = express.run_medium(
                medium, fd, epoll_fd, scratch, shared, spin_ns, EXPRESS_BOUND_NS
            )
        else:
            result = express.run(fd, epoll_fd, scratch, shared, spin_ns, EXPRESS_BOUND_NS)
        self.bytes_in += result.received
        self.bytes_out += result.sent
        kernel.express_rounds += result.rounds
        self.deliveries += result.deliveries
        self._sink.account(result.messages, result.batches, result.duplicates)
        moved = result.moved & shared
        if moved:
            kernel.moved |= moved
        why = result.why
        if why in (INPUT, WORK):
            try:
                self._after_express(express, result)
            except Exception as error:
                self.fail(error)
            return -1 if result.size == READ_SIZE else 1
        return result.rounds

    def lend(self, fd: int) -> None:
        """Output may go to the socket ``fd`` when the transport asks who is ready."""
        self._fd = fd
        self._queue.lent = True

    def eof_received(self) -> None:
        """The peer will send no more."""
        if self._lost:
            return
        if self._held is not None:
            self._ended = True
            return
        self._protocol.eof()
        self._after_events()
        self.mark()

    def connection_lost(self, error: Exception | None) -> None:
        """The medium is gone: forget everything."""
        if self._lost:
            return
        self._lost = True
        self.closing = True
        self._drop_subscriptions()
        for publisher in self._publishers.values():
            self._kernel.release_publisher(publisher)
        self._publishers.clear()
        self._acks.clear()
        self._answers.clear()
        self._out = []
        self._out_size = 0
        self._flight.clear()
        self._own = self._own_address = None
        self._rest = b""
        self._held = self._held_event = None
        self._express = None
        self._ingest.close()
        self._kernel.forget(self)
        if self._info is not None:
            self._kernel.hooks.connection_closed(self._info, error)

    # What the kernel calls.

    def mark(self) -> None:
        """Have the transport told that there may be output."""
        if not self._marked:
            self._marked = True
            self._queue.items.append(self)

    def mark_again(self, queue: Queue) -> None:
        """As :meth:`mark` for a connection of ``queue``, also if it was marked before."""
        if self._queue is queue:
            self._marked = False
            self.mark()

    def belongs_to(self, queue: Queue) -> bool:
        """Whether ``queue`` is its agent's."""
        return self._queue is queue

    def activate(self, reader: Reader) -> None:
        """``reader`` may have something."""
        reader.active = True
        self._active.append(reader)
        if not self._marked:
            self._marked = True
            self._queue.items.append(self)

    def begin_close(self, reason: str) -> bool:
        """Say Close once everything there is has been pulled; True when it has been said."""
        state = self._protocol.state
        if state is _OPEN and (self._active or self._out or self._answers or self._acks):
            return False
        if state is _OPEN and (self._opening or self._held is not None):
            return False
        if state is _OPEN and self._waits_for_sync():
            return False
        if state is not ServerState.CLOSING and state is not _CLOSED:
            self._protocol.close(reason)
            self._drop_subscriptions()  # what the peer still sends may wake no reader of its own
            self.mark()
        self.closing = self.closing or self._protocol.state is _CLOSED
        return True

    def hand_out(self) -> tuple[int, int, int, int] | None:
        """What :class:`hermes.native.express.HandOut` needs to serve it; None: it takes the long
        way."""
        express = self._express
        if express is None or self._fd < 0 or self._out or self._acks or self._answers:
            return None
        if self._lost or self.paused or self.closing or not self._active:
            return None
        protocol = self._protocol
        if protocol.state is not _OPEN or protocol.has_output:
            return None
        if self._bulky:
            self._bulky -= 1
            return None
        seats = 0
        for reader in self._active:
            if reader.progress:
                return None
            seats |= 1 << reader.seat
        return express.address, seats, 0, self._fd

    def handed_out(self, sent: int, deliveries: int) -> None:
        """All that its readers had is sent."""
        self._marked = False
        self.bytes_out += sent
        self.deliveries += deliveries
        for reader in self._active:
            reader.active = False
        self._active.clear()

    def handed_out_partly(self, sent: int, deliveries: int) -> None:
        """Go on with what is left."""
        active = list(self._active)
        self.handed_out(sent, deliveries)
        self._bulky = BULKY
        express = self._express
        assert express is not None
        result, (segment, offset, size) = express.left()
        if result.unsent:
            self._out = [memoryview(express.unsent(result))]
            self._out_size = result.unsent
        if size:
            frames = self._seats[result.gap_cursor].place.stream.log.view(segment, offset, size)
            self._out.append(frames)
            self._out_size += size
        for reader in active:
            if result.again >> reader.seat & 1:
                reader.active = True
                self._active.append(reader)
        if result.gap_first:
            reader = self._seats[result.gap_cursor]
            self._say_gap(reader, result.gap_first, result.gap_last, result.gap_reason)

    @property
    def holding(self) -> bool:
        """Whether there is input that waits for requests before it."""
        return self._held is not None

    def go_on(self, ends_ns: int) -> bool:
        """Go on with the requests under way, until ``ends_ns``; True if some are left."""
        try:
            self._open_subscriptions(ends_ns)
            if self._held is not None and time.monotonic_ns() < ends_ns:
                self._resume(ends_ns)
        except Exception as error:
            self.fail(error)
        self._waiting = self._held is not None or bool(self._opening)
        return self._waiting

    def refuse(self, code: str, message: str) -> None:
        """End the connection with an error."""
        self._protocol.error(code, message, fatal=True)
        self._after_events()
        self.mark()

    def durable_taken(self, subscription: Subscription, newer: Subscription) -> None:
        """``newer`` commits under the durable name of our ``subscription``, which ends here."""
        if self._subscriptions.pop(subscription.id, None) is not subscription:
            return
        self._end(subscription)
        self._protocol.error(
            "durable_in_use",
            f"another client ({newer.connection.peer.address}) subscribed as "
            f"{subscription.durable!r}: let one program use a durable name at a time",
            subscription=subscription.id,
        )
        self.mark()

    @property
    def greeted(self) -> bool:
        """Whether the peer has said who it is."""
        return self._protocol.hello is not None

    @property
    def identity(self) -> str | None:
        """Who the peer is: proven if the broker authenticates, else what the transport has proven
        or the peer claims."""
        if self.grant is not None:
            return self.grant.identity
        hello = self._protocol.hello
        return self.peer.identity or (hello.identity if hello else None)

    @property
    def owner(self) -> str | None:
        """The identity to which the durable names and publisher ids of this connection belong; None
        where the broker does not authenticate."""
        return None if self.grant is None else self.grant.identity

    def describe(self) -> dict[str, object]:
        """For ``hermes stats``."""
        hello = self._protocol.hello
        return {
            "number": self.number,
            "transport": self.peer.transport,
            "address": self.peer.address,
            "client": hello.client if hello else "",
            "identity": self.identity,
            "state": self._protocol.state.value,
            "age_ns": time.monotonic_ns() - self.opened_ns,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "batches_out": self.deliveries,
            "publishers": len(self._publishers),
            "subscriptions": len(self._subscriptions),
            "waiting_bytes": self._out_size + self._flight_size,
            **self._sink.totals(),
        }

    def readers(self) -> Iterator[Reader]:
        """Every reader of every subscription."""
        for subscription in self._subscriptions.values():
            yield from subscription.readers

    # Input, inside.

    def _process(self, data: Any, size: int) -> int:
        """Feed ``size`` bytes at ``data``; returns how many are done with."""
        now_ns = self._kernel.clock.now_ns()
        return self._work_off(self._receive(data, size, now_ns), data, size, now_ns)

    def _work_off(self, offset: int, data: Any, size: int, now_ns: int, ends_ns: int = 0) -> int:
        """Handle the event at ``offset``, and what follows, until ``ends_ns`` (0: for one turn)."""
        protocol, sink = self._protocol, self._sink
        event = protocol.event
        if event is not None and not ends_ns:
            ends_ns = time.monotonic_ns() + TURN_NS
        while event is not None:
            if sink.touched:
                self._acknowledge()  # what an event ends or refuses has been taken before it
            if self._must_wait(event):
                self._hold(event)
                break
            self._handle(event)
            if offset >= size:
                break
            if time.monotonic_ns() >= ends_ns and protocol.state is not _CLOSED:
                self._hold(None)
                break
            offset += self._receive(data + offset, size - offset, now_ns)
            event = protocol.event
        if sink.moved:
            self._kernel.moved |= sink.moved
            sink.moved = 0
        if sink.touched:
            self._acknowledge()
        if protocol.has_output or self._answers:
            self._check_answers()
            self.mark()
        if protocol.state is not _OPEN:
            self._after_events()
            if protocol.state is _CLOSED:
                self._held = self._held_event = None
                return size
        return offset

    def _must_wait(self, event: Event) -> bool:
        """Whether ``event`` is to be handled after the Subscribes under way."""
        if not self._opening:
            return False
        if isinstance(event, m.Ping):
            return len(self._opening) >= OPENING_MAX
        return isinstance(event, m.Unsubscribe | m.Commit | m.Query)

    def _hold(self, event: Event | None) -> None:
        """Leave the rest of the input, ``event`` first, for a later turn."""
        self._held = memoryview(b"")  # until _keep has what is left
        self._held_event = event
        self.paused = True
        self._wait()

    def _hold_more(self, data: memoryview) -> None:
        """Keep what arrives although the connection is paused."""
        assert self._held is not None
        if len(self._held) + len(data) > HELD_MAX:
            self.refuse("too_slow", "more is sent while requests are under way than is kept")
        else:
            self._held = memoryview(b"".join([self._held, data]))

    def _wait(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._kernel.wait(self)

    def _resume(self, ends_ns: int) -> None:
        """Go on with the input that was held."""
        kernel, protocol = self._kernel, self._protocol
        held, event = self._held, self._held_event
        assert held is not None
        self._held = self._held_event = None
        self.paused = self.number in kernel.choked
        size, now_ns = len(held), kernel.clock.now_ns()
        data = address_of(held) if size else kernel.scratch_address
        offset = 0
        if event is None:
            offset = self._receive(data, size, now_ns)
        else:
            protocol.event = event
        consumed = self._work_off(offset, data, size, now_ns, ends_ns)
        if consumed < size:
            self._keep(held[consumed:])
        if kernel.backed:
            kernel.relieve(self)
        if self._held is None:
            self.mark()  # it may be read from again
            if self._ended:
                self.eof_received()

    def _after_express(self, express: Express, result: Result) -> None:
        """Go on with what a run has handed back."""
        kernel = self._kernel
        if result.unsent:
            self._out = [memoryview(express.unsent(result))]
            self._out_size = result.unsent
            self.mark()
        if result.touched:
            self._note(express.touched(result.touched))
            self._acknowledge()
        if result.gap_first:
            reader = self._seats[result.gap_cursor]
            self._say_gap(reader, result.gap_first, result.gap_last, result.gap_reason)
            self.mark()
        again = result.again
        while again:
            lowest = again & -again
            again ^= lowest
            late = self._seats.get(lowest.bit_length() - 1)
            if late is not None and not late.active:
                self.activate(late)
        if result.why == INPUT:
            feed = express.feed
            kernel.moved |= feed.streams
            if feed.touched:
                self._sink.touched = True
            size = result.size
            data = kernel.scratch_address
            now_ns = self._kernel.clock.now_ns()
            consumed = self._work_off(
                self._protocol.resume(feed, data, size, now_ns), data, size, now_ns
            )
            if consumed < size:
                self._keep(kernel.scratch[consumed:size])

    def _shared_streams(self) -> int:
        """Bit set of the streams that others than this connection's readers follow."""
        self._epoch = self._kernel.follow_epoch
        own: dict[int, int] = {}
        for reader in self._seats.values():
            own[reader.place.index] = own.get(reader.place.index, 0) + 1
        return sum(
            1 << place.index
            for place in self._kernel.streams
            if place.readers != own.get(place.index, 0)
        )

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

    # Events.

    def _handle(self, event: Event) -> None:
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _on_hello(self, hello: m.Hello) -> None:
        kernel = self._kernel
        if kernel.authenticates and not self._admit(hello):
            return
        self._protocol.welcome(
            server=kernel.server, broker_id=kernel.broker_id, durable=kernel.durable
        )
        if kernel.hooks.follows_connections:
            self._info = ConnectionInfo(self.number, self.peer, hello.client, self.identity)
            kernel.hooks.connection_opened(self._info)

    def _admit(self, hello: m.Hello) -> bool:
        """Ask who decides; whether the peer may come in."""
        credentials, hello.credentials = hello.credentials, {}  # nobody needs them any more
        answer = self._kernel.hooks.authenticate(self.peer, hello.identity, credentials)
        if isinstance(answer, Denial):
            self._kernel.denials += 1
            LOG.warning("%s (%s) was refused", self.peer.address, self.peer.transport)
            self.refuse("authentication_failed", answer.reason)
            return False
        self.grant = answer
        self._protocol.identity = answer.identity
        if ">" not in answer.publish:
            self._ingest.restrict(answer.publish)
        return True

    def _on_open(self, request: m.Open) -> None:
        if request.ack == "durable" and not self._kernel.durable:
            self._protocol.error(
                "durable_unavailable",
                f"the storage {self._kernel.storage.url} keeps nothing on disk",
                publisher=request.publisher,
                fatal=True,
            )
            return
        publisher = Publisher(self, request.publisher, request.publisher_id, request.ack)
        stored_id, older = publisher.stored_id, None
        try:
            self._kernel.recall(stored_id)
            if stored_id != request.publisher_id:  # as brokers that do not authenticate store it
                older = request.publisher_id
                self._kernel.recall(older)
        except SystemFault as error:
            text = f"what is stored of publisher {request.publisher} cannot be read: {error}"
            self._protocol.error("storage_failed", text, publisher=request.publisher, fatal=True)
            return
        last = self._ingest.open(request.publisher, stored_id, older)
        self._publishers[request.publisher] = publisher
        self._kernel.claim_publisher(publisher)
        if self._express is not None:
            self._express.set_level(request.publisher, request.ack)
        self._protocol.ack(request.publisher, last, "opened")

    def _on_subscribe(self, request: m.Subscribe) -> None:
        kernel, opening = self._kernel, Opening(request)
        try:
            self._check_grant(request)
            try:
                opening.want(kernel.streams)
            except Refused:
                kernel.close_discarded()  # filters that nobody uses may be what there is
                opening.want(kernel.streams)
        except (HermesError, RequestRefused) as error:
            self._refuse_subscribe(request, error)
            return
        self._opening.append(opening)
        self._protocol.hold_pongs = True
        if len(self._opening) == 1:
            self._open_subscriptions(0)
        if self._opening:
            self._wait()
        if not opening.matched():
            kernel.sweep(place for place, _ in opening.wanted)

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

    def _open_subscriptions(self, ends_ns: int) -> None:
        """Go on with the Subscribes under way, in order, until ``ends_ns``; at least one step."""
        while self._opening and self._kernel.streams.opened:
            opening = self._opening[0]
            if isinstance(opening, m.Ping):
                self._opening.popleft()
                self._protocol.pong(opening.token)
                self.mark()
                continue
            if opening.subscription is None:
                if not opening.matched():
                    break
                try:
                    opening.subscription = self._subscription(opening.request)
                except (HermesError, RequestRefused) as error:
                    self._refuse_subscribe(opening.request, error)
                    self._close_opening(self._opening.popleft())
                    self.mark()
                    continue
            if not opening.subscription.collect():
                self._opening.popleft()
                opening.release()
                self._subscribed(opening.subscription)
            if time.monotonic_ns() >= ends_ns:
                break
        self._protocol.hold_pongs = bool(self._opening)

    def _subscription(self, request: m.Subscribe) -> Subscription:
        """Open the readers."""
        name, stored = request.durable, None
        if name is not None:
            stored = self._kernel.durable_positions(name, self)
        subscription = Subscription(self, request)
        subscription.open(self._kernel.streams, request.start, stored)
        if request.start.at == "durable" and subscription.durable_key is not None:
            rewound = self._kernel.positions.take_rewound(subscription.durable_key)
            for reader in subscription.readers:
                reader.rewound = rewound.get(reader.place.name, 0)
        return subscription

    def _subscribed(self, subscription: Subscription) -> None:
        """Answer Subscribe, and deliver."""
        number = subscription.id
        self._kernel.claim_durable(subscription)
        self._subscriptions[number] = subscription
        for reader in subscription.readers:
            place = reader.place
            reader.follow()
            through, epoch = reader.cursor.through, place.epochs.current
            if reader.rewound > through:
                place.gaps += 1
                self._protocol.stream(place.index, place.name, epoch)
                self._protocol.gap(
                    number, place.index, first=through + 1, last=reader.rewound, reason="epoch"
                )
            self._protocol.position(number, place.index, place.name, through, epoch)
            self._seat(reader)
            self.activate(reader)

    def _on_ping(self, request: m.Ping) -> None:
        if self._opening:
            self._opening.append(request)  # its answer says that they have been answered
        else:
            self._protocol.pong(request.token)

    def _close_opening(self, opening: Opening | m.Ping) -> None:
        """Give up a Subscribe under way."""
        if isinstance(opening, m.Ping):
            return
        if opening.subscription is not None:
            opening.subscription.close()
        self._kernel.sweep(opening.release())

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
        subscription = self._subscriptions.pop(request.subscription, None)
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
        number, kernel = request.subscription, self._kernel
        subscription = self._subscriptions.get(number)
        if subscription is None:
            self._unknown_subscription(number)
            return
        positions = self._common(request)
        problem = self._commit_problem(subscription, positions)
        if problem:
            self._protocol.error("commit_refused", problem, subscription=number, fatal=False)
            return

        def done(error: HermesError | None) -> None:
            if self._lost or self._protocol.state is not _OPEN:
                return
            if error is None:
                self._protocol.committed(number, request.positions)
            else:
                self._protocol.error("storage_failed", str(error), subscription=number, fatal=False)
            self.mark()

        kernel.commit(subscription, positions, done)

    def _common(self, request: m.Commit) -> dict[str, int]:
        """The positions to commit, as far as this log has what their epochs had."""
        common = {}
        for name, sequence in request.positions.items():
            place = self._kernel.streams.by_name(name)
            epoch = request.epochs.get(name, 0)
            common[name] = sequence if place is None else place.epochs.common(sequence, epoch)
        return common

    def _commit_problem(self, subscription: Subscription, positions: dict[str, int]) -> str | None:
        if subscription.durable is None:
            return "the subscription has no durable name"
        for name, sequence in positions.items():
            place = self._kernel.streams.by_name(name)
            if place is None:
                return f"there is no stream {name!r}"
            if self.grant is not None and all(of.place is not place for of in subscription.readers):
                return f"the subscription does not read the stream {name!r}"
            if sequence > place.last_sequence:
                return (
                    f"{sequence} lies ahead of stream {name!r}, which ends at {place.last_sequence}"
                )
        return None

    def _forget(self, request: m.Query) -> None:
        """Forget a durable name that nobody uses; answered when that is stored."""
        number, name = request.query, request.arguments.get("durable", "")
        owner = request.arguments.get("identity")
        keys = (
            [durable_key(owner or None, name)]
            if owner is not None
            else self._kernel.durable_keys(name)
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
        holder = self._kernel.holder(key)
        if holder is not None:
            text = f"a client ({holder}) commits as {name!r}: end its subscription first"
            self._protocol.error("durable_in_use", text, query=number)
            return

        def done(error: HermesError | None) -> None:
            if self._lost or self._protocol.state is not _OPEN:
                return
            if error is None:
                self._protocol.info(number, True)
            else:
                self._protocol.error("storage_failed", str(error), query=number, fatal=False)
            self.mark()

        if not self._kernel.positions.forget(key, done):
            self._protocol.info(number, False)

    def _on_query(self, request: m.Query) -> None:
        pages = self._kernel.answer(request.what, request.arguments, self.grant)
        if self.grant is not None and not may_ask(self.grant, request.what):
            self._protocol.error(
                "not_allowed",
                f"{self.grant.identity!r} may not ask for {request.what!r}",
                query=request.query,
            )
        elif request.what == FORGET:
            self._forget(request)
        elif pages is None:
            self._protocol.error(
                "unknown_query",
                f"no answer to {request.what!r}; ask for one of: "
                f"{', '.join(self._kernel.questions)}",
                query=request.query,
            )
        else:
            self._answers.append((request.query, pages))

    def _on_close(self, request: m.Close) -> None:
        if request.publisher is None:
            self._drop_subscriptions()
            return
        publisher = self._publishers.pop(request.publisher, None)
        if publisher is not None:
            self._kernel.release_publisher(publisher)
            self._ingest.close_publisher(request.publisher)
            if self._express is not None:
                self._express.forget(request.publisher)
            if publisher in self._acks:
                self._acks.remove(publisher)  # nothing is acknowledged after Close

    def _on_refused(self, event: PublisherRefused) -> None:
        self._kernel.refusals += 1
        self._kernel.tell_of_refusal(event.code, event.error)

    def _on_violation(self, event: Violation) -> None:
        self._kernel.violations += 1

    # Ending.

    def fail(self, error: Exception) -> None:
        """End the connection because of an unexpected error in serving it; the broker goes on."""
        self._kernel.faults.caught(f"connection {self.number} ({self.peer.address})", error)
        self._drop_subscriptions()
        self._acks.clear()
        self._answers.clear()
        if self._protocol.state is ServerState.AWAIT_WELCOME or self.greeted:
            self._protocol.error(
                "internal", f"{type(error).__name__}: see the broker's log", fatal=True
            )
        else:
            self._protocol.eof()
        self.closing = True
        self.mark()

    def _after_events(self) -> None:
        """Follow the protocol's state where it leads out of OPEN."""
        protocol = self._protocol
        state = protocol.state
        if state is _PEER_CLOSED and not self._waits_for_sync():
            self._drop_subscriptions()
            for publisher in self._acks:
                protocol.ack(publisher.id, publisher.through, publisher_level(publisher))
            self._acks.clear()
            protocol.close()
            state = protocol.state
        if state is _CLOSED and not self.closing:
            self._drop_subscriptions()
            self._answers.clear()
            self.closing = True
            self.mark()

    def _drop_subscriptions(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, {}
        for reader in self._active:
            reader.active = False
        self._active.clear()
        for subscription in subscriptions.values():
            self._end(subscription)
        while self._opening:
            self._close_opening(self._opening.popleft())

    def _end(self, subscription: Subscription) -> None:
        for reader in subscription.readers:
            if reader.active:
                self._active.remove(reader)
            reader.active = True  # nobody activates it any more
            if self._express is not None and self._seats.pop(reader.seat, None) is not None:
                self._express.remove(reader.seat)
        self._kernel.release_durable(subscription)
        self._kernel.discard(subscription)

    def _seat(self, reader: Reader) -> None:
        """Let native code serve ``reader`` too; with too many readers, none is served so."""
        self._kernel.follow_epoch += 1
        if self._express is None:
            return
        if len(self._seats) >= CURSORS_MAX:
            self._express = None
            return
        reader.seat = self._express.add(reader.place.stream, reader.cursor, reader.place.index)
        self._seats[reader.seat] = reader


_HANDLERS: dict[type, Any] = {
    m.Hello: Connection._on_hello,
    m.Open: Connection._on_open,
    m.Subscribe: Connection._on_subscribe,
    m.Unsubscribe: Connection._on_unsubscribe,
    m.Commit: Connection._on_commit,
    m.Ping: Connection._on_ping,
    m.Query: Connection._on_query,
    m.Close: Connection._on_close,
    PublisherRefused: Connection._on_refused,
    Violation: Connection._on_violation,
}
