"""The output of one connection: pulled from its subscriptions' readers when the medium has room.

So a client that does not read costs what it was last given and no more.  What is handed over is
memory of the logs, held until the medium has done with it.  Knows no socket, and nothing of input.

This is the path every message takes: what runs once per send is written to do little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from hermes.broker.acks import Acks
from hermes.broker.context import Context
from hermes.broker.subscriptions import Reader
from hermes.broker.turns import TurnsHost
from hermes.errors import HermesError
from hermes.native.stream import Deliver
from hermes.wire.server import ServerProtocol, ServerState

VIEWS_MAX = 512
"""Views of one pull: half of what one sendmsg takes."""
SHARE = 262144
"""Bytes one reader gives before the next of the same connection has its turn."""
FETCHES_MAX = 4
"""Times one pull may ask a log that is not native memory: each takes about a millisecond."""
IN_FLIGHT_MAX = 4 * 1024 * 1024
"""Bytes handed to the medium that it may still be using."""

_NO_FRAMES = memoryview(b"")
_OPEN = ServerState.OPEN
_RANGE = int(Deliver.RANGE)
_COPIED = int(Deliver.COPIED)
_NOTHING = int(Deliver.NOTHING)
_AGAIN = int(Deliver.AGAIN)
_COLD = int(Deliver.COLD)
# By the core's error number, HM_EGONE and HM_EDAMAGED; the numbers never change.
_REASONS: dict[int, Literal["retention", "damaged"]] = {16: "retention", 17: "damaged"}


class OutputHost(TurnsHost, Protocol):
    """The connection whose output it is."""

    def refuse(self, code: str, message: str) -> None:
        """End the connection with an error."""

    def fail(self, error: Exception) -> None:
        """End it because of an unexpected error in serving it."""

    def drop_subscriptions(self) -> None:
        """End every subscription."""

    def follow_state(self) -> None:
        """Follow the protocol's state where it leads out of OPEN."""

    def control_taken(self) -> None:
        """Control frames that waited have been pulled: the peer may be read from again."""


class OutputQueue:
    """The output that one client is owed, and has under way.  Belongs to the loop's thread."""

    __slots__ = (
        "_acks",
        "_connection",
        "_context",
        "_flight",
        "_protocol",
        "_seen_out",
        "active",
        "answers",
        "bytes_out",
        "closed",
        "deliveries",
        "flight_size",
        "size",
        "views",
    )

    def __init__(
        self, connection: OutputHost, context: Context, protocol: ServerProtocol, acks: Acks
    ) -> None:
        self._connection = connection
        self._context = context
        self._protocol = protocol
        self._acks = acks
        self.bytes_out = 0
        self.deliveries = 0
        self.closed = False
        """The medium is gone."""
        self._seen_out = 0
        self.active: deque[Reader] = deque()
        """The readers that may have something."""
        self.answers: deque[tuple[int, Iterator[tuple[object, bool]]]] = deque()
        """Queries that are being answered: their numbers, and the pages that are left."""
        self.views: list[memoryview] = []
        """Output that was pulled and not taken."""
        self.size = 0
        """Bytes of ``views``."""
        self._flight: deque[tuple[int, list[memoryview]]] = deque()
        self.flight_size = 0
        """Bytes that the medium has taken and not released."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent but what the protocol has written."""
        return not (self.views or self.active or self.answers or self._acks.due)

    # Calls of a transport.

    def pull(self, limit: int) -> Sequence[memoryview]:
        """Return output that was pulled and not taken yet, or pull about ``limit`` bytes."""
        if self.views:
            return self.views
        if not (self.active or self._acks.due or self._protocol.has_output or self.answers):
            return ()
        if self.flight_size >= IN_FLIGHT_MAX or self.closed:
            return ()
        try:
            return self._pull(limit)
        except Exception as error:
            self._connection.fail(error)
            return self.views

    def advance(self, nbytes: int) -> None:
        """The medium has taken ``nbytes``."""
        self.bytes_out += nbytes
        if nbytes == self.size:
            taken = self.views
            self.views = []
            self.size = 0
        else:
            taken = self._advance_partly(nbytes)
        self._flight.append((nbytes, taken))
        self.flight_size += nbytes

    def release(self, nbytes: int) -> None:
        """The medium needs the first ``nbytes`` of what it has taken no more."""
        self.flight_size -= nbytes
        flight = self._flight
        while nbytes:
            size, views = flight[0]
            if size > nbytes:
                flight[0] = (size - nbytes, views)
                return
            flight.popleft()
            nbytes -= size

    def unpin(self) -> int:
        """Copy output that refers to log memory if none of it has moved since the last call;
        returns the bytes copied."""
        stalled = bool(self.views) and self._seen_out == self.bytes_out
        self._seen_out = self.bytes_out
        if not stalled:
            return 0
        copied = 0
        for i, view in enumerate(self.views):
            if not isinstance(view.obj, bytes):
                self.views[i] = memoryview(bytes(view))
                copied += len(view)
        return copied

    def deactivate(self) -> None:
        """No reader has anything to deliver any more."""
        for reader in self.active:
            reader.active = False
        self.active.clear()

    def close(self) -> None:
        """The medium is gone: forget everything."""
        self.closed = True
        self.answers.clear()
        self.views = []
        self.size = 0
        self._flight.clear()
        del self._connection

    # Inside.

    def _pull(self, limit: int) -> list[memoryview]:
        views = self.views
        size = 0
        protocol = self._protocol
        if self._acks.due:
            self._acks.put()
        if self.answers:
            self._answer()
        if protocol.has_output:
            size = self._take_control(views)
        if self.active and protocol.state is _OPEN:  # nothing is delivered behind a last word
            size = self._pull_readers(views, size, limit)
        if protocol.state is not _OPEN:
            self._connection.follow_state()
            if protocol.has_output:
                size += self._take_control(views)
        self.size = size
        if size < limit and (self.active or self.answers):
            self._connection.mark()  # cut short by another bound: the transport need not ask
        return views

    def _take_control(self, views: list[memoryview]) -> int:
        """All control frames as one view: a peer may have made thousands be due with one read."""
        frames = self._protocol.take_output()
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        views.append(memoryview(joined))
        self._connection.control_taken()
        return len(joined)

    def _pull_readers(self, views: list[memoryview], size: int, limit: int) -> int:
        active = self.active
        now_ns = self._context.clock.now_ns()
        turn = SHARE if len(active) > 1 else limit
        idle = fetches = 0
        while active and size < limit and len(views) < VIEWS_MAX and idle < len(active):
            reader = active[0]
            taken = 0
            while True:
                delivery = reader.next(turn, now_ns, reader.progress)
                kind = delivery.kind
                if kind == _RANGE:
                    self.deliveries += 1
                    views.append(delivery.header)
                    views.append(delivery.frames)
                    delivery.frames = _NO_FRAMES  # or the cursor would hold their segment
                    taken += delivery.size
                elif kind == _COPIED:
                    self.deliveries += 1
                    views.append(delivery.header)
                    taken += delivery.size
                elif kind == _NOTHING:
                    active.popleft()
                    reader.active = reader.progress = False
                    break
                elif kind == _AGAIN:
                    active.rotate(-1)
                    idle += 1
                    self._context.turns.pull(self._connection)
                    break
                elif kind == _COLD:
                    fetches += 1
                    if fetches > FETCHES_MAX:
                        active.rotate(-1)
                        idle += 1
                        self._context.turns.pull(self._connection)
                        break
                    if not self._fetch(reader, delivery.cold_position):
                        return size + taken
                else:
                    taken += self._report_gap(reader, delivery, views)
                if taken >= turn or size + taken >= limit or len(views) >= VIEWS_MAX:
                    active.rotate(-1)
                    break
            size += taken
        return size

    def _fetch(self, reader: Reader, position: int) -> bool:
        """Load a reader's position from the external storage; False: that failed, and the
        connection ends."""
        backed = reader.place.backed
        assert backed is not None
        try:
            backed.fetch(position)
        except HermesError as error:
            self._connection.drop_subscriptions()
            self._connection.refuse(
                "storage_failed", f"stream {reader.place.name!r} cannot be read: {error}"
            )
            return False
        return True

    def _report_gap(self, reader: Reader, delivery: Any, views: list[memoryview]) -> int:
        self.say_gap(reader, delivery.gap_first, delivery.gap_last, delivery.gap_reason)
        return self._take_control(views)

    def say_gap(self, reader: Reader, first: int, last: int, reason: int) -> None:
        """Tell the peer that a reader's messages ``first`` to ``last`` are gone."""
        place = reader.place
        place.gaps += 1
        self._protocol.gap(
            reader.subscription.id,
            place.index,
            first=first,
            last=last,
            reason=_REASONS[abs(reason)],
        )

    def _answer(self) -> None:
        """One page of the oldest query."""
        number, pages = self.answers[0]
        page, more = next(pages)
        self._protocol.info(number, page, more=more)
        if not more:
            self.answers.popleft()

    def _advance_partly(self, nbytes: int) -> list[memoryview]:
        taken: list[memoryview] = []
        out = self.views
        self.size -= nbytes
        count = 0
        for view in out:
            size = len(view)
            if nbytes < size:
                break
            nbytes -= size
            count += 1
        taken = out[:count]
        if nbytes:
            taken.append(out[count][:nbytes])
            out[count] = out[count][nbytes:]
        self.views = out[count:]
        return taken
