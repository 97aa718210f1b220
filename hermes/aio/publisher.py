"""Publishers in an event loop."""

from __future__ import annotations

import contextlib
from asyncio import CancelledError, sleep
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from hermes import client as blocking
from hermes.aio.connection import LoopConnection
from hermes.aio.words import same_words
from hermes.client import requests
from hermes.client.sending import LOOK_EVERY, AnyPublisher, ManyPuts, Payload
from hermes.client.session import Line
from hermes.client.steps import Until
from hermes.errors import Closed, HermesError, Timeout
from hermes.native import outbox as native
from hermes.native.api import REFUSED
from hermes.wire.messages import AckLevel


@same_words(blocking.Publisher)
class Publisher(AnyPublisher):
    """Sends messages; made by :meth:`Client.publisher`.  Any task of its loop may use it.

    Messages of one publisher are appended in the order of their sequences, each once, also across
    reconnects.
    """

    def __init__(
        self, connection: LoopConnection, line: Line, topic: bytes | None, ack: AckLevel
    ) -> None:
        super().__init__(connection, line, topic, ack)
        self._connection: LoopConnection = connection
        self._joined = False
        """Whether a task is sending many at once."""
        self._pauses = False
        """Whether the next call lets other tasks run before it takes anything."""

    # ---- sending ----

    async def send(
        self,
        payload: Payload,
        topic: str | None = None,
        *,
        timestamp_ns: int = 0,
        timeout: float | None = None,
    ) -> int:
        """Publish one message; returns its sequence among this publisher's.

        It is on its way when this returns: on the wire, or sent by the loop as soon as there is room.
        ``timestamp_ns``: shown to subscribers; now by default.  If the broker does not keep up it
        waits, ``timeout`` seconds at most (the client's own by default), before it takes the message:
        a call that is cancelled has not taken it.

        Raises:
            UsageError: an argument cannot work; the message names it, and nothing was sent.
            Timeout: the message was not taken; ``queued`` says how many are unacknowledged.
            InvalidTopic, MessageTooLarge: nothing was sent.
            Refused, StorageFull, StorageFailed: the broker has refused a message of this publisher.
            ConnectionLost: the connection broke and did not come back.
        """
        self._connection.own()
        if self._pauses:
            await self._pause()
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
        return await self._attend(result, payload, name, timestamp_ns, timeout)

    async def send_many(
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
        ``lengths`` (a sequence of ints, or any contiguous buffer of 32-bit numbers).  A call that is
        cancelled has taken the first of them, those up to :attr:`sent`.

        Raises: as :meth:`send`; ``taken`` of :exc:`Timeout` says how many were taken.
        """
        self._connection.own()
        return await self._put_all(self._many(payloads, lengths, topic, timestamp_ns), timeout)

    async def send_frames(self, frames: Payload, *, timeout: float | None = None) -> int:
        self._connection.own()
        return await self._put_all(self._frames(frames), timeout)

    async def send_rows(
        self,
        rows: Any,
        topic: str | None = None,
        *,
        timestamp_ns: int = 0,
        timeout: float | None = None,
    ) -> int:
        self._connection.own()
        return await self._put_all(self._rows(rows, topic, timestamp_ns), timeout)

    # ---- waiting for the broker ----

    async def flush(self, timeout: float | None = None) -> None:
        connection = self._connection
        connection.own()
        await connection.follow(self._flushing(), connection.deadline(timeout))

    async def resend(self, timeout: float | None = None) -> None:
        connection = self._connection
        connection.own()
        connection.check()
        if self._closed:
            raise Closed("the publisher is closed")
        deadline = connection.deadline(timeout)
        if self._line.failure is not None:
            await connection.follow(requests.reopen_line(connection, self._line), deadline)

    @property
    def acked(self) -> int:
        """Sequence up to which everything is acknowledged, as far as is known; 0: none."""
        if not self._closed:
            self._connection.own()
            with self._connection.locked(None):
                self._line.settle()
        return self._outbox.status().acked

    async def close(self, timeout: float | None = None) -> None:
        """Flush, then end the publisher.  Idempotent.

        A call that is cancelled does not wait: what was sent is seen off by the loop, or by closing the
        client.

        Raises: as :meth:`flush`; the publisher is closed all the same.
        """
        connection = self._connection
        if self._closed:
            return
        connection.own()
        connection.deadline(timeout)  # a wrong one is refused before anything is done
        if connection.over:
            self._closed = True
            problem = requests.abandon_line(connection, self._line)
            if problem is not None:
                raise problem
            return
        try:
            await self.flush(timeout)
        except CancelledError:
            self._leave()
            raise
        except BaseException:
            self._finish()
            raise
        self._finish()

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        elif issubclass(kind, CancelledError):
            self._leave()
        else:
            with contextlib.suppress(HermesError):  # the error under way says more
                await self.close()

    # ---- inside ----

    def _finish(self) -> None:
        self._closed = True
        self._outbox.close()
        with self._connection.locked(None):
            self._connection.close_line(self._line)
        self._connection.wake()

    def _leave(self) -> None:
        """End the publisher once all is acknowledged."""
        if not self._closed:
            self._closed = True
            self._outbox.close()
            self._connection.let_go(self._line)

    async def _pause(self) -> None:
        self._pauses = False
        await sleep(0)

    async def _attend(
        self,
        result: int,
        payload: Payload,
        name: bytes | None,
        timestamp_ns: int,
        timeout: float | None,
    ) -> int:
        """Do what :meth:`send` does now and then, and when something is in the way.  There is no
        wait once the message is taken."""
        connection = self._connection
        deadline: int | None = None
        acked = -1
        while result <= REFUSED:
            code = result - REFUSED
            if code == native.FULL:
                deadline = deadline or connection.deadline(timeout)
                steps = self._room(acked, "the message was not taken", taken=False)
                acked = await connection.follow(steps, deadline)
            elif code == native.BUSY:
                await sleep(0)
            else:
                self._explain(code, memoryview(payload).nbytes)
            result = self._send(payload, name, timestamp_ns)
        self._see_off(abs(result), waiting=result < 0)
        return abs(result)

    async def _put_all(self, puts: ManyPuts, timeout: float | None) -> int:
        connection = self._connection
        deadline = connection.deadline(timeout)
        if self._pauses:
            await self._pause()
        with puts:
            await connection.wait_for(Until(self._is_free, self._busy), deadline)
            self._joined = True
            try:
                waiting = await connection.follow(self._putting(puts), deadline)
            finally:
                self._joined = False
                connection.wake()
        last = self._outbox.status().put
        self._see_off(last, waiting=waiting)
        return last

    def _is_free(self) -> bool:
        return not self._joined

    def _busy(self) -> Timeout:
        return Timeout("another task has been sending to this publisher until the deadline")

    def _see_off(self, sequence: int, *, waiting: bool) -> None:
        """A message was taken: have the loop write what is ``waiting``, and look around now and then."""
        if waiting:
            self._connection.wake()
        if sequence >= self._look:
            self._look = sequence + LOOK_EVERY
            self._pauses = True
            with self._connection.locked(None):
                self._line.settle()
