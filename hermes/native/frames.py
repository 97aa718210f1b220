"""Frames: their types and envelopes, and what both encoding and decoding need.

The layout is the header file's (``hm_frame.h``).  Nothing in this package knows connections,
streams or time: sequences and timestamps are arguments.  NumPy is needed only by what gives arrays,
which says so.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from hermes.errors import UsageError
from hermes.native._core import ffi, lib
from hermes.native._errors import check, fail

if TYPE_CHECKING:
    import numpy.typing as npt

    Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]
    """Anything with the buffer protocol."""

HEADER_SIZE: int = lib.HM_FRAME_HEADER
"""Bytes before the topic."""
BATCH_HEADER_SIZE: int = lib.HM_BATCH_HEADER
"""Bytes of a batch before its frames."""
MESSAGE_MAX: int = lib.HM_MESSAGE_MAX
"""Bytes of payload a message may have, unless a broker says otherwise."""
STORED_MAX: int = lib.HM_STORED_MAX
"""Bytes of a payload that a log may hold, whatever limit holds today: what readers take."""
DELIVERED_MAX: int = lib.HM_STORED_MAX + lib.HM_BATCH_SLACK
"""Bytes of frames in a batch that a broker delivers, likewise."""
PROPERTIES_MAX: int = lib.HM_PROPERTIES_MAX
"""Bytes of a message's properties."""

new_raw = ffi.new_allocator(should_clear_after_alloc=False)
"""Like ``ffi.new`` without clearing: memory never written is never touched."""


def crc32c(data: bytes) -> int:
    """CRC-32C of ``data``."""
    return int(lib.hm_crc32c(0, ffi.from_buffer(data), len(data)))


class MessageType(IntEnum):
    """The type of a frame."""

    MESSAGE = lib.HM_MESSAGE
    BATCH = lib.HM_BATCH
    HELLO = lib.HM_HELLO
    WELCOME = lib.HM_WELCOME
    OPEN = lib.HM_OPEN
    SUBSCRIBE = lib.HM_SUBSCRIBE
    UNSUBSCRIBE = lib.HM_UNSUBSCRIBE
    STREAM = lib.HM_STREAM
    ACK = lib.HM_ACK
    COMMIT = lib.HM_COMMIT
    GAP = lib.HM_GAP
    PING = lib.HM_PING
    PONG = lib.HM_PONG
    QUERY = lib.HM_QUERY
    INFO = lib.HM_INFO
    ERROR = lib.HM_ERROR
    CLOSE = lib.HM_CLOSE


class Header(NamedTuple):
    """A frame as decoding describes it; offsets are from the start of the buffer."""

    sequence: int
    timestamp_ns: int
    offset: int
    """Bytes to the frame's first."""
    payload_offset: int
    payload_len: int
    topic_len: int
    type: int
    """A :class:`MessageType`, as a plain number."""
    properties: int
    """1 if a property block stands between topic and payload."""


class Batch(NamedTuple):
    """The envelope of a batch: it covers the sequences (after, through]."""

    id: int
    """Number of the publisher or subscription."""
    stream: int
    after: int
    through: int
    timestamp_ns: int
    frames_size: int
    """Bytes of frames that follow the envelope."""


def frame_size(topic_len: int, payload_len: int, properties_len: int = 0) -> int:
    """Bytes a frame takes, padding included."""
    return int(lib.hm_frame_size(topic_len, properties_len, payload_len))


def whole(buffer: Buffer) -> Any:
    """The address of a buffer that frames are to be read from, for a ``with`` statement.

    An address of a memoryview must not outlive the call that asks for it: CPython up to 3.12
    crashes when the garbage collector finds the two in a circle, such as an exception's.

    Raises:
        UsageError: the buffer is not contiguous, or 4 GiB or larger.
    """
    try:
        data = ffi.from_buffer("uint8_t[]", buffer)
    except (BufferError, ValueError) as error:
        raise UsageError("frames are read from a contiguous buffer") from error
    if len(data) > 2**32 - 1:
        raise UsageError("frames are read from less than 4 GiB at a time: slice the buffer")
    return data


def stamp(buffer: bytearray | memoryview, first_sequence: int) -> int:
    """Give the whole frames of ``buffer`` sequences from ``first_sequence`` on; return how many.

    The checksums stay valid.  Frames are taken at their word: validate foreign ones first.

    Raises:
        MalformedInput: a frame does not end within the buffer; those before it are stamped.
        UsageError: the buffer is read-only.
    """
    try:
        with ffi.from_buffer("uint8_t[]", buffer, require_writable=True) as data:
            count = lib.hm_frame_stamp(data, len(data), first_sequence)
    except BufferError as error:
        raise UsageError("stamping needs a writable, contiguous buffer") from error
    return check(count, "stamping frames")


def encode_batch(
    *,
    id: int,
    after: int,
    through: int,
    frames_size: int,
    stream: int = 0,
    timestamp_ns: int = 0,
) -> bytes:
    """The envelope that goes before ``frames_size`` bytes of whole MESSAGE frames.

    Raises:
        UsageError: ``after`` exceeds ``through``, or ``frames_size`` is not one of whole frames.
    """
    if after > through:
        raise UsageError(f"a batch cannot cover ({after}, {through}]: it ends before it begins")
    if frames_size < 0 or frames_size % lib.HM_FRAME_ALIGN or frames_size > 2**32 - 1 - 24:
        raise UsageError(f"{frames_size} bytes are not whole frames of less than 4 GiB")
    out = ffi.new("uint8_t[]", BATCH_HEADER_SIZE)
    lib.hm_batch_encode(out, id, stream, after, through, frames_size, timestamp_ns)
    return bytes(ffi.buffer(out))


def decode_batch(buffer: Buffer, *, message_max: int = MESSAGE_MAX) -> Batch:
    """The envelope at the start of ``buffer``, validated; the frames behind it need not be there.

    Raises:
        MalformedInput: it is not a sound BATCH, or not wholly there.
    """
    found, needed = ffi.new("hm_slice *"), ffi.new("uint64_t *")
    batch = ffi.new("hm_batch *")
    with whole(buffer) as data:
        code = lib.hm_frame_check(data, len(data), message_max, found, needed)
        if code < 0:
            fail(code, "decoding a batch", offset=0)
        if found.type != MessageType.BATCH:
            fail(lib.HM_ETYPE, "decoding a batch", offset=0)
        lib.hm_batch_parse(data, batch)
    return Batch(
        batch.id, batch.stream, batch.after, batch.through, batch.timestamp_ns, batch.frames_size
    )
