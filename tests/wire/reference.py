"""The formats once more, in plain Python: what the core is compared with.

Nothing here is fast, and nothing uses the core: a frame is built and read by ``struct`` and a table
of checksums, and :class:`ReferenceIngest` does with lists what ``hm_ingest.h`` says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from hermes.native._core import ffi

HEADER = struct.Struct("<4sBBHQQII")
PREFIX = struct.Struct("<IIQQ")
MESSAGE, BATCH = 1, 2
CONTROL = range(16, 31)
CONTROL_MAX = 1 << 20

# The core's numbers, as hm_error.h has them.
EMAGIC, EVERSION, ETYPE, EFLAGS, ELENGTH, EPADDING, ECRC = 6, 7, 8, 9, 10, 11, 12
ETOPIC, ESEQUENCE, EUNKNOWN = 13, 14, 15


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = _table()


def crc32c(*pieces: bytes) -> int:
    """CRC-32C of the pieces, one after another."""
    crc = 0xFFFFFFFF
    for piece in pieces:
        for byte in piece:
            crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def frame(
    kind: int,
    payload: bytes = b"",
    topic: bytes = b"",
    *,
    sequence: int = 0,
    timestamp_ns: int = 0,
    flags: int = 0,
    version: int = 1,
    magic: bytes = b"HRMS",
) -> bytes:
    """One frame of any type but BATCH."""
    mark = struct.pack("<4sBBH", magic, version, kind, flags | len(topic))
    tail = struct.pack("<QI", timestamp_ns, len(payload))
    crc = crc32c(mark, tail, topic, payload)
    head = mark + struct.pack("<Q", sequence) + tail + struct.pack("<I", crc)
    return head + padded(topic) + padded(payload)


def message(topic: str, payload: bytes, sequence: int) -> bytes:
    return frame(MESSAGE, payload, topic.encode(), sequence=sequence)


def batch(id: int, stream: int, after: int, through: int, frames: bytes = b"") -> bytes:
    """One whole BATCH frame."""
    prefix = PREFIX.pack(id, stream, after, through)
    mark = struct.pack("<4sBBH", b"HRMS", 1, BATCH, 0)
    tail = struct.pack("<QI", 0, len(prefix) + len(frames))
    crc = crc32c(mark, tail, prefix)
    return mark + bytes(8) + tail + struct.pack("<I", crc) + prefix + frames


@dataclass
class Stored:
    """A message in a reference stream."""

    topic: str
    payload: bytes
    publisher: bytes
    publisher_sequence: int


@dataclass
class ReferenceFeed:
    """The fields of ``hm_feed``."""

    consumed: int = 0
    needed: int = 0
    frame_size: int = 0
    kind: int = 0
    error: int = 0
    publisher: int = 0
    stream: int = 0
    sequence: int = 0


class Malformed(Exception):
    """The bytes are wrong, with the core's number."""

    def __init__(self, error: int) -> None:
        self.error = error


def check(data: bytes, message_max: int) -> tuple[int, int]:
    """Size and type of the frame at the start of ``data``; (needed, 0) if it is not all there."""
    if data[:4] != b"HRMS"[: len(data)]:
        raise Malformed(EMAGIC)
    if len(data) > 4 and data[4] != 1:
        raise Malformed(EVERSION)
    if len(data) < HEADER.size:
        return HEADER.size, 0
    _, _, kind, flags, _, _, payload_len, crc = HEADER.unpack_from(data)
    if kind not in (MESSAGE, BATCH) and kind not in CONTROL:
        raise Malformed(ETYPE)
    topic_len = flags & 0xFF
    if flags >> 8 or (kind != MESSAGE and flags):
        raise Malformed(EFLAGS)  # property blocks are beyond this reference
    limit = {BATCH: message_max + (1 << 20), MESSAGE: message_max}.get(kind, CONTROL_MAX)
    if payload_len > limit or (kind == BATCH and (payload_len < 24 or payload_len % 8)):
        raise Malformed(ELENGTH)
    topic_end = 32 + topic_len
    topic_padded = topic_end + -topic_len % 8
    size = 56 if kind == BATCH else topic_padded + payload_len + -payload_len % 8
    if len(data) < size:
        return size, 0
    payload_end = 56 if kind == BATCH else topic_padded + payload_len
    if any(data[topic_end:topic_padded]) or any(data[payload_end:size]):
        raise Malformed(EPADDING)
    covered = (data[:8], data[16:28], data[32:topic_end], data[topic_padded:payload_end])
    if crc32c(*covered) != crc:
        raise Malformed(ECRC)
    return (32 + payload_len if kind == BATCH else size), kind


@dataclass
class ReferenceStore:
    """The streams of a broker: ``md`` takes ``md.``..., ``default`` the rest."""

    names: tuple[str, ...] = ("default", "md")
    streams: list[list[Stored]] = field(default_factory=lambda: [[], []])
    last: list[dict[bytes, int]] = field(default_factory=lambda: [{}, {}])
    refused_topics: dict[str, int] = field(default_factory=dict)
    """Topic to the core's number with which a message of it is refused."""

    def route(self, topic: str) -> int:
        return 1 if topic.startswith("md.") else 0


class ReferenceIngest:
    """One connection's inbound state; see ``hm_ingest.h``."""

    def __init__(self, store: ReferenceStore, message_max: int) -> None:
        self.store = store
        self.message_max = message_max
        self.open: dict[int, bytes] = {}
        self.refused: set[int] = set()
        self.touched: dict[int, int] = {}
        self._in_batch = 0  # bytes of it that are still to come
        self._publisher = 0
        self._after = 0
        self._through = 0

    def open_publisher(self, id: int, publisher: bytes) -> int:
        self.open[id] = publisher
        self.refused.discard(id)
        return max((last.get(publisher, 0) for last in self.store.last), default=0)

    def feed(self, data: Any, size: int, now_ns: int) -> ReferenceFeed:
        feed = ReferenceFeed()
        block = bytes(ffi.buffer(data, size)) if size else b""
        try:
            self._feed(block, feed)
        except Malformed as error:
            feed.kind, feed.error = 2, -error.error
        return feed

    def _feed(self, block: bytes, feed: ReferenceFeed) -> None:
        while feed.consumed < len(block):
            rest = block[feed.consumed :]
            size, kind = check(rest, self.message_max)
            if self._in_batch and size > self._in_batch:
                raise Malformed(ELENGTH)
            if kind == 0:
                feed.needed = size
                return
            if self._in_batch:
                if not self._take(rest[:size], kind, size, feed):
                    return
            elif kind == BATCH:
                self._begin(rest, size)
                feed.consumed += 56
            elif kind == MESSAGE:
                raise Malformed(ETYPE)
            else:
                feed.kind, feed.frame_size = 1, size
                return

    def _begin(self, rest: bytes, size: int) -> None:
        id, _, after, through = PREFIX.unpack_from(rest, 32)
        if id not in self.open:
            raise Malformed(EUNKNOWN)
        self._in_batch = size - 56
        self._publisher, self._after, self._through = id, after, through

    def _take(self, one: bytes, kind: int, size: int, feed: ReferenceFeed) -> bool:
        if kind != MESSAGE:
            raise Malformed(ETYPE)
        sequence = HEADER.unpack_from(one)[4]
        if sequence != self._after + 1 or sequence > self._through:
            raise Malformed(ESEQUENCE)
        self._after = sequence
        self._in_batch -= size
        feed.consumed += size
        if self._publisher in self.refused:
            return True
        return self._append(one, sequence, feed)

    def _append(self, one: bytes, sequence: int, feed: ReferenceFeed) -> bool:
        topic_len = one[6]
        topic = one[32 : 32 + topic_len].decode()
        start = 32 + len(padded(one[32 : 32 + topic_len]))
        payload = one[start : start + HEADER.unpack_from(one)[6]]
        publisher = self.open[self._publisher]
        index = self.store.route(topic)
        refusal = self.store.refused_topics.get(topic)
        if refusal is not None:
            feed.kind, feed.error = 3, -refusal
            feed.publisher, feed.stream, feed.sequence = self._publisher, index, sequence
            self.refused.add(self._publisher)
            return False
        last = self.store.last[index]
        if sequence > last.get(publisher, 0):
            last[publisher] = sequence
            self.store.streams[index].append(Stored(topic, payload, publisher, sequence))
        self.touched[self._publisher] = sequence
        return True
