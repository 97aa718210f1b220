"""The output of one connection: pulled from its subscriptions when the medium has room.

So a client that does not read costs what it was last given and no more.  Native code delivers
(:mod:`hermes.native.conn`); here is what it leaves to Python: control frames are put in before the
batches that follow them, gaps are told, and memory that is elsewhere is fetched.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from hermes.broker.acks import Acks
from hermes.broker.context import Context
from hermes.broker.turns import TurnsHost
from hermes.errors import HermesError
from hermes.native.conn import AGAIN, COLD, FULL, GAP, LIMIT, LOST, Conn
from hermes.spi.transport import Flushed
from hermes.wire.server import ServerProtocol, ServerState

FETCHES_MAX = 4
"""Times one pull may ask a log that is not native memory: each takes about a millisecond."""

_OPEN = ServerState.OPEN
_ENDING = frozenset({ServerState.PEER_CLOSED, ServerState.CLOSING, ServerState.CLOSED})
_FOR_PYTHON = frozenset({AGAIN, GAP, COLD})
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


class Output:
    """The output that one client is owed, and has under way.  Belongs to the loop's thread."""

    __slots__ = ("_acks", "_conn", "_connection", "_context", "_protocol", "answers", "closed")

    def __init__(
        self,
        connection: OutputHost,
        context: Context,
        protocol: ServerProtocol,
        acks: Acks,
        conn: Conn,
    ) -> None:
        self._connection = connection
        self._context = context
        self._protocol = protocol
        self._acks = acks
        self._conn = conn
        self.closed = False
        """The medium is gone."""
        self.answers: deque[tuple[int, Iterator[tuple[object, bool]]]] = deque()
        """Queries that are being answered: their numbers, and the pages that are left."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent but what the protocol has written."""
        return not (self.answers or self._acks.due or self._conn.busy)

    # Calls of a transport.

    def pull(self, limit: int) -> Sequence[memoryview]:
        """Return output that was pulled and not taken yet, or pull about ``limit`` bytes."""
        if self.closed:
            return ()
        conn, protocol = self._conn, self._protocol
        try:
            if self._acks.due or self.answers or protocol.has_output or protocol.state is not _OPEN:
                views = conn.views()
                if views or conn.choked:
                    return views
                came_to = self._fill(limit)
                views = conn.views()
            else:
                came_to, views = conn.take(limit)
                if came_to in _FOR_PYTHON:
                    came_to = self._fill(limit)
                    views = conn.views()
        except Exception as error:
            self._connection.fail(error)
            self._put_control()
            return conn.views()
        if came_to == LIMIT and sum(map(len, views)) < limit:
            self._connection.mark()  # cut short by another bound: the transport need not ask
        return views

    def flush(self) -> Flushed:
        """Send what there is to the socket that is attached.

        Raises:
            OSError: the socket is broken.
        """
        if self.closed:
            return Flushed.ALL
        try:
            came_to = self._fill(None)
        except Exception as error:
            self._connection.fail(error)
            return Flushed.SOME
        if came_to == LOST:
            raise OSError(self._conn.error, os.strerror(self._conn.error))
        if came_to == FULL:
            return Flushed.FULL
        return Flushed.SOME if came_to == LIMIT else Flushed.ALL

    def close(self) -> None:
        """The medium is gone: forget everything."""
        self.closed = True
        self.answers.clear()
        self._conn.close()
        del self._connection

    # Inside.

    def _fill(self, limit: int | None) -> int:
        """Have native code pull until ``limit`` bytes wait, or flush; returns what that came to."""
        conn, fetches = self._conn, 0
        while True:
            self._put_control()
            came_to = conn.flush() if limit is None else conn.pull(limit)
            if came_to == GAP:
                self._tell_gap()
            elif came_to == COLD and fetches < FETCHES_MAX:
                fetches += 1
                self._fetch()
            elif self._protocol.state is _OPEN or not self._finish():
                break
        if came_to in (AGAIN, COLD):
            self._context.turns.pull(self._connection)
        elif self.answers:
            self._connection.mark()
        return came_to

    def _put_control(self) -> None:
        """Put what Python has to say behind what waits: as one piece, for a peer may have made
        thousands of frames be due with one read."""
        protocol = self._protocol
        if self._acks.due:
            self._acks.put()
        if self.answers:
            self._answer()
        if protocol.state in _ENDING:
            self._conn.stop()  # nothing is delivered behind a last word
        if protocol.has_output:
            frames = protocol.take_output()
            self._conn.put(frames[0] if len(frames) == 1 else b"".join(frames))
            self._connection.control_taken()

    def _finish(self) -> bool:
        """Follow the protocol out of OPEN; whether there is more to say because of it."""
        self._connection.follow_state()
        return self._protocol.has_output

    def _tell_gap(self) -> None:
        """Tell the peer that messages of a subscription are gone."""
        gap = self._conn.gap()
        self._context.streams[gap.stream].gaps += 1
        self._protocol.gap(
            gap.subscription,
            gap.stream,
            first=gap.first,
            last=gap.last,
            reason=_REASONS[abs(gap.reason)],
        )

    def _fetch(self) -> None:
        """Load what a subscription stands at from the external storage; if that fails, the connection
        ends."""
        index, position = self._conn.cold()
        stream = self._context.streams[index]
        assert stream.backed is not None
        try:
            stream.backed.fetch(position)
        except HermesError as error:
            self._connection.drop_subscriptions()
            self._connection.refuse(
                "storage_failed", f"stream {stream.name!r} cannot be read: {error}"
            )

    def _answer(self) -> None:
        """One page of the oldest query."""
        number, pages = self.answers[0]
        page, more = next(pages)
        self._protocol.info(number, page, more=more)
        if not more:
            self.answers.popleft()
