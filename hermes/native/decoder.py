"""Frames in a buffer: found and validated in one call, read without copying."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hermes.errors import MalformedInput, UsageError
from hermes.native._core import ffi, lib
from hermes.native._errors import fail
from hermes.native.frames import (
    BATCH_HEADER_SIZE,
    HEADER_SIZE,
    MESSAGE_MAX,
    Header,
    MessageType,
    decode_batch,
    new_raw,
    whole,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from hermes.native.frames import Buffer

_SLICES_AT_ONCE = 1024  # what a decoder looks ahead: 32 KiB of slices stay in the L1 cache
_TOPICS_REMEMBERED = 4096  # names: decoding one costs more than looking it up
_SLICE = struct.Struct("<QQIIIBBH")  # hm_slice, the fields of Header


def _bytes(memory: Any, size: int = -1) -> memoryview:
    """A read-only view that keeps ``memory`` alive, and with it the buffer it is the address of."""
    return memoryview(ffi.buffer(memory, size)).toreadonly()


def _flat(buffer: Any) -> memoryview:
    """A read-only view of all bytes of a buffer that :func:`whole` has taken."""
    view = memoryview(buffer)
    if view.nbytes == 0:
        return memoryview(b"")
    if view.ndim != 1 or view.format != "B":
        try:
            view = view.cast("B")
        except TypeError:  # items of several fields
            view = memoryview(view.tobytes())
    return view.toreadonly()


class FrameIndex:
    """Where the frames of one buffer lie: 32 bytes a frame, filled by one call.

    The columns are memoryviews of the index itself, one item per frame; ``numpy.asarray`` of one is
    free.  The index keeps the buffer alive.
    """

    __slots__ = ("buffer", "consumed", "count", "records")

    def __init__(self, buffer: memoryview, slices: Any, count: int, consumed: int) -> None:
        self.buffer = buffer
        self.count = count
        self.consumed = consumed
        """Bytes of whole frames; what follows is the beginning of one."""
        self.records = _bytes(slices, count * _SLICE.size)
        """The ``hm_slice`` records themselves, as bytes."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Header, str, memoryview]]:
        """(header, topic, payload) of each frame; see :class:`Decoder`."""
        topics: dict[bytes, str] = {}
        for fields in _SLICE.iter_unpack(self.records):
            yield _parts(self.buffer, Header._make(fields), topics)

    def __getitem__(self, number: int) -> tuple[Header, str, memoryview]:
        if not -self.count <= number < self.count:
            raise IndexError(f"frame {number} of {self.count}")
        fields = _SLICE.unpack_from(self.records, number % self.count * _SLICE.size)
        return _parts(self.buffer, Header._make(fields), {})

    @property
    def sequence(self) -> memoryview:
        """Sequences, u64."""
        return self.records.cast("Q")[0::4]

    @property
    def timestamp_ns(self) -> memoryview:
        """Publishers' timestamps, u64."""
        return self.records.cast("Q")[1::4]

    @property
    def offset(self) -> memoryview:
        """Bytes from the start of the buffer to the payload, u32."""
        return self.records.cast("I")[5::8]

    @property
    def length(self) -> memoryview:
        """Bytes of payload, u32."""
        return self.records.cast("I")[6::8]

    @property
    def frame_offset(self) -> memoryview:
        """Bytes from the start of the buffer to the frame, u32; its topic is 32 bytes on."""
        return self.records.cast("I")[4::8]

    @property
    def topic_length(self) -> memoryview:
        """Bytes of topic, u8."""
        return self.records[28::32]

    @property
    def type(self) -> memoryview:
        """Types, u8."""
        return self.records[29::32]

    @property
    def topic(self) -> list[str]:
        """The topics; a name that occurs more than once is one object."""
        topics: dict[bytes, str] = {}
        starts, lengths = self.frame_offset, self.topic_length
        return [
            _topic_at(self.buffer, starts[i] + HEADER_SIZE, lengths[i], topics)
            for i in range(self.count)
        ]

    def payloads(self) -> list[memoryview]:
        """A view of each payload."""
        buffer = self.buffer
        starts, lengths = self.offset.tolist(), self.length.tolist()
        return [buffer[start : start + size] for start, size in zip(starts, lengths, strict=True)]

    def numpy(self) -> npt.NDArray[Any]:
        """The records as a structured array with the fields of :class:`Header`, without a copy.

        Raises:
            ImportError: NumPy is not installed.
        """
        import numpy as np

        return np.frombuffer(self.records, dtype=np.dtype(_NUMPY_FIELDS))

    def rows(self, dtype: npt.DTypeLike = "u1") -> npt.NDArray[Any]:
        """The payloads as an array of ``dtype``, without a copy: the reverse of ``encode_rows``.

        One row per frame.  A payload's items are the second dimension, unless it is one item.

        Raises:
            UsageError: frames differ in size, or a payload is no whole number of items.
            ImportError: NumPy is not installed.
        """
        import numpy as np

        kind = np.dtype(dtype)
        if self.count == 0:
            return np.empty(0, kind)
        starts, lengths = np.asarray(self.offset), np.asarray(self.length)
        size, first = int(lengths[0]), int(starts[0])
        steps = np.diff(starts.astype(np.int64))
        if (lengths != size).any() or (steps != steps[:1]).any():
            raise UsageError("rows need frames of one size; see payloads()")
        if kind.itemsize == 0 or size % kind.itemsize:
            raise UsageError(f"a payload of {size} bytes is no whole number of {kind}")
        step = int(steps[0]) if len(steps) else 0
        items = size // kind.itemsize
        inner = () if items == 1 else (items,)
        strides = (step,) if items == 1 else (step, kind.itemsize)
        return np.ndarray((self.count, *inner), kind, self.buffer, first, strides)


_NUMPY_FIELDS: list[Any] = [
    ("sequence", "<u8"),
    ("timestamp_ns", "<u8"),
    ("offset", "<u4"),
    ("payload_offset", "<u4"),
    ("payload_len", "<u4"),
    ("topic_len", "u1"),
    ("type", "u1"),
    ("properties", "<u2"),
]


def _topic_at(buffer: memoryview, start: int, size: int, topics: dict[bytes, str]) -> str:
    name = bytes(buffer[start : start + size])
    known = topics.get(name)
    if known is None:
        try:
            known = name.decode()
        except UnicodeDecodeError as error:
            raise MalformedInput(
                f"the topic {name!r} is not UTF-8 (at byte {start})", code="bad_topic", offset=start
            ) from error
        if len(topics) < _TOPICS_REMEMBERED:
            topics[name] = known
    return known


def _parts(
    buffer: memoryview, header: Header, topics: dict[bytes, str]
) -> tuple[Header, str, memoryview]:
    start = header.payload_offset
    return (
        header,
        _topic_at(buffer, header.offset + HEADER_SIZE, header.topic_len, topics),
        buffer[start : start + header.payload_len],
    )


def decode(buffer: Buffer, *, message_max: int = MESSAGE_MAX) -> FrameIndex:
    """Validate and index all frames of ``buffer`` in one call.

    A BATCH is not one of them: index what stands inside.
    A frame that is not wholly there ends the index: compare ``consumed`` with the buffer's length.

    Raises:
        MalformedInput: a frame is not sound; ``offset`` says where it begins.
        UsageError: the buffer is not contiguous, or 4 GiB or larger.
    """
    consumed, error = ffi.new("uint64_t *"), ffi.new("int32_t *")
    with whole(buffer) as data:
        capacity = len(data) // HEADER_SIZE + 1
        slices = new_raw("hm_slice[]", capacity)
        count = lib.hm_frame_index(data, len(data), message_max, slices, capacity, consumed, error)
    if error[0] not in (0, -lib.HM_ETRUNC):
        fail(error[0], "decoding frames", offset=consumed[0])
    return FrameIndex(_flat(buffer), slices, count, consumed[0])


class Decoder:
    """Iterates the frames of a buffer as (header, topic, payload); the payload is a view.

    A batch is entered: its envelope comes first, with the 24-byte prefix as payload (see
    :func:`decode_batch`), then its messages.  Iteration ends at the end, or at a frame that is not
    wholly there: :attr:`consumed` says how far it got, :attr:`needed` how many bytes from there on
    must be present for one more frame.  Only sound frames are yielded.

    Raises (while iterating):
        MalformedInput: a frame is not sound, after all frames before it were yielded.
    """

    __slots__ = ("_message_max", "_topics", "buffer", "consumed", "needed")

    def __init__(self, buffer: Buffer, *, message_max: int = MESSAGE_MAX) -> None:
        with whole(buffer):  # it is a buffer that can be read
            self.buffer = _flat(buffer)
        self._message_max = message_max
        self._topics: dict[bytes, str] = {}
        self.consumed = 0
        """Bytes of the frames yielded so far."""
        self.needed = 0
        """Bytes that one more frame takes from there on; 0 if the buffer ended evenly."""

    def __iter__(self) -> Iterator[tuple[Header, str, memoryview]]:
        slices = new_raw("hm_slice[]", _SLICES_AT_ONCE)
        records = _bytes(slices)
        consumed, error = ffi.new("uint64_t *"), ffi.new("int32_t *")
        while True:
            base = self.consumed
            with whole(self.buffer) as data:
                count = lib.hm_frame_index(
                    data + base,
                    len(data) - base,
                    self._message_max,
                    slices,
                    _SLICES_AT_ONCE,
                    consumed,
                    error,
                )
            for here in _SLICE.iter_unpack(records[: count * _SLICE.size]):
                header = Header(here[0], here[1], here[2] + base, here[3] + base, *here[4:])
                self.consumed = header.payload_offset + (header.payload_len + 7 & ~7)
                yield _parts(self.buffer, header, self._topics)
            if count < _SLICES_AT_ONCE and not self._envelope_follows(error[0]):
                return
            if error[0] == -lib.HM_ETYPE:
                yield self._envelope()

    def _envelope_follows(self, error: int) -> bool:
        """True if it is a BATCH that stopped the index; raises what else did."""
        at = self.consumed
        self.needed = 0
        if error == 0:
            return False
        needed, found = ffi.new("uint64_t *"), ffi.new("hm_slice *")
        left = len(self.buffer) - at
        with whole(self.buffer) as data:
            code = lib.hm_frame_check(data + at, left, self._message_max, found, needed)
        if code == -lib.HM_ETRUNC:
            self.needed = needed[0]
            return False
        if code < 0:
            fail(code, "decoding frames", offset=at)
        return True

    def _envelope(self) -> tuple[Header, str, memoryview]:
        at = self.consumed
        batch = decode_batch(self.buffer[at:], message_max=self._message_max)
        self.consumed = at + BATCH_HEADER_SIZE
        size = batch.frames_size + BATCH_HEADER_SIZE - HEADER_SIZE
        header = Header(0, batch.timestamp_ns, at, at + HEADER_SIZE, size, 0, MessageType.BATCH, 0)
        return header, "", self.buffer[at + HEADER_SIZE : self.consumed]
