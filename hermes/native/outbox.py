"""Outboxes and the flusher that writes them to a socket: thin handles over ``hm_outbox.h`` and
``hm_flusher.h``.

Knows no protocol and no topics beyond their bytes.  The headers say which thread may call what.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hermes.errors import InvalidConfig, SystemFault
from hermes.native._core import ffi, lib
from hermes.native._errors import check
from hermes.native.api import Sender

CAPACITY: int = lib.HM_OUTBOX_CAPACITY
"""Bytes of unacknowledged frames, by default."""
CAPACITY_MIN: int = lib.HM_OUTBOX_CAPACITY_MIN
LINGER_MAX_NS: int = lib.HM_LINGER_MAX
"""Nanoseconds a message may linger at most."""
BATCH_HEADER: int = lib.HM_BATCH_HEADER
NS_PER_S = 1_000_000_000
FULL: int = -lib.HM_EFULL
"""Result of putting when there is no room until something is acknowledged."""
BUSY: int = -lib.HM_EBUSY
"""Result of putting while another thread is putting."""
CLOSED: int = -lib.HM_ECLOSED
TOO_LARGE: int = -lib.HM_ELENGTH
SYSTEM: int = -lib.HM_ESYS
EMPTY: int = -lib.HM_EEMPTY
NO_TOPIC: int = -lib.HM_ETOPIC

_COUNTS = ffi.typeof("uint64_t[3]")

Bytes = bytes | bytearray | memoryview


class Status(NamedTuple):
    """Sequences."""

    put: int
    sent: int
    acked: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Result of putting many messages."""

    count: int
    """Messages taken, or -HM_E*: none."""
    waiting: bool
    """The flusher has to be drained by the caller."""


class Outbox:
    """A publisher's frames, kept until acknowledged."""

    __slots__ = ("__weakref__", "capacity", "handle")

    def __init__(self, *, capacity: int = CAPACITY, id: int, first_sequence: int = 1) -> None:
        if capacity < CAPACITY_MIN:
            raise InvalidConfig(f"an outbox has {CAPACITY_MIN} bytes at least, not {capacity}")
        handle = lib.hm_outbox_new(capacity, id, first_sequence)
        if handle == ffi.NULL:
            raise MemoryError(f"no memory for an outbox of {capacity} bytes")
        self.handle = ffi.gc(handle, lib.hm_flusher_dispose, size=capacity)
        self.capacity = capacity
        """Bytes of frames it holds."""

    def limit(self, message_max: int) -> None:
        """Refuse payloads over ``message_max`` bytes from now on."""
        lib.hm_outbox_limit(self.handle, message_max)

    def close(self) -> None:
        """Refuse everything from now on."""
        lib.hm_outbox_close(self.handle)

    def reopen(self) -> None:
        """Take messages again."""
        lib.hm_outbox_reopen(self.handle)

    def sender(self, topic: bytes | None) -> Sender:
        """The way to put single messages, with the GIL held."""
        return Sender(int(ffi.cast("uintptr_t", self.handle)), self, topic)

    def put(self, topic: bytes, payload: Bytes, timestamp_ns: int = 0) -> int:
        """Encode one message and leave it there; its sequence, or -HM_E*."""
        with ffi.from_buffer("uint8_t[]", payload) as data:
            return int(
                lib.hm_outbox_put(
                    self.handle, topic, len(topic), ffi.NULL, 0, data, len(data), timestamp_ns
                )
            )

    def send_many(
        self,
        topic: bytes,
        joined: Bytes,
        lengths: object,
        *,
        first: int = 0,
        offset: int = 0,
        timestamp_ns: int = 0,
    ) -> Taken:
        """As many as fit of the messages that stand one after the other in ``joined``.

        ``lengths``: a contiguous buffer of 32-bit numbers.  ``first``: number of the first message
        to take, which begins at ``offset`` of ``joined``.
        """
        waiting = ffi.new("int *")
        with (
            ffi.from_buffer("uint8_t[]", joined) as data,
            ffi.from_buffer("uint32_t[]", lengths) as sizes,
        ):
            left, count = len(data) - offset, len(sizes) - first
            taken = lib.hm_outbox_send_many(
                self.handle, topic, len(topic), data + offset, left, sizes + first, count,
                timestamp_ns, waiting,
            )  # fmt: skip
        return Taken(int(taken), bool(waiting[0]))

    def send_rows(
        self,
        topic: bytes,
        rows: object,
        *,
        row_size: int,
        stride: int,
        first: int = 0,
        timestamp_ns: int = 0,
    ) -> Taken:
        """As many as fit of the rows of a contiguous buffer, from row ``first`` on.

        Row i begins ``i * stride`` bytes into ``rows``, whose last row may end before the stride.
        """
        waiting = ffi.new("int *")
        with ffi.from_buffer("uint8_t[]", rows) as base:
            count = 0 if len(base) < row_size else (len(base) - row_size) // stride + 1
            taken = lib.hm_outbox_send_rows(
                self.handle, topic, len(topic), base + first * stride, row_size, stride,
                count - first, timestamp_ns, waiting,
            )  # fmt: skip
        return Taken(int(taken), bool(waiting[0]))

    def send_frames(self, frames: Bytes, *, offset: int = 0) -> Taken:
        """As many as fit of the whole message frames that stand from ``offset`` on."""
        waiting = ffi.new("int *")
        with ffi.from_buffer("uint8_t[]", frames) as data:
            size = len(data) - offset
            taken = lib.hm_outbox_send_frames(self.handle, data + offset, size, waiting)
        return Taken(int(taken), bool(waiting[0]))

    def batch(self, limit: int, now_ns: int) -> tuple[bytes, memoryview] | None:
        """The next unsent frames behind their envelope, or None; :meth:`sent` confirms.

        The view is valid until its messages are acknowledged.
        """
        header = ffi.new("uint8_t[]", BATCH_HEADER)
        frames, size = ffi.new("const uint8_t **"), ffi.new("uint64_t *")
        if not lib.hm_outbox_batch(self.handle, limit, now_ns, header, frames, size):
            return None
        return bytes(ffi.buffer(header)), memoryview(ffi.buffer(frames[0], size[0]))

    def sent(self) -> None:
        """Confirm that the last batch was handed over."""
        lib.hm_outbox_sent(self.handle)

    def abandon(self) -> None:
        """Take the last batch back."""
        lib.hm_outbox_abandon(self.handle)

    def ack(self, sequence: int) -> bool:
        """Free what is acknowledged up to ``sequence``; False if that was never sent."""
        return bool(lib.hm_outbox_ack(self.handle, sequence) == 0)

    def rewind(self) -> None:
        """Everything unacknowledged is unsent again."""
        lib.hm_outbox_rewind(self.handle)

    def status(self) -> Status:
        """The last sequences put, sent and acknowledged."""
        counts = ffi.new(_COUNTS)  # of this call: another thread may be in one too
        lib.hm_outbox_status(self.handle, counts, counts + 1, counts + 2)
        return Status(counts[0], counts[1], counts[2])

    @property
    def offered(self) -> int:
        """The last sequence that was ever on its way to the broker, also if that was cut short."""
        return int(lib.hm_outbox_offered(self.handle))

    @property
    def queued_bytes(self) -> int:
        """Bytes of frames not acknowledged."""
        return int(lib.hm_outbox_queued(self.handle))

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory in use."""
        return int(lib.hm_outbox_memory(self.handle))


class Flusher:
    """Writes control frames and the batches of outboxes to a socket.  ``close()`` when done."""

    __slots__ = ("_handle", "_outboxes")

    def __init__(self) -> None:
        handle = lib.hm_flusher_new()
        if handle == ffi.NULL:
            raise SystemFault("no memory or descriptors for a flusher: raise `ulimit -n`")
        self._handle = ffi.gc(handle, lib.hm_flusher_free)
        self._outboxes: list[Outbox] = []

    def attach(self, fd: int, batch_max: int) -> None:
        """Write to ``fd``, a non-blocking stream socket that stays open until :meth:`detach`."""
        check(lib.hm_flusher_attach(self._handle, fd, batch_max), "attaching to a socket")

    def attach_medium(self, address: int, batch_max: int) -> None:
        """Write to the ``hm_medium`` at ``address``, which stays there until :meth:`detach`."""
        medium = ffi.cast("hm_medium *", address)
        check(
            lib.hm_flusher_attach_medium(self._handle, medium, batch_max), "attaching to a medium"
        )

    def detach(self) -> None:
        """Stop writing; every outbox waits for :meth:`resume`."""
        lib.hm_flusher_detach(self._handle)

    def add(self, outbox: Outbox, linger_ns: int) -> None:
        """Write the batches of ``outbox``; with a linger, by a native thread if need be.

        Raises:
            UsageError: the linger is longer than a minute.
            Refused: there are as many publishers as a connection may have.
        """
        check(lib.hm_flusher_add(self._handle, outbox.handle, linger_ns), "adding a publisher")
        self._outboxes.append(outbox)

    def remove(self, outbox: Outbox) -> None:
        """Write no more of ``outbox``."""
        if outbox in self._outboxes:
            self._outboxes.remove(outbox)
            check(lib.hm_flusher_remove(self._handle, outbox.handle), "removing a publisher")

    def pause(self, outbox: Outbox) -> None:
        """Begin no more batches of ``outbox`` until :meth:`resume`."""
        check(lib.hm_flusher_pause(self._handle, outbox.handle), "pausing a publisher")

    def resume(self, outbox: Outbox) -> bool:
        """Send ``outbox`` (again) behind its last acknowledged message; False: drain first."""
        code = lib.hm_flusher_resume(self._handle, outbox.handle)
        return bool(code != BUSY and check(code, "resuming a publisher") == 0)

    def write(self, frames: bytes) -> int:
        """Queue control frames to go out before the next batch, and drain."""
        return int(lib.hm_flusher_write(self._handle, frames, len(frames)))

    def drain(self) -> int:
        """Write what can be written now.  1: all of it; 0: the socket has no room; -HM_E*."""
        return int(lib.hm_flusher_drain(self._handle))

    @property
    def error(self) -> str | None:
        """Why the socket failed, if it did."""
        code = lib.hm_flusher_error(self._handle)
        return os.strerror(code) if code else None

    def close(self) -> None:
        """Stop the thread and let go of the outboxes.  Idempotent."""
        if self._handle != ffi.NULL:
            handle, self._handle = self._handle, ffi.NULL
            ffi.release(handle)
            self._outboxes.clear()


def lengths_of(payloads: Sequence[Bytes]) -> array[int]:
    """The lengths of ``payloads`` as :meth:`Outbox.send_many` wants them."""
    return array("I", map(len, payloads))
