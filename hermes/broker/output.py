"""The output of one connection: pulled from its subscriptions' readers when the medium has room.

So a client that does not read costs what it was last given and no more.  What is handed over is
memory of the logs, held until the medium has done with it.  Knows no socket, and nothing of input.

This is the path every message takes: what runs once per send is written to do little.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hermes.broker.publishers import Acknowledging, publisher_level
from hermes.errors import HermesError
from hermes.native.stream import Deliver
from hermes.spi.transport import Peer
from hermes.wire.server import ServerState

if TYPE_CHECKING:
    from hermes.broker.kernel import Kernel
    from hermes.broker.subscriptions import Reader

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


class Outgoing(Acknowledging):
    """What a connection owes its client, and has under way.  Belongs to the loop's thread."""

    __slots__ = (
        "_active",
        "_answers",
        "_flight",
        "_flight_size",
        "_lost",
        "_out",
        "_out_size",
        "_seen_out",
        "bytes_out",
        "deliveries",
        "paused",
    )

    def __init__(self, kernel: Kernel, peer: Peer, number: int) -> None:
        super().__init__(kernel, peer, number)
        self.paused = False
        self.bytes_out = 0
        self.deliveries = 0
        self._lost = False
        self._seen_out = 0
        self._active: deque[Reader] = deque()
        self._answers: deque[tuple[int, Iterator[tuple[object, bool]]]] = deque()
        self._out: list[memoryview] = []
        self._out_size = 0
        self._flight: deque[tuple[int, list[memoryview]]] = deque()
        self._flight_size = 0

    @property
    @abstractmethod
    def holding(self) -> bool:
        """Whether there is input that waits for requests before it."""

    @abstractmethod
    def _drop_subscriptions(self) -> None:
        """End them all."""

    # What a transport and the kernel call.

    def output(self, limit: int) -> Sequence[memoryview]:
        """What was pulled and not taken yet, or about ``limit`` bytes more."""
        self._marked = False
        if self._out:
            return self._out
        if not (self._active or self._acks or self._protocol.has_output or self._answers):
            return ()
        if self._flight_size >= IN_FLIGHT_MAX or self._lost:
            return ()
        try:
            return self._pull(limit)
        except Exception as error:
            self.fail(error)
            return self._out

    def advance(self, nbytes: int) -> None:
        """The medium has taken ``nbytes``."""
        self.bytes_out += nbytes
        if nbytes == self._out_size:
            taken = self._out
            self._out = []
            self._out_size = 0
        else:
            taken = self._advance_partly(nbytes)
        self._flight.append((nbytes, taken))
        self._flight_size += nbytes

    def release(self, nbytes: int) -> None:
        """The medium needs the first ``nbytes`` of what it has taken no more."""
        self._flight_size -= nbytes
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
        stalled = bool(self._out) and self._seen_out == self.bytes_out
        self._seen_out = self.bytes_out
        if not stalled:
            return 0
        copied = 0
        for i, view in enumerate(self._out):
            if not isinstance(view.obj, bytes):
                self._out[i] = memoryview(bytes(view))
                copied += len(view)
        return copied

    # Inside.

    def _pull(self, limit: int) -> list[memoryview]:
        views = self._out
        size = 0
        protocol = self._protocol
        if self._acks:
            for publisher in self._acks:
                protocol.ack(publisher.id, publisher.through, publisher_level(publisher))
                publisher.through = 0
            self._acks.clear()
        if self._answers:
            self._answer()
        if protocol.has_output:
            size = self._take_control(views)
        if self._active and protocol.state is _OPEN:  # nothing is delivered behind a last word
            size = self._pull_readers(views, size, limit)
        if protocol.state is not _OPEN:
            self._after_events()
            if protocol.has_output:
                size += self._take_control(views)
        self._out_size = size
        if size < limit and (self._active or self._answers):
            self.mark()  # cut short by another bound: the transport need not ask
        return views

    def _take_control(self, views: list[memoryview]) -> int:
        """All control frames as one view: a peer may have made thousands be due with one read."""
        frames = self._protocol.take_output()
        joined = frames[0] if len(frames) == 1 else b"".join(frames)
        views.append(memoryview(joined))
        self.paused = self.holding or self.number in self._kernel.choked
        return len(joined)

    def _pull_readers(self, views: list[memoryview], size: int, limit: int) -> int:
        active = self._active
        now_ns = self._kernel.clock.now_ns()
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
                    self._kernel.again(self)
                    break
                elif kind == _COLD:
                    fetches += 1
                    if fetches > FETCHES_MAX:
                        active.rotate(-1)
                        idle += 1
                        self._kernel.again(self)
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
            self._drop_subscriptions()
            self.refuse("storage_failed", f"stream {reader.place.name!r} cannot be read: {error}")
            return False
        return True

    def _report_gap(self, reader: Reader, delivery: Any, views: list[memoryview]) -> int:
        self._say_gap(reader, delivery.gap_first, delivery.gap_last, delivery.gap_reason)
        return self._take_control(views)

    def _say_gap(self, reader: Reader, first: int, last: int, reason: int) -> None:
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
        number, pages = self._answers[0]
        page, more = next(pages)
        self._protocol.info(number, page, more=more)
        if not more:
            self._answers.popleft()

    def _advance_partly(self, nbytes: int) -> list[memoryview]:
        taken: list[memoryview] = []
        out = self._out
        self._out_size -= nbytes
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
        self._out = out[count:]
        return taken
