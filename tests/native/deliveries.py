"""Single deliveries of a cursor, as a connection gets them from the core."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from hermes.native._core import ffi, lib

from hermes.native._errors import check
from hermes.native.stream import Cursor

ROOM = 65536
"""Bytes for frames that are copied, as in a connection's chunk."""


class Deliver(IntEnum):
    """Kind of a delivery."""

    NOTHING = lib.HM_DELIVER_NOTHING
    COPIED = lib.HM_DELIVER_COPIED
    RANGE = lib.HM_DELIVER_RANGE
    GAP = lib.HM_DELIVER_GAP
    AGAIN = lib.HM_DELIVER_AGAIN
    COLD = lib.HM_DELIVER_COLD


@dataclass(frozen=True, slots=True)
class Delivery:
    """One result of ``hm_cursor_next``."""

    kind: Deliver
    header: bytes
    """Envelope of a batch."""
    frames: bytes | memoryview
    after: int
    through: int
    messages: int
    gap_first: int
    gap_last: int
    gap_reason: int


def deliver(cursor: Cursor, limit: int = ROOM, *, progress: bool = False) -> Delivery:
    """Take the next delivery of at most ``limit`` bytes of frames."""
    raw, room = ffi.new("hm_delivery *"), ffi.new("uint8_t[]", ROOM)
    code = lib.hm_cursor_next(cursor.handle, room, ROOM, limit, progress, 1, raw)
    check(code, "reading a stream")
    written = bytes(ffi.buffer(room, raw.written))
    size = lib.HM_BATCH_HEADER
    frames: bytes | memoryview = written[size:]
    if raw.kind == Deliver.RANGE:
        frames = cursor.stream.log.view(raw.range.segment, raw.range.offset, raw.range.size)
    return Delivery(
        Deliver(raw.kind),
        written[:size],
        frames,
        raw.after,
        raw.through,
        raw.messages,
        raw.gap_first,
        raw.gap_last,
        raw.gap_reason,
    )
