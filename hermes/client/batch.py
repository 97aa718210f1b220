"""A batch as a subscriber gets it: views of the memory it arrived in.  Knows no connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hermes.errors import UsageError, WrongType
from hermes.native.api import Message, Reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

SLICE_SIZE = 32
"""Bytes of an ``hm_slice``."""
TOPIC_OFFSET = 32
"""Bytes from the start of a frame to its topic."""


class Batch:
    """Messages that arrived together, of one stream, in order; every one has been checked.

    Everything here, arrays included, refers to the memory the batch was received into.  It stays
    valid and unchanged as long as anything refers to it; keep it, or copy what you need and let go.
    A batch is a value: equal to another of the same messages, and one that was copied or unpickled
    has memory of its own.
    """

    __match_args__ = ("stream", "after", "through")
    __slots__ = ("_index", "_reader", "after", "frames", "stream", "through")

    def __init__(
        self,
        frames: memoryview,
        index: bytes,
        stream: str,
        after: int,
        through: int,
        reader: Reader,
    ) -> None:
        self.frames = frames
        """The frames themselves, as they stand in the log; offsets are relative to its start."""
        self.stream = stream
        """Name of the stream."""
        self.after = after
        self.through = through
        """The batch covers the sequences (after, through]: what is not in it was not wanted."""
        self._index = index
        self._reader = reader

    def __len__(self) -> int:
        return len(self._index) // SLICE_SIZE

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Batch):
            return NotImplemented
        mine = (self.stream, self.after, self.through, self.frames)
        return mine == (other.stream, other.after, other.through, other.frames)

    def __hash__(self) -> int:  # what a batch covers tells it from others: its memory may be large
        return hash((self.stream, self.after, self.through))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (bytes(self.frames), self._index, self.stream, self.after, self.through)

    def __repr__(self) -> str:
        return (
            f"<Batch of {len(self)} messages, {self.frames.nbytes} bytes, stream {self.stream!r}, "
            f"covers {self.after + 1} to {self.through}>"
        )

    def __iter__(self) -> Iterator[Message]:
        """The messages as objects, payloads copied."""
        return iter(self.messages())

    def messages(self) -> list[Message]:
        """The messages as objects, payloads copied."""
        frames = self.frames
        found = self._reader.messages(
            frames, 0, frames.nbytes, self.stream, self.after, self.through
        )
        if isinstance(found, int):  # somebody wrote to the memory meanwhile
            raise UsageError("the batch's memory was changed: views of it are for reading")
        return found

    def payloads(self) -> list[memoryview]:
        """A view of each payload, nothing copied."""
        frames = self.frames
        fields = memoryview(self._index).cast("I")
        return [frames[fields[at] : fields[at] + fields[at + 1]] for at in range(5, len(fields), 8)]

    @property
    def topics(self) -> list[str]:
        """The topic of each message."""
        frames = self.frames
        offsets = memoryview(self._index).cast("I")[4::8]
        lengths = self._index[28::SLICE_SIZE]
        return [
            str(frames[at + TOPIC_OFFSET : at + TOPIC_OFFSET + size], "utf-8")
            for at, size in zip(offsets, lengths, strict=True)
        ]

    @property
    def index(self) -> NDArray[Any]:
        """One record per message: ``sequence``, ``timestamp_ns``, ``offset``, ``payload_offset``,
        ``payload_len``, ``topic_len``, ``type``, ``properties``.

        Needs NumPy.
        """
        np = _numpy()
        found: NDArray[Any] = np.frombuffer(self._index, dtype=_record(np))
        return found

    @property
    def sequences(self) -> NDArray[np.int64]:
        """The sequence of each message.  Needs NumPy."""
        found: NDArray[np.int64] = self.index["sequence"]
        return found

    @property
    def timestamps(self) -> NDArray[np.int64]:
        """The publishers' clocks, ns since 1970.  Needs NumPy."""
        found: NDArray[np.int64] = self.index["timestamp_ns"]
        return found

    @property
    def offsets(self) -> NDArray[np.uint32]:
        """Offset of each payload in :attr:`frames`.  Needs NumPy."""
        found: NDArray[np.uint32] = self.index["payload_offset"]
        return found

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Bytes of each payload.  Needs NumPy."""
        found: NDArray[np.uint32] = self.index["payload_len"]
        return found

    def rows(self, dtype: DTypeLike) -> NDArray[Any]:
        """The payloads as one array with an element per message, if each has the size of ``dtype``.

        Nothing is copied as long as the frames have one size too, as those of one topic have.
        Needs NumPy.

        Raises:
            UsageError: a payload has another size.
        """
        np = _numpy()
        if dtype is None:  # which NumPy takes for doubles
            raise WrongType("dtype takes what numpy.dtype() takes, not None")
        try:
            kind = np.dtype(dtype)
        except (TypeError, ValueError) as error:
            raise WrongType(f"dtype takes what numpy.dtype() takes: {error}") from error
        if kind.hasobject:
            raise WrongType(f"dtype: {kind} has elements that are Python objects")
        if kind.itemsize == 0:
            raise UsageError(f"dtype: an element of {kind} has no bytes")
        offsets, lengths = self.offsets, self.lengths
        if len(self) and (lengths != kind.itemsize).any():
            wrong = int(lengths[lengths != kind.itemsize][0])
            raise UsageError(f"a payload has {wrong} bytes, an element of {kind} {kind.itemsize}")
        strides = np.diff(offsets)
        if len(strides) == 0 or (strides == strides[0]).all():
            step = int(strides[0]) if len(strides) else kind.itemsize
            first = int(offsets[0]) if len(self) else 0
            rows: NDArray[Any] = np.ndarray(
                (len(self),), dtype=kind, buffer=self.frames, offset=first, strides=(step,)
            )
            return rows
        places = offsets.astype(np.int64)[:, None] + np.arange(kind.itemsize)
        gathered: NDArray[Any] = np.frombuffer(self.frames, np.uint8)[places].view(kind)[:, 0]
        return gathered


def _unpickled(frames: bytes, index: bytes, stream: str, after: int, through: int) -> Batch:
    return Batch(memoryview(frames), index, stream, after, through, Reader(len(frames)))


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise UsageError("arrays need NumPy: pip install 'hermes-broker[numpy]'") from error
    return numpy


def _record(np: Any) -> Any:
    return np.dtype(
        [
            ("sequence", "<i8"),  # signed, so that a difference stays an integer
            ("timestamp_ns", "<i8"),
            ("offset", "<u4"),
            ("payload_offset", "<u4"),
            ("payload_len", "<u4"),
            ("topic_len", "u1"),
            ("type", "u1"),
            ("properties", "<u2"),
        ]
    )
