"""Publishers: into the outbox, and out onto the wire.

Sending one message is one call into C that keeps the GIL and takes no lock.  Python looks again
only when that call asks for it, and every :data:`LOOK_EVERY` messages, to take the acknowledgements
that have come.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

from hermes.base import checks
from hermes.client import requests
from hermes.client.connection import Connection
from hermes.client.session import Line
from hermes.errors import (
    Closed,
    HermesError,
    InvalidTopic,
    MalformedInput,
    MessageTooLarge,
    Timeout,
    UsageError,
    WrongType,
)
from hermes.native import outbox as native
from hermes.native._errors import check
from hermes.native.api import REFUSED, Hold, Lock
from hermes.native.decoder import FrameIndex, decode
from hermes.native.frames import MessageType
from hermes.native.outbox import Outbox, lengths_of
from hermes.native.patterns import check_given_topic
from hermes.wire.messages import AckLevel

LOOK_EVERY = 256
"""Messages between two looks at what the broker has acknowledged."""
TOPICS_MAX = 65536
"""Names a publisher remembers to be legal; then it begins anew."""
U32_MAX = 2**32 - 1
FRAMES_MAX = 2**31
"""Bytes of a message in frames that are passed on: the broker's own limit is judged later."""

Payload = bytes | bytearray | memoryview


class Publisher:
    """Sends messages; made by :meth:`Client.publisher`.  Any thread may use it.

    Messages of one publisher are appended in the order of their sequences, each once, also across
    reconnects.
    """

    def __init__(
        self, connection: Connection, line: Line, topic: bytes | None, ack: AckLevel
    ) -> None:
        assert line.outbox is not None
        self.ack = ack
        """What is waited for: ``none``, ``appended`` or ``durable``."""
        self._connection = connection
        self._line = line
        self._topic = topic
        self._outbox: Outbox = line.outbox
        self._send = self._outbox.sender(topic).send
        self._look = self._outbox.status().put + LOOK_EVERY
        self._names: dict[str, bytes] = {}
        self._joined = Lock()  # held by whoever sends many at once
        self._closed = False

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
            return self._send_checked(payload, topic, timestamp_ns, timeout, error)
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
        timestamp_ns = _timestamp(timestamp_ns)
        if lengths is None:
            joined, lengths = _joined(payloads)
        else:
            joined = checks.buffer(payloads, "payloads")
        sizes = _as_u32(lengths)
        name = self._name(topic)

        def put(first: int, offset: int) -> native.Taken:
            return self._outbox.send_many(
                name, joined, sizes, first=first, offset=offset, timestamp_ns=timestamp_ns
            )

        with memoryview(sizes) as view, memoryview(joined):  # or they could be resized meanwhile
            plain = view.format == "I" and view.ndim == 1
            numbers = view if plain else view.cast("B").cast("I")
            total = memoryview(joined).nbytes
            if sum(numbers) != total:
                raise UsageError(
                    f"the lengths add up to {sum(numbers)}, the buffer has {total} bytes"
                )
            return self._put_all(put, numbers, timeout)

    def send_frames(self, frames: Payload, *, timeout: float | None = None) -> int:
        """Publish the messages of whole frames, as a :class:`Batch` has them; returns the last
        one's sequence.

        Each keeps its topic, properties and timestamp: for programs that pass messages on.  Raises
        the errors of :meth:`send` too; :exc:`Timeout` says how many were taken.

        Raises:
            MalformedInput: they are not whole, sound frames of messages; nothing was sent.
        """
        frames = checks.buffer(frames, "frames")
        index = decode(frames, message_max=FRAMES_MAX)
        if index.consumed != memoryview(frames).nbytes:
            raise MalformedInput("the last frame is not whole", code="bad_length")
        if index.type.tobytes().count(MessageType.MESSAGE) != index.count:
            raise MalformedInput("frames of messages are wanted, and no others", code="bad_type")
        self._check_sizes(index)
        offsets = index.frame_offset

        def put(first: int, _offset: int) -> native.Taken:
            return self._outbox.send_frames(frames, offset=offsets[first])

        return self._put_all(put, index.length, timeout)

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
        timestamp_ns = _timestamp(timestamp_ns)
        with checks.plain_view(rows, "rows") as view:
            if view.ndim not in (1, 2):
                raise UsageError(f"rows have 1 or 2 dimensions, not {view.ndim}")
            assert view.shape is not None
            count = view.shape[0]
            size = view.itemsize * (view.shape[1] if view.ndim == 2 else 1)
            source = rows if view.c_contiguous else view.tobytes()
        if count == 0:
            return self.sent
        if size == 0:
            empty = [b""] * count
            return self.send_many(empty, topic=topic, timestamp_ns=timestamp_ns, timeout=timeout)
        name = self._name(topic)

        def put(first: int, _offset: int) -> native.Taken:
            return self._outbox.send_rows(
                name, source, row_size=size, stride=size, first=first, timestamp_ns=timestamp_ns
            )

        with memoryview(source):  # or it could be resized meanwhile
            return self._put_all(put, _Repeated(size, count), timeout)

    # ---- waiting for the broker ----

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything sent so far is acknowledged (level ``none``: on the wire).

        Raises:
            Timeout: it says how much is not.
            Refused, StorageFull, StorageFailed: the broker has refused a message; how many are
                unacknowledged is said.
        """
        connection, outbox, line = self._connection, self._outbox, self._line
        connection.go_on()
        self._open()
        target = outbox.status().put
        deadline = connection.deadline(timeout)

        def settled() -> bool:
            line.settle()
            over = line.failure is not None or self._closed
            return over or outbox.status().acked >= target

        with connection.locked(deadline):
            done = connection.wait(settled, deadline, writing=True)
            if not done:
                raise Timeout(
                    f"flush took too long: {self._queued()}; {connection.obstacle()}",
                    queued=line.unacknowledged,
                )
        if line.failure is not None or outbox.status().acked < target:
            self._open()  # it was refused, or closed by another thread

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
        with connection.locked(deadline):
            if self._line.failure is not None:
                requests.reopen_line(connection, self._line, deadline)

    @property
    def sent(self) -> int:
        """Sequence of the last message taken by :meth:`send` and its kind; 0: none."""
        return self._outbox.status().put

    @property
    def acked(self) -> int:
        """Sequence up to which everything is acknowledged, as far as is known; 0: none.

        Takes what has arrived, but does not wait for more.  While the connection is broken it may try
        to connect again, for a quarter of a second.
        """
        if not self._closed:
            self._connection.tend(self._line)
        return self._outbox.status().acked

    @property
    def publisher_id(self) -> bytes:
        """16 bytes that name this publisher across connections and processes."""
        return self._line.publisher_id

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

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

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._connection.over or self._connection.forked:
            return
        self._outbox.close()
        self._connection.let_go(self._line)  # which ends it once all is acknowledged
        text = f"a publisher of {self._connection.url} was not closed"
        warnings.warn(text, ResourceWarning, stacklevel=2)

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

    def __reduce__(self) -> NoReturn:
        raise WrongType(
            "a Publisher cannot be pickled or copied: it belongs to a connection of this process; open one "
            "there, with its publisher_id to go on where this one ended"
        )

    def __repr__(self) -> str:
        topic = self._topic.decode() if self._topic else None
        status = self._outbox.status()
        state = "closed" if self._closed else f"{status.put} sent, {status.acked} acknowledged"
        return f"<Publisher of {topic!r}, {state}>"

    # ---- inside ----

    def _join(self, deadline: int | None) -> Hold:
        """Wait until nobody else sends many at once; this thread may, of whose call it is in the
        middle."""
        left = -1 if deadline is None else max(0, deadline - time.monotonic_ns())
        held = self._joined.hold(left, True)
        if held is None:
            raise Timeout("another thread has been sending to this publisher until the deadline")
        return held

    def _name(self, topic: str | None) -> bytes:
        if topic is not None and not isinstance(topic, str):
            checks.text(topic, "topic")
        name = self._topic if topic is None else self._names.get(topic) or self._encode(topic)
        if name is None:
            raise InvalidTopic("no topic: give one here, or to client.publisher()")
        return name

    def _encode(self, topic: str) -> bytes:
        if not isinstance(topic, str):
            checks.text(topic, "topic")
        check_given_topic(topic)
        if len(self._names) >= TOPICS_MAX:
            self._names.clear()
        name = self._names[topic] = topic.encode()
        return name

    def _send_checked(
        self,
        payload: Payload,
        topic: str | None,
        timestamp_ns: int,
        timeout: float | None,
        error: Exception,
    ) -> int:
        """:meth:`send` with an argument that its quick way does not take, as ``error`` says: refused by
        name, or made plain and sent."""
        if isinstance(payload, str) and isinstance(topic, bytes | bytearray | memoryview):
            raise WrongType(
                f"payload takes bytes, and topic a str: send(payload, topic), not {checks.shown(payload)} "
                "first"
            ) from error
        name = None if topic is None else self._encode(topic)
        timestamp_ns = _timestamp(timestamp_ns)
        if timeout is not None:
            timeout = checks.duration(timeout, "timeout")
            timeout = float("inf") if timeout is None else timeout
        plain = checks.buffer(payload, "payload")
        try:
            result = self._send(plain, name, timestamp_ns, timeout)
        except (TypeError, ValueError, OverflowError, BufferError) as again:
            raise WrongType(f"payload takes bytes or another buffer: {again}") from again
        if 0 < result < self._look:
            return result
        return self._attend(result, plain, name, timestamp_ns, timeout)

    def _usable(self) -> None:
        self._connection.check()
        self._open()

    def _open(self) -> None:
        if self._closed:
            raise Closed("the publisher is closed")
        if self._line.failure is not None:
            raise self._line.lost()

    def _queued(self) -> str:
        status = self._outbox.status()
        return (
            f"{status.put - status.acked} messages ({self._outbox.queued_bytes} bytes) are queued, "
            f"{status.sent - status.acked} of them are on the wire"
        )

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
                acked = self._wait_for_room(acked, deadline, what, taken=False)
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

    @contextlib.contextmanager
    def _stating(self, taken: int, sequence: int | None) -> Iterator[None]:
        """A Timeout in here states how much of the call was taken."""
        try:
            yield
        except Timeout as error:
            error.taken, error.sequence = taken, sequence
            error.queued = self._line.unacknowledged
            raise

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

    def _wait_for_room(self, before: int, deadline: int | None, what: str, *, taken: int) -> int:
        """Wait until more than ``before`` is acknowledged; returns how much is then.

        Putting is tried anew then; ``before`` was known before it was last tried in vain.  Read
        afterwards it might be the last of all acknowledgements, and nothing would follow it.
        """
        connection, outbox, line = self._connection, self._outbox, self._line

        def room() -> bool:
            line.settle()
            over = line.failure is not None or self._closed
            return over or outbox.status().acked > before

        last = outbox.status().put if taken else None
        with self._stating(taken, last), connection.locked(deadline, f"{what}: "):
            if not connection.wait(room, deadline, writing=True):
                raise Timeout(f"{what}: {self._queued()}; {connection.obstacle()}")
            acked = outbox.status().acked  # with the lock: its room is there too
        if line.failure is not None:
            raise line.lost()
        return acked

    def _explain(self, code: int, size: int) -> None:
        """Raise what a refusal of the outbox means."""
        if code == native.NO_TOPIC:
            raise InvalidTopic("no topic: give one to send() or to client.publisher()")
        if code == native.TOO_LARGE:
            raise self._too_large(size)
        if code == native.CLOSED:
            self._usable()
        check(code, "putting a message")

    def _too_large(self, size: int) -> MessageTooLarge:
        limit = self._connection.session.limits.message_max
        if size <= limit:
            return MessageTooLarge(
                f"a message of {size} bytes does not fit this publisher's window"
            )
        return MessageTooLarge(
            f"a message of {size} bytes is over the {limit} that this broker accepts: split it, or "
            "raise the broker's limit"
        )

    def _check_sizes(self, index: FrameIndex) -> None:
        """Raise if a message of these frames can never be sent."""
        limit, window = self._connection.session.limits.message_max, self._outbox.capacity
        if index.consumed <= min(limit, window):
            return
        ends = [*index.frame_offset[1:], index.consumed]
        for start, end, size in zip(index.frame_offset, ends, index.length, strict=True):
            if size > limit or end - start > window:
                raise self._too_large(size)

    def _put_all(self, put: Any, sizes: Any, timeout: float | None) -> int:
        """Call ``put(first, offset)`` until every message is taken, then see them off."""
        count = len(sizes)
        deadline = self._connection.deadline(timeout)
        first = offset = 0
        acked = -1
        waiting = False
        with self._join(deadline):
            self._usable()
            while first < count:
                taken: native.Taken = put(first, offset)
                waiting = taken.waiting
                if taken.count > 0:
                    done = first + taken.count
                    if done < count:
                        offset += sum(sizes[first:done])
                    first = done
                elif taken.count == native.FULL:
                    what = f"{first} of {count} messages were taken"
                    acked = self._wait_for_room(acked, deadline, what, taken=first)
                elif taken.count == native.BUSY:
                    time.sleep(0)  # another thread is in send(), which never waits inside
                elif taken.count == native.TOO_LARGE:
                    raise self._too_large(max(sizes))
                else:
                    self._explain(taken.count, 0)
            last = self._outbox.status().put
        if waiting:
            return self._see_off(last, timeout, taken=count)
        if last >= self._look:
            self._look_around(last)
        return last


class _Repeated:
    """One number many times, summed without adding."""

    __slots__ = ("_count", "_size")

    def __init__(self, size: int, count: int) -> None:
        self._size = size
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> tuple[int, ...]:
        start, stop, _ = part.indices(self._count)
        return (self._size * (stop - start),)

    def __iter__(self) -> Any:
        return iter((self._size,))


def _timestamp(timestamp_ns: int) -> int:
    if timestamp_ns.__class__ is int and 0 <= timestamp_ns <= checks.INT64_MAX:
        return timestamp_ns
    return checks.integer(timestamp_ns, "timestamp_ns")


def _joined(payloads: Iterable[Payload] | Payload) -> tuple[bytes, array[int]]:
    """The payloads as one, and their lengths."""
    if isinstance(payloads, bytes | bytearray | memoryview):
        raise UsageError(
            "payloads is a joined buffer, which needs the lengths of the messages in it"
        )
    try:
        if isinstance(payloads, str | Mapping):
            raise TypeError("text and tables can be iterated too, and are no payloads")
        iterator = iter(payloads)
    except TypeError:
        checks.wrong_type(
            "payloads", "an iterable of buffers, or one buffer and its lengths", payloads
        )
    items = payloads if isinstance(payloads, list | tuple) else list(iterator)
    with contextlib.suppress(TypeError, ValueError, OverflowError, BufferError):
        lengths, joined = lengths_of(items), b"".join(items)
        if sum(lengths) == len(joined):  # elements of one byte each: these hold no addresses
            return joined, lengths
    plain = [checks.buffer(item, f"payloads[{number}]") for number, item in enumerate(items)]
    sizes = [memoryview(item).nbytes for item in plain]
    for number, size in enumerate(sizes):
        if size > U32_MAX:
            raise MessageTooLarge(f"payloads[{number}] has {size} bytes, over {U32_MAX}")
    return b"".join(plain), array("I", sizes)


def _as_u32(lengths: Any) -> Any:
    """A contiguous buffer of 32-bit numbers."""
    if isinstance(lengths, str | Mapping):
        checks.wrong_type("lengths", f"numbers from 0 to {U32_MAX}", lengths)
    # These errors pass: a list has no buffer, and some buffers have formats that Python cannot list.
    # array() takes the numbers of the first one by one, and its error says what is wrong with the
    # second.
    with (
        contextlib.suppress(TypeError, ValueError, NotImplementedError),
        memoryview(lengths) as view,
    ):
        if view.itemsize == 4 and view.c_contiguous and view.format in ("I", "L", "i", "<I"):
            return lengths
        lengths = view.tolist()
    try:
        return array("I", lengths)
    except (OverflowError, TypeError, ValueError) as error:
        raise UsageError(f"lengths are numbers from 0 to {U32_MAX}: {error}") from error
