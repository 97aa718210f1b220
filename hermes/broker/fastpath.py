"""The native service of one connection: what it reads, acknowledges and delivers without Python.

Two ways lead there: a run of rounds, when the connection's socket is readable (``express``), and a
hand-out to many connections in one call, when their readers have something.  Both are tried only where
nothing but the common case is to be done, and what they leave over goes on in Python.
"""

from __future__ import annotations

from typing import Protocol

from hermes.broker.acks import Acks
from hermes.broker.context import Context
from hermes.broker.output import OutputQueue
from hermes.broker.subscriptions import Reader
from hermes.native.express import CURSORS_MAX, Express, Result
from hermes.native.stream import Ingest
from hermes.wire import messages as m
from hermes.wire.server import ServerProtocol, ServerState

EXPRESS_BOUND_NS = 1_000_000
"""How long one run may take: timers and others wait meanwhile."""
BULKY = 16
"""Pulls after which a connection whose output was not sent in one go is served natively again."""

_OPEN = ServerState.OPEN


class FastPathHost(Protocol):
    """The connection that is served."""

    @property
    def closing(self) -> bool:
        """Whether the connection is about to end."""

    @property
    def paused(self) -> bool:
        """Whether it is not read from."""

    marked: bool
    """Whether the transport has been told that there may be output."""

    def activate(self, reader: Reader) -> None:
        """``reader`` may have something."""


class FastPath:
    """The readers and publishers of one connection that native code serves.  Belongs to the loop's thread."""

    __slots__ = (
        "_acks",
        "_bulky",
        "_connection",
        "_context",
        "_epoch",
        "_fd",
        "_output",
        "_protocol",
        "_seats",
        "_shared",
        "express",
    )

    def __init__(
        self,
        connection: FastPathHost,
        context: Context,
        protocol: ServerProtocol,
        ingest: Ingest,
        acks: Acks,
        output: OutputQueue,
    ) -> None:
        self._connection = connection
        self._context = context
        self._protocol = protocol
        self._acks = acks
        self._output = output
        # Messages that a log elsewhere has not confirmed are neither acknowledged nor delivered.
        self.express = None if context.streams.backed else Express(ingest)
        """None: this connection is served by Python alone."""
        self._seats: dict[int, Reader] = {}
        self._epoch = -1
        self._shared = 0
        self._fd = -1
        self._bulky = 0

    # Readers and publishers that are served.

    def set_level(self, publisher: int, level: m.AckLevel) -> None:
        """The publisher with that number was opened."""
        if self.express is not None:
            self.express.set_level(publisher, level)

    def forget(self, publisher: int) -> None:
        """The publisher with that number was closed."""
        if self.express is not None:
            self.express.forget(publisher)

    def add(self, reader: Reader) -> None:
        """Serve ``reader`` too; with too many readers, none is served."""
        self._context.streams.follow_epoch += 1
        if self.express is None:
            return
        if len(self._seats) >= CURSORS_MAX:
            self.express = None
            return
        reader.seat = self.express.add(reader.place.stream, reader.cursor, reader.place.index)
        self._seats[reader.seat] = reader

    def remove(self, reader: Reader) -> None:
        """Serve ``reader`` no more."""
        if self.express is not None and self._seats.pop(reader.seat, None) is not None:
            self.express.remove(reader.seat)

    def lend(self, fd: int) -> None:
        """Hand-outs may write to the socket ``fd``."""
        self._fd = fd

    def close(self) -> None:
        """Give up every reader, because the connection has ended."""
        self.express = None
        self._seats.clear()
        del self._connection

    # Runs.

    def _count_shared(self) -> None:
        """Note the streams that others than this connection's readers follow."""
        streams = self._context.streams
        self._epoch = streams.follow_epoch
        own: dict[int, int] = {}
        for reader in self._seats.values():
            own[reader.place.index] = own.get(reader.place.index, 0) + 1
        self._shared = sum(
            1 << place.index for place in streams if place.readers != own.get(place.index, 0)
        )

    def run(self, express: Express, fd: int, epoll_fd: int, medium: int) -> Result:
        """Rounds of the common case in one call."""
        context = self._context
        if self._epoch != context.streams.follow_epoch:
            self._count_shared()
        shared = self._shared
        spin_ns = 0 if context.turns.unfinished else context.express_spin_ns
        scratch = context.scratch_address
        if medium:
            result = express.run_medium(
                medium, fd, epoll_fd, scratch, shared, spin_ns, EXPRESS_BOUND_NS
            )
        else:
            result = express.run(fd, epoll_fd, scratch, shared, spin_ns, EXPRESS_BOUND_NS)
        output = self._output
        output.bytes_out += result.sent
        output.deliveries += result.deliveries
        context.counters.express_rounds += result.rounds
        moved = result.moved & shared
        if moved:
            context.streams.moved |= moved
        return result

    def take_over(self, express: Express, result: Result) -> bool:
        """Go on in Python with the output that a run has left; returns whether there is some."""
        output, left = self._output, False
        if result.unsent:
            output.views = [memoryview(express.unsent(result))]
            output.size = result.unsent
            left = True
        if result.gap_first:
            reader = self._seats[result.gap_cursor]
            output.say_gap(reader, result.gap_first, result.gap_last, result.gap_reason)
            left = True
        again = result.again
        while again:
            lowest = again & -again
            again ^= lowest
            late = self._seats.get(lowest.bit_length() - 1)
            if late is not None and not late.active:
                self._connection.activate(late)
        return left

    # Hand-outs.

    def hand_out(self) -> tuple[int, int, int, int] | None:
        """Arguments for :class:`hermes.native.express.HandOut`, which then sends its output; None:
        the transport has to pull it."""
        express, output = self.express, self._output
        if express is None or self._fd < 0 or not output.active:
            return None
        if output.views or output.answers or self._acks.due:
            return None
        if self._connection.paused or self._connection.closing:
            return None
        if self._protocol.state is not _OPEN or self._protocol.has_output:
            return None
        if self._bulky:
            self._bulky -= 1
            return None
        seats = 0
        for reader in output.active:
            if reader.progress:
                return None
            seats |= 1 << reader.seat
        return express.address, seats, 0, self._fd

    def handed_out(self, sent: int, deliveries: int) -> None:
        """All that its readers had is sent."""
        self._connection.marked = False
        output = self._output
        output.bytes_out += sent
        output.deliveries += deliveries
        for reader in output.active:
            reader.active = False
        output.active.clear()

    def handed_out_partly(self, sent: int, deliveries: int) -> None:
        """Go on with what is left."""
        output = self._output
        active = list(output.active)
        self.handed_out(sent, deliveries)
        self._bulky = BULKY
        express = self.express
        assert express is not None
        result, (segment, offset, size) = express.left()
        if result.unsent:
            output.views = [memoryview(express.unsent(result))]
            output.size = result.unsent
        if size:
            frames = self._seats[result.gap_cursor].place.stream.log.view(segment, offset, size)
            output.views.append(frames)
            output.size += size
        for reader in active:
            if result.again >> reader.seat & 1:
                reader.active = True
                output.active.append(reader)
        if result.gap_first:
            reader = self._seats[result.gap_cursor]
            output.say_gap(reader, result.gap_first, result.gap_last, result.gap_reason)
