"""Encodes frames into a buffer that grows and is used again."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hermes.errors import MessageTooLarge, UsageError
from hermes.native._core import ffi, lib
from hermes.native._errors import check
from hermes.native.frames import MESSAGE_MAX, PROPERTIES_MAX, MessageType, frame_size, new_raw
from hermes.native.patterns import check_topic, encoded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hermes.native.frames import Buffer

_CAPACITY_FIRST = 64 * 1024  # bytes: a socket's worth; a busy encoder doubles it a few times


def _view(buffer: Any) -> memoryview:
    return memoryview(buffer)  # an array is a buffer, though before 3.12 its type cannot say so


def _address(buffer: Buffer) -> Any:
    try:
        return ffi.from_buffer("uint8_t[]", buffer)
    except (BufferError, ValueError) as error:
        raise UsageError("a payload must lie in one piece: pass a contiguous buffer") from error
    except TypeError as error:
        kind = type(buffer).__name__
        raise UsageError(f"a payload is bytes or another buffer, not {kind}: encode it") from error


class Encoder:
    """Encodes frames one behind the other into a buffer that grows and is used again.

    Each ``encode`` method returns the number of bytes it added.  :attr:`view` is what has been
    encoded since :meth:`clear`; a view stays readable for ever, but :meth:`clear` lets what follows
    overwrite it.

    Threads: one at a time.
    """

    __slots__ = ("_buffer", "_capacity", "_checked", "_size", "_topic", "message_max")

    def __init__(self, *, message_max: int = MESSAGE_MAX) -> None:
        self.message_max = message_max
        """Bytes of payload; more raises :exc:`~hermes.errors.MessageTooLarge`."""
        self._capacity = _CAPACITY_FIRST
        self._buffer: Any = new_raw("uint8_t[]", self._capacity)
        self._size = 0
        self._checked: str | bytes = b""
        self._topic = b""

    def __len__(self) -> int:
        """Bytes encoded since :meth:`clear`."""
        return self._size

    @property
    def view(self) -> memoryview:
        """Bytes encoded since :meth:`clear`, without a copy."""
        return memoryview(ffi.buffer(self._buffer, self._size)).toreadonly()

    def clear(self) -> None:
        """Begin again with nothing encoded; the memory is kept."""
        self._size = 0

    def encode(
        self,
        payload: Buffer,
        *,
        topic: str | bytes = b"",
        type: int = MessageType.MESSAGE,
        properties: bytes = b"",
        sequence: int = 0,
        timestamp_ns: int = 0,
    ) -> int:
        """Encode one frame: a MESSAGE with a topic, or another type but BATCH without one.

        Raises:
            InvalidTopic: the topic is not legal, or a MESSAGE has none.
            MessageTooLarge: the payload is over ``message_max``, or the properties over 64 KiB.
            UsageError: the payload is no buffer, the type is no frame's, or it is not MESSAGE and
                has a topic or properties.
        """
        with _address(payload) as data:
            self._bounded(len(data))
            if len(properties) > PROPERTIES_MAX:
                raise MessageTooLarge(
                    f"properties of {len(properties)} bytes are over the limit of "
                    f"{PROPERTIES_MAX}: what is large belongs into the payload"
                )
            name = self._legal(topic) if type == MessageType.MESSAGE else encoded(topic, "topic")
            size = frame_size(len(name), len(data), len(properties))
            out = self._room(size)
            # fmt: off
            written = lib.hm_frame_encode(
                out, size, type, name, len(name), properties, len(properties), data, len(data),
                sequence, timestamp_ns,
            )
            # fmt: on
        self._size += check(written, f"encoding a frame of type {int(type)}")
        return size

    def encode_many(
        self,
        topic: str | bytes,
        payloads: Sequence[bytes],
        *,
        first_sequence: int = 0,
        timestamp_ns: int = 0,
    ) -> int:
        """Encode a MESSAGE for each of ``payloads`` in one call, all or nothing.

        Their sequences are ``first_sequence``, + 1, ...

        Raises:
            InvalidTopic: the topic is not legal.
            MessageTooLarge: a payload is over ``message_max``.
        """
        lengths = array("I", map(len, payloads))
        return self.encode_joined(
            topic,
            b"".join(payloads),
            lengths,
            first_sequence=first_sequence,
            timestamp_ns=timestamp_ns,
        )

    def encode_joined(
        self,
        topic: str | bytes,
        joined: Buffer,
        lengths: array[int] | npt.NDArray[np.uint32],
        *,
        first_sequence: int = 0,
        timestamp_ns: int = 0,
    ) -> int:
        """The same for payloads that stand back to back in one buffer.

        ``lengths`` are 32-bit unsigned integers.

        Raises:
            UsageError: the lengths are of another type, or do not add up to the buffer's.
        """
        name = self._legal(topic)
        with _address(joined) as data, _view(lengths) as given:
            whole = len(data)
            if given.format not in ("I", "L") or given.itemsize != 4:
                raise UsageError(f"lengths are 32-bit unsigned integers, not {given.format!r}")
            count = given.nbytes // 4
            if len(data) > self.message_max:  # else no payload can be
                self._bounded(max(given, default=0))
            size = count * (frame_size(len(name), 0) + 7) + len(data)  # padded by 7 at most
            out = self._room(size)
            with ffi.from_buffer("uint32_t[]", given) as sizes:
                # fmt: off
                written = lib.hm_frame_encode_many(
                    out, size, name, len(name), data, len(data), sizes, count,
                    first_sequence, timestamp_ns,
                )
                # fmt: on
        if written == -lib.HM_EINVAL:
            raise UsageError(f"the lengths do not add up to the {whole} bytes of the buffer")
        self._size += check(written, "encoding frames")
        return int(written)

    def encode_rows(
        self,
        topic: str | bytes,
        rows: Buffer | npt.NDArray[Any],
        *,
        first_sequence: int = 0,
        timestamp_ns: int = 0,
    ) -> int:
        """Encode a MESSAGE for each row (index of the first dimension) of ``rows``, in one call.

        A row must be contiguous; the rows may lie at any distance, as in a slice of an array, and a
        1-D array of records has one row per record.

        Raises:
            InvalidTopic: the topic is not legal.
            MessageTooLarge: a row is over ``message_max``.
            UsageError: a row is not contiguous, or there is no first dimension.
        """
        name = self._legal(topic)
        with _view(rows) as table:
            if table.ndim == 0 or table.shape is None or table.strides is None:
                raise UsageError("rows need a buffer of at least one dimension")
            count = table.shape[0]
            if count == 0:
                return 0
            with table[0:1] as first:
                if not first.c_contiguous:
                    raise UsageError("a row must lie in one piece: pass numpy.ascontiguousarray()")
                row_size = first.nbytes
                self._bounded(row_size)
                size = frame_size(len(name), row_size) * count
                out = self._room(size)
                with ffi.from_buffer("uint8_t[]", first) as data:
                    # fmt: off
                    written = lib.hm_frame_encode_rows(
                        out, size, name, len(name), data, row_size, table.strides[0], count,
                        first_sequence, timestamp_ns,
                    )
                    # fmt: on
        self._size += check(written, "encoding rows")
        return size

    def _legal(self, topic: str | bytes) -> bytes:
        # The topic of the message before is recognised without another check.
        if topic != self._checked or not topic:
            check_topic(topic)
            self._topic = encoded(topic, "topic")
            self._checked = topic
        return self._topic

    def _bounded(self, size: int) -> None:
        if size > self.message_max:
            raise MessageTooLarge(
                f"a payload of {size} bytes is over the limit of {self.message_max}: split it"
            )

    def _room(self, size: int) -> Any:
        """The place of the next ``size`` bytes."""
        if self._capacity - self._size < size:
            capacity = max(2 * self._capacity, self._size + size)
            grown = new_raw("uint8_t[]", capacity)
            ffi.memmove(grown, self._buffer, self._size)
            self._buffer, self._capacity = grown, capacity
        return self._buffer + self._size
