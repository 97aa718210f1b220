"""Publishers of every client: from what a program passes into the outbox, and what they wait for.

The halves of :class:`hermes.Publisher` and :class:`hermes.aio.Publisher` that neither wait nor read.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, Self

from hermes.base import checks
from hermes.client.connection import Connection
from hermes.client.session import Line
from hermes.client.steps import Steps, Until
from hermes.errors import (
    Closed,
    InvalidTopic,
    MalformedInput,
    MessageTooLarge,
    Timeout,
    UsageError,
    WrongType,
)
from hermes.native import outbox as native
from hermes.native._errors import check
from hermes.native.decoder import FrameIndex, decode
from hermes.native.frames import MessageType
from hermes.native.outbox import Outbox, lengths_of
from hermes.native.patterns import check_given_topic
from hermes.wire.messages import AckLevel

LOOK_EVERY = 256
"""Messages between two looks at what the broker has acknowledged."""
TOPICS_MAX = 65536
"""Names a publisher remembers to be legal; then it begins again."""
U32_MAX = 2**32 - 1
FRAMES_MAX = 2**31
"""Bytes of a message in frames that are passed on: the broker's own limit is judged later."""

Payload = bytes | bytearray | memoryview
Put = Callable[[int, int], native.Taken]
"""Puts messages from one on, which begins at an offset; how many were taken."""


class ManyPuts:
    """Many messages that one call sends, from buffers that cannot be resized in its ``with`` block."""

    __slots__ = ("_held", "put", "sizes")

    def __init__(self, put: Put, sizes: Any, *held: memoryview) -> None:
        self.put = put
        self.sizes = sizes
        """Bytes of each payload."""
        self._held = held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for view in self._held:
            view.release()


class AnyPublisher:
    """A publisher without its waiting."""

    def __init__(
        self, connection: Connection, line: Line, topic: bytes | None, ack: AckLevel
    ) -> None:
        assert line.outbox is not None
        self.ack = ack
        """Acknowledgement that is waited for: ``none``, ``appended`` or ``durable``."""
        self._connection = connection
        self._line = line
        self._topic = topic
        self._outbox: Outbox = line.outbox
        self._send = self._outbox.sender(topic).send
        self._look = self._outbox.status().put + LOOK_EVERY
        self._names: dict[str, bytes] = {}
        self._closed = False

    def _many(
        self,
        payloads: Iterable[Payload] | Payload,
        lengths: Any,
        topic: str | None,
        timestamp_ns: int,
    ) -> ManyPuts:
        """See :meth:`hermes.Publisher.send_many`."""
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

        view, whole = memoryview(sizes), memoryview(joined)  # or they could be resized meanwhile
        plain = view.format == "I" and view.ndim == 1
        numbers = view if plain else view.cast("B").cast("I")
        puts = ManyPuts(put, numbers, whole, numbers, view)
        if sum(numbers) != whole.nbytes:
            with puts:
                raise UsageError(
                    f"the lengths add up to {sum(numbers)}, the buffer has {whole.nbytes} bytes"
                )
        return puts

    def _frames(self, frames: Payload) -> ManyPuts:
        """See :meth:`hermes.Publisher.send_frames`."""
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

        return ManyPuts(put, index.length, memoryview(frames))

    def _rows(self, rows: Any, topic: str | None, timestamp_ns: int) -> ManyPuts:
        """See :meth:`hermes.Publisher.send_rows`."""
        timestamp_ns = _timestamp(timestamp_ns)
        with checks.plain_view(rows, "rows") as view:
            if view.ndim not in (1, 2):
                raise UsageError(f"rows have 1 or 2 dimensions, not {view.ndim}")
            assert view.shape is not None
            count = view.shape[0]
            size = view.itemsize * (view.shape[1] if view.ndim == 2 else 1)
            source = rows if view.c_contiguous else view.tobytes()
        if count == 0:
            return ManyPuts(_nothing, ())
        if size == 0:
            return self._many([b""] * count, None, topic, timestamp_ns)
        name = self._name(topic)

        def put(first: int, _offset: int) -> native.Taken:
            return self._outbox.send_rows(
                name, source, row_size=size, stride=size, first=first, timestamp_ns=timestamp_ns
            )

        return ManyPuts(put, _Repeated(size, count), memoryview(source))

    def _flushing(self) -> Steps[None]:
        """Wait until all that was put is acknowledged; see :meth:`hermes.Publisher.flush`."""
        connection, outbox, line = self._connection, self._outbox, self._line
        connection.go_on()
        self._open()
        target = outbox.status().put

        def settled() -> bool:
            line.settle()
            over = line.failure is not None or self._closed
            return over or outbox.status().acked >= target

        def late() -> Timeout:
            text = f"flush took too long: {self._queued()}; {connection.obstacle()}"
            return Timeout(text, queued=line.unacknowledged)

        yield Until(settled, late)
        if line.failure is not None or outbox.status().acked < target:
            self._open()  # it was refused, or closed by another thread

    def _putting(self, puts: ManyPuts) -> Steps[bool]:
        """Put every message; whether the flusher is to be drained."""
        put, sizes = puts.put, puts.sizes
        count = len(sizes)
        first = offset = 0
        acked = -1
        waiting = False
        self._usable()
        while first < count:
            taken = put(first, offset)
            waiting = taken.waiting
            if taken.count > 0:
                done = first + taken.count
                if done < count:
                    offset += sum(sizes[first:done])
                first = done
            elif taken.count == native.FULL:
                what = f"{first} of {count} messages were taken"
                acked = yield from self._room(acked, what, taken=first)
            elif taken.count == native.BUSY:
                time.sleep(0)  # another thread is in send(), which never waits inside
            elif taken.count == native.TOO_LARGE:
                raise self._too_large(max(sizes))
            else:
                self._explain(taken.count, 0)
        return waiting

    def _room(self, before: int, what: str, *, taken: int) -> Steps[int]:
        """Wait until more than ``before`` is acknowledged; returns how much is then.

        Putting is tried again then; ``before`` was known before it was last tried in vain.  Read
        afterwards it might be the last of all acknowledgements, and nothing would follow it.
        """
        outbox, line = self._outbox, self._line
        acked = before

        def room() -> bool:
            nonlocal acked
            line.settle()
            acked = outbox.status().acked  # with the lock: its room is there too
            return line.failure is not None or self._closed or acked > before

        def late() -> Timeout:
            return Timeout(f"{what}: {self._queued()}; {self._connection.obstacle()}")

        last = outbox.status().put if taken else None
        with self._stating(taken, last):
            yield Until(room, late, f"{what}: ")
        if line.failure is not None:
            raise line.lost()
        return acked

    @property
    def sent(self) -> int:
        """Sequence of the last message taken by :meth:`send` and its kind; 0: none."""
        return self._outbox.status().put

    @property
    def publisher_id(self) -> bytes:
        """16 bytes that name this publisher across connections and processes."""
        return self._line.publisher_id

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._connection.over or self._connection.forked:
            return
        self._outbox.close()
        self._connection.let_go(self._line)  # which ends it once all is acknowledged
        text = f"a publisher of {self._connection.url} was not closed"
        warnings.warn(text, ResourceWarning, stacklevel=2)

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

    def _plain(
        self,
        payload: Payload,
        topic: str | None,
        timestamp_ns: int,
        timeout: float | None,
        error: Exception,
    ) -> tuple[Any, bytes | None, int, float | None]:
        """The arguments of a ``send`` that the quick way does not take, as ``error`` says: refused by name,
        or made plain."""
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
        return checks.buffer(payload, "payload"), name, timestamp_ns, timeout

    def _send_plain(
        self, payload: Any, name: bytes | None, timestamp_ns: int, timeout: float | None
    ) -> int:
        try:
            return self._send(payload, name, timestamp_ns, timeout)
        except (TypeError, ValueError, OverflowError, BufferError) as again:
            raise WrongType(f"payload takes bytes or another buffer: {again}") from again

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

    @contextlib.contextmanager
    def _stating(self, taken: int, sequence: int | None) -> Iterator[None]:
        """A Timeout in here states how much of the call was taken."""
        try:
            yield
        except Timeout as error:
            error.taken, error.sequence = taken, sequence
            error.queued = self._line.unacknowledged
            raise

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


def _nothing(_first: int, _offset: int) -> native.Taken:
    return native.Taken(0, False)
