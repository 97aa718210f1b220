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
    if len(data) > 5 and data[5] not in (MESSAGE, BATCH, *CONTROL):
        raise Malformed(ETYPE)
    if len(data) < HEADER.size:
        return HEADER.size, 0
    _, _, kind, flags, _, _, payload_len, crc = HEADER.unpack_from(data)
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


@dataclass
class OpenPublisher:
    """A publisher of one connection."""

    identity: bytes
    next: int = 0
    """The sequence behind its last batch; 0: it may begin anywhere."""
    refused: bool = False


class ReferenceIngest:
    """One connection's inbound state; see ``hm_ingest.h``."""

    def __init__(self, store: ReferenceStore, message_max: int) -> None:
        self.store = store
        self.message_max = message_max
        self.open: dict[int, OpenPublisher] = {}
        self.touched: dict[int, int] = {}
        self._left = 0  # bytes of the batch's frames that are still to come
        self._skip = False
        self._publisher = 0
        self._sequence = 0
        self._through = 0

    def open_publisher(self, id: int, identity: bytes) -> int:
        self.open[id] = OpenPublisher(identity)
        return max((last.get(identity, 0) for last in self.store.last), default=0)

    def close_publisher(self, id: int) -> None:
        del self.open[id]
        self.touched.pop(id, None)

    def feed(self, data: Any, size: int, now_ns: int) -> ReferenceFeed:
        feed = ReferenceFeed()
        block = bytes(ffi.buffer(data, size)) if size else b""
        try:
            while self._step(block[feed.consumed :], feed):
                continue
        except Malformed as error:
            feed.kind, feed.error = 2, -error.error
        return feed

    def _step(self, rest: bytes, feed: ReferenceFeed) -> bool:
        """Take the next frame; whether to go on."""
        if self._left and self._skip:
            there = min(len(rest), self._left)
            self._left -= there
            feed.consumed += there
            return self._left == 0
        if self._left:
            return self._inner(rest[: self._left], feed)
        if not rest:
            return False
        size, kind = check(rest, self.message_max)
        if len(rest) > 31 and rest[5] == MESSAGE:
            raise Malformed(ETYPE)
        if kind == 0:
            feed.needed = size
            return False
        if kind != BATCH:
            feed.kind, feed.frame_size = 1, size
            return False
        self._begin(rest, size - 56)
        feed.consumed += 56
        return True

    def _begin(self, rest: bytes, frames_size: int) -> None:
        id, stream, after, through = PREFIX.unpack_from(rest, 32)
        count = through - after
        if (count == 0) != (frames_size == 0) or count > frames_size // 32:
            raise Malformed(ESEQUENCE)
        who = self.open.get(id)
        if who is None or stream:
            raise Malformed(EUNKNOWN)
        if not who.refused and who.next and after >= who.next:
            raise Malformed(ESEQUENCE)
        who.next = max(who.next, through + 1)
        self._left, self._skip = frames_size, who.refused
        self._publisher, self._sequence, self._through = id, after + 1, through

    def _inner(self, rest: bytes, feed: ReferenceFeed) -> bool:
        size, kind = check(rest, self.message_max)
        if kind == 0:
            if size > self._left:
                raise Malformed(ELENGTH)
            feed.needed = size
            return False
        if kind != MESSAGE:
            raise Malformed(ETYPE)
        sequence = HEADER.unpack_from(rest)[4]
        is_last = size == self._left
        if sequence != self._sequence or (sequence == self._through) != is_last:
            raise Malformed(ESEQUENCE)
        if not self._append(rest[:size], feed):
            return False
        self._sequence += 1
        self._left -= size
        feed.consumed += size
        return True

    def _append(self, one: bytes, feed: ReferenceFeed) -> bool:
        who = self.open[self._publisher]
        topic_len, sequence = one[6], self._sequence
        topic = one[32 : 32 + topic_len].decode()
        start = 32 + len(padded(one[32 : 32 + topic_len]))
        payload = one[start : start + HEADER.unpack_from(one)[6]]
        index = self.store.route(topic)
        refusal = self.store.refused_topics.get(topic)
        if refusal is not None:
            feed.kind, feed.error = 3, -refusal
            feed.publisher, feed.stream, feed.sequence = self._publisher, index, sequence
            who.refused = self._skip = True
            return False
        last = self.store.last[index]
        if sequence > last.get(who.identity, 0):
            last[who.identity] = sequence
            self.store.streams[index].append(Stored(topic, payload, who.identity, sequence))
        self.touched[self._publisher] = max(sequence, self.touched.get(self._publisher, 0))
        return True
