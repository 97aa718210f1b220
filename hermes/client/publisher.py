"""Publishers: into the outbox, and out onto the wire.

Sending one message is one call into C that keeps the GIL and takes no lock.  Python looks again
only when that call asks for it, and every :data:`LOOK_EVERY` messages, to take the acknowledgements
that have come.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from hermes.client import requests
from hermes.client.connection import Connection
from hermes.client.sending import LOOK_EVERY, AnyPublisher, ManyPuts, Payload
from hermes.client.session import Line
from hermes.errors import Closed, HermesError, Timeout
from hermes.native import outbox as native
from hermes.native.api import REFUSED, Hold, Lock
from hermes.wire.messages import AckLevel


class Publisher(AnyPublisher):
    """Sends messages; made by :meth:`Client.publisher`.  Any thread may use it.

    Messages of one publisher are appended in the order of their sequences, each once, also across
    reconnects.
    """

    def __init__(
        self, connection: Connection, line: Line, topic: bytes | None, ack: AckLevel
    ) -> None:
        super().__init__(connection, line, topic, ack)
        self._joined = Lock()  # held by whoever sends many at once

    # ---- sending ----

    def send(
        self,
        payload: Payload,
        topic: str | None = None,
        *,
        timestamp_ns: int = 0,
        timeout: float | None = None,
    ) -> int:
        """Publish one message; returns its sequence among this publisher's.

        Without a linger it is on the wire when this returns.  ``timestamp_ns``: shown to
        subscribers; now by default.  If the broker does not keep up it waits, ``timeout`` seconds
        at most (the client's own by default).

        Raises:
            UsageError: an argument cannot work; the message names it, and nothing was sent.
            Timeout: ``taken`` says whether this message was taken (then it is still sent, and must
                not be sent again), ``queued`` how many are unacknowledged.
            InvalidTopic, MessageTooLarge: nothing was sent.
            Refused, StorageFull, StorageFailed: the broker has refused a message of this publisher.
            ConnectionLost: the connection broke and did not come back.
        """
        try:
            name = None if topic is None else self._names.get(topic) or self._encode(topic)
            result = self._send(payload, name, timestamp_ns, timeout)
        except HermesError:
            raise
        except (TypeError, ValueError, OverflowError, BufferError) as error:
            plain = self._plain(payload, topic, timestamp_ns, timeout, error)
            payload, name, timestamp_ns, timeout = plain
            result = self._send_plain(payload, name, timestamp_ns, timeout)
        if 0 < result < self._look:
            return result
        return self._attend(result, payload, name, timestamp_ns, timeout)

    def send_many(
        self,
        payloads: Iterable[Payload] | Payload,
        lengths: Any = None,
        topic: str | None = None,
        *,
        timestamp_ns: int = 0,
        timeout: float | None = None,
    ) -> int:
        """Publish many messages of one topic; returns the last one's sequence.

        Either payloads, any iterable of them, or one buffer of all payloads joined, and their
        ``lengths`` (a sequence of ints, or any contiguous buffer of 32-bit numbers).

        Raises: as :meth:`send`; ``taken`` of :exc:`Timeout` says how many were taken.
        """
        return self._put_all(self._many(payloads, lengths, topic, timestamp_ns), timeout)

    def send_frames(self, frames: Payload, *, timeout: float | None = None) -> int:
        """Publish the messages of whole frames, as a :class:`Batch` has them; returns the last
        one's sequence.

        Each keeps its topic, properties and timestamp: for programs that pass messages on.  Raises
        the errors of :meth:`send` too; :exc:`Timeout` says how many were taken.

        Raises:
            MalformedInput: they are not whole, sound frames of messages; nothing was sent.
        """
        return self._put_all(self._frames(frames), timeout)

    def send_rows(
        self,
        rows: Any,
        topic: str | None = None,
        *,
        timestamp_ns: int = 0,
        timeout: float | None = None,
    ) -> int:
        """Publish each row of a 2-D buffer, or each element of a 1-D one, as a message.

        What NumPy calls an array of shape (n, m), or of n records.  Returns the last sequence.

        Raises: as :meth:`send_many`.
        """
        return self._put_all(self._rows(rows, topic, timestamp_ns), timeout)

    # ---- waiting for the broker ----

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything sent so far is acknowledged (level ``none``: on the wire).

        Raises:
            Timeout: it says how much is not.
            Refused, StorageFull, StorageFailed: the broker has refused a message; how many are
                unacknowledged is said.
        """
        self._connection.run_free(self._flushing(), self._connection.deadline(timeout))

    def resend(self, timeout: float | None = None) -> None:
        """After the broker refused a message: open the publisher again and send what is not
        acknowledged.

        Raises:
            Timeout: the broker did not answer in time.
        """
        connection = self._connection
        connection.check()
        if self._closed:
            raise Closed("the publisher is closed")
        deadline = connection.deadline(timeout)
        if self._line.failure is not None:
            connection.run(requests.reopen_line(connection, self._line), deadline)

    @property
    def acked(self) -> int:
        """Sequence up to which everything is acknowledged, as far as is known; 0: none.

        Takes what has arrived, but does not wait for more.  While the connection is broken it may try
        to connect again, for a quarter of a second.
        """
        if not self._closed:
            self._connection.tend(self._line)
        return self._outbox.status().acked

    def close(self, timeout: float | None = None) -> None:
        """Flush, then end the publisher.  Idempotent.

        Raises: as :meth:`flush`; the publisher is closed all the same.
        """
        if self._closed:
            return
        self._connection.deadline(timeout)  # a wrong one is refused before anything is done
        if self._connection.over:
            self._closed = True
            problem = requests.abandon_line(self._connection, self._line)
            if problem is not None:
                raise problem
            return
        try:
            self.flush(timeout)
        finally:
            self._closed = True
            self._outbox.close()
            if self._connection.busy_here:  # from a signal handler: as soon as it is settled
                self._connection.let_go(self._line)
            else:
                with self._connection.locked(None):
                    self._connection.close_line(self._line)
                    self._connection.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(HermesError):  # the error under way says more
            self.close()

    # ---- inside ----

    def _join(self, deadline: int | None) -> Hold:
        """Wait until nobody else sends many at once; this thread may, of whose call it is in the
        middle."""
        left = -1 if deadline is None else max(0, deadline - time.monotonic_ns())
        held = self._joined.hold(left, True)
        if held is None:
            raise Timeout("another thread has been sending to this publisher until the deadline")
        return held

    def _attend(
        self,
        result: int,
        payload: Payload,
        name: bytes | None,
        timestamp_ns: int,
        timeout: float | None,
    ) -> int:
        """What :meth:`send` does now and then, and when something is in the way."""
        if result > 0:
            self._look_around(result)
            return result
        if result > REFUSED:
            return self._see_off(-result, timeout)
        deadline: int | None = None
        acked = -1
        while result <= REFUSED:
            code = result - REFUSED
            if code == native.FULL:
                deadline = deadline or self._connection.deadline(timeout)
                what = "the message was not taken"
                steps = self._room(acked, what, taken=False)
                acked = self._connection.run_free(steps, deadline)
            elif code == native.BUSY:
                with self._join(deadline):
                    pass
            else:
                self._explain(code, memoryview(payload).nbytes)
            result = self._send(payload, name, timestamp_ns)
        if result > 0:
            return result
        return self._see_off(-result, timeout)

    def _look_around(self, sequence: int) -> None:
        """Take acknowledgements, if nobody else is at it."""
        self._look = sequence + LOOK_EVERY
        self._connection.tend(self._line)

    def _see_off(self, sequence: int, timeout: float | None, *, taken: int = True) -> int:
        """The message is in the outbox: wait until it is on the wire, unless it lingers."""
        connection, outbox, line = self._connection, self._outbox, self._line
        if line.lingers:
            connection.tend(line, connection.deadline(timeout))
            return sequence
        if outbox.status().sent >= sequence:
            return sequence
        deadline = connection.deadline(timeout)

        def on_the_wire() -> bool:
            over = line.failure is not None or self._closed
            return over or outbox.status().sent >= sequence

        what = (
            f"message {sequence} was taken but is not on the wire yet, it will be sent as soon as "
            "that is possible, if the client is not closed: do not send it again; "
        )
        with self._stating(taken, sequence), connection.locked(deadline, what):
            if not connection.wait(on_the_wire, deadline, writing=True):
                raise Timeout(f"{what}{self._queued()}; {connection.obstacle()}")
        if line.failure is not None or outbox.status().sent < sequence:
            self._open()  # it was refused, or closed by another thread
        return sequence

    def _put_all(self, puts: ManyPuts, timeout: float | None) -> int:
        """Wait until every message is taken, then see them off."""
        deadline, count = self._connection.deadline(timeout), len(puts.sizes)
        with puts, self._join(deadline):
            waiting = self._connection.run_free(self._putting(puts), deadline)
            last = self._outbox.status().put
        if waiting:
            return self._see_off(last, timeout, taken=count)
        if last >= self._look:
            self._look_around(last)
        return last
