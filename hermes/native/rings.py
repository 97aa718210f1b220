"""Rings: bounded queues of records between threads, or between two processes that map one file.

A ring knows bytes and nothing of frames.  Full and empty are answers (``False``, ``None``, an empty
list), never exceptions and never a wait: they are the common case of a queue that is polled.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, Self

from hermes.base.closing import Closable
from hermes.errors import (
    Closed,
    MalformedInput,
    MessageTooLarge,
    StorageFull,
    SystemFault,
    UsageError,
)
from hermes.native._core import ffi, lib

Bytes = bytes | bytearray | memoryview

BATCH = 256
"""Records a batch call describes at once: more saves nothing, the call is already paid for."""


class SpscRing(Closable):
    """Bounded queue of variable-length records: one producer, one consumer.

    ``capacity`` is in bytes and a power of two (64 B to 1 GiB); a record takes its size, 8 bytes of
    header and up to 7 of padding, and may have :attr:`record_max` bytes.

    Threads: the producer's methods (:meth:`push`, :meth:`push_many`, :meth:`claim`,
    :meth:`commit`) belong to one thread at a time, the consumer's (:meth:`pop`, :meth:`drain`,
    :meth:`peek`, :meth:`release`) to another.  Processes: each maps the file with :meth:`create` or
    :meth:`open` and takes one role; a process that takes over a role opens the ring again.

    A view is memory of the ring: it stays safe to touch as long as it is referred to, also after
    :meth:`close`, but it is the record's only until :meth:`commit` or :meth:`release`.

    Raises:
        UsageError: ``capacity`` is out of bounds or no power of two.
    """

    __slots__ = ("_claim", "_memory", "_ring", "_spans", "_words", "record_max")

    def __init__(self, capacity: int) -> None:
        self._adopt(_made(lib.hm_spsc_new, _bounded(capacity)))

    @classmethod
    def create(cls, path: str | os.PathLike[str], capacity: int) -> Self:
        """A ring in a new file that this user alone may open (mode 0600).

        Raises:
            FileExistsError: ``path`` exists; OSError: it cannot be made.
            StorageFull: the disk has no room for it.
            UsageError: ``capacity`` is out of bounds or no power of two.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return cls.create_fd(fd, capacity)
        except BaseException:
            Path(path).unlink()
            raise
        finally:
            os.close(fd)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map the ring that another process made at ``path``.

        Raises:
            FileNotFoundError, OSError: it cannot be opened.
            MalformedInput: it is not a ring, or not yet, or its header or cursors make no sense.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return cls.open_fd(fd)
        finally:
            os.close(fd)

    @classmethod
    def create_fd(cls, fd: int, capacity: int) -> Self:
        """As :meth:`create`, in an empty file or memfd; ``fd`` stays the caller's to close."""
        return cls._of(_made(lib.hm_spsc_create, fd, _bounded(capacity)))

    @classmethod
    def open_fd(cls, fd: int) -> Self:
        """As :meth:`open`; seal a memfd against shrinking if its other owner is not trusted."""
        return cls._of(_made(lib.hm_spsc_open, fd))

    @classmethod
    def _of(cls, handle: Any) -> Self:
        ring = cls.__new__(cls)
        ring._adopt(handle)
        return ring

    def _adopt(self, handle: Any) -> None:
        ring = ffi.gc(handle, lib.hm_spsc_free)
        # The area keeps the ring, and every view the area: it is unmapped after the last of them.
        area = ffi.gc(lib.hm_spsc_memory(ring), lambda _, ring=ring: None)
        self._ring: Any = ring
        self._memory = memoryview(ffi.buffer(area, lib.hm_spsc_capacity(ring)))
        self._claim = ffi.new("hm_spsc_span *")
        self._spans = ffi.new("hm_spsc_span[]", BATCH)
        self._words = memoryview(ffi.buffer(self._spans)).cast("I")
        self.record_max: int = lib.hm_spsc_record_max(ring)

    @property
    def capacity(self) -> int:
        """Bytes."""
        return len(self._memory)

    @property
    def used(self) -> int:
        """Bytes published and not yet released, headers and padding included.  Any thread."""
        return _checked(lib.hm_spsc_used(self._open()))

    # The producer's.

    def push(self, data: Bytes) -> bool:
        """Copy ``data`` in as one record; False if there is no room now.

        Raises:
            MessageTooLarge: it is over :attr:`record_max` and will never fit.
            MalformedInput: the consumer's cursor, in shared memory, makes no sense.
        """
        if type(data) is not bytes:
            with ffi.from_buffer(data) as source:
                return self._push(source)
        return self._push(data)

    def _push(self, source: Any) -> bool:
        if len(source) > self.record_max:
            _too_large(len(source), self.record_max)
        result = lib.hm_spsc_push(self._ring or self._open(), source, len(source))
        return result == 0 or _refused(result)

    def push_many(self, records: Sequence[bytes]) -> int:
        """Copy as many of ``records`` in as there is room for, published at once; returns how many.

        Raises:
            MessageTooLarge: the first that was not taken is over :attr:`record_max`.
            MalformedInput: as :meth:`push`.
        """
        joined, lengths = _joined(records)
        done: int = lib.hm_spsc_push_many(self._open(), joined, len(joined), lengths, len(records))
        if done == -lib.HM_EFULL:
            return 0
        if done < 0 and len(records[0]) > self.record_max:
            _too_large(len(records[0]), self.record_max)
        return _checked(done)

    def claim(self, size: int) -> memoryview | None:
        """Room for a record of at most ``size`` bytes, to be filled in place; None: not now.

        It is replaced by the next claim or push unless :meth:`commit` comes first.

        Raises:
            MessageTooLarge, MalformedInput: as :meth:`push`.
        """
        if not 0 <= size <= self.record_max:
            _too_large(size, self.record_max)
        result = lib.hm_spsc_claim(self._open(), size, self._claim)
        if result != 0:
            _refused(result)
            return None
        start = self._claim.offset
        return self._memory[start : start + size]

    def commit(self, size: int | None = None) -> None:
        """Publish the claimed record with its first ``size`` bytes (all, by default).

        Raises:
            UsageError: nothing, or less, was claimed.
        """
        size = self._claim.size if size is None else size
        if not 0 <= size <= self._claim.size or lib.hm_spsc_commit(self._open(), size) != 0:
            raise UsageError(f"commit of {size} bytes without a claim of as many")

    # The consumer's.

    def pop(self) -> bytes | None:
        """Take the oldest record; None if there is none.

        Raises:
            MalformedInput: a cursor or a length in shared memory makes no sense.
        """
        view = self.peek()
        if view is None:
            return None
        record = bytes(view)
        lib.hm_spsc_release(self._ring)
        return record

    def drain(self, limit: int = BATCH) -> list[bytes]:
        """Take up to ``limit`` (at most 256) records, oldest first.

        Raises:
            MalformedInput: as :meth:`pop`; the sound records before it come first, by themselves.
        """
        records = [*map(bytes, self.peek_many(limit))]
        lib.hm_spsc_release(self._ring)
        return records

    def peek(self) -> memoryview | None:
        """The oldest record, in place until :meth:`release`; None if there is none.

        Raises:
            MalformedInput: as :meth:`pop`.
        """
        count = lib.hm_spsc_peek(self._ring or self._open(), self._spans, 1)
        if count != 1:
            return None if count == -lib.HM_EEMPTY else _fail(count)
        start, size = self._words[0], self._words[1]
        return self._memory[start : start + size]

    def peek_many(self, limit: int = BATCH) -> list[memoryview]:
        """Up to ``limit`` (at most 256) of the oldest records, in place until :meth:`release`.

        Raises:
            MalformedInput: as :meth:`pop`.
        """
        count = lib.hm_spsc_peek(self._ring or self._open(), self._spans, min(limit, BATCH))
        if count <= 0:
            return [] if count in (0, -lib.HM_EEMPTY) else _fail(count)
        memory, words = self._memory, self._words[: 2 * count].tolist()
        return [
            memory[start : start + size]
            for start, size in zip(words[::2], words[1::2], strict=True)
        ]

    def release(self) -> None:
        """Give back all records that the last :meth:`peek` or :meth:`peek_many` showed."""
        lib.hm_spsc_release(self._open())

    def close(self) -> None:
        """Let go of the ring; its memory goes with the last view.  The file stays.  Idempotent."""
        self._ring = None

    def _open(self) -> Any:
        if self._ring is None:
            raise Closed("the ring was closed")
        return self._ring


class MpmcRing(Closable):
    """Bounded queue of records: any number of producer and consumer threads of one process.

    ``capacity`` counts records and is a power of two; each has room for ``record_max`` bytes.  What
    one thread pushes is popped in the order of its pushes.

    Raises:
        UsageError: a number is out of bounds (see ``hm_mpmc.h``).
    """

    __slots__ = ("_local", "_ring", "capacity", "record_max")

    def __init__(self, capacity: int, *, record_max: int) -> None:
        handle = _made(lib.hm_mpmc_new, _bounded(capacity), _bounded(record_max))
        self._ring: Any = ffi.gc(handle, lib.hm_mpmc_free)
        self._local = threading.local()
        self.capacity = capacity
        """Records."""
        self.record_max = record_max
        """Bytes."""

    def __len__(self) -> int:
        """Records in the queue, as of some moment of the call."""
        return int(lib.hm_mpmc_used(self._open()))

    def push(self, data: Bytes) -> bool:
        """Copy ``data`` in as one record; False if there is no room now.

        Raises:
            MessageTooLarge: it is over :attr:`record_max`.
        """
        if type(data) is not bytes:
            with ffi.from_buffer(data) as source:
                return self._push(source)
        return self._push(data)

    def _push(self, source: Any) -> bool:
        if len(source) > self.record_max:
            _too_large(len(source), self.record_max)
        result = lib.hm_mpmc_push(self._ring or self._open(), source, len(source))
        return result == 0 or _refused(result)

    def push_many(self, records: Sequence[bytes]) -> int:
        """Push ``records`` one after another as far as there is room; returns how many.

        Records of other producers may stand between them.

        Raises:
            MessageTooLarge: one is over :attr:`record_max`; none was pushed.
        """
        joined, lengths = _joined(records)
        largest = max(map(len, records), default=0)
        if largest > self.record_max:
            _too_large(largest, self.record_max)
        done: int = lib.hm_mpmc_push_many(self._open(), joined, len(joined), lengths, len(records))
        return 0 if done == -lib.HM_EFULL else _checked(done)

    def pop(self) -> bytes | None:
        """Take the oldest record; None if there is none."""
        records = self.drain(1)
        return records[0] if records else None

    def drain(self, limit: int = BATCH) -> list[bytes]:
        """Take up to ``limit`` (at most 256) records with one call into the core."""
        ring = self._ring or self._open()
        try:
            out, view, lengths = self._local.scratch
        except AttributeError:
            out, view, lengths = self._local.scratch = self._scratch()
        count = lib.hm_mpmc_pop_many(ring, out, len(out), lengths, min(limit, BATCH))
        if count <= 0:
            return [] if count in (0, -lib.HM_EEMPTY) else _fail(count)
        ends = [0]
        for length in lengths[0:count]:
            ends.append(ends[-1] + length)
        return [bytes(view[start:end]) for start, end in pairwise(ends)]

    def _scratch(self) -> tuple[Any, memoryview, Any]:
        """Memory that one thread pops into: four of the largest records, or a page of small ones."""
        out = ffi.new("uint8_t[]", max(4 * self.record_max, 4096))
        return out, memoryview(ffi.buffer(out)), ffi.new("uint32_t[]", BATCH)

    def close(self) -> None:
        """Let go of the queue; a call under way in another thread ends first.  Idempotent."""
        self._ring = None

    def _open(self) -> Any:
        if self._ring is None:
            raise Closed("the ring was closed")
        return self._ring


def _bounded(number: int) -> int:
    """``number``, or one that every constructor refuses if C could not even be told of it."""
    return number if 0 <= number < 1 << 32 else (1 << 32) - 1


def _made(construct: Any, *arguments: int) -> Any:
    handle = ffi.new("void **")
    out = ffi.cast(ffi.typeof(construct).args[-1], handle)
    result = construct(*arguments, out)
    if result != 0:
        _fail(result)
    return out[0]


def _joined(records: Sequence[bytes]) -> tuple[bytes, Any]:
    return b"".join(records), ffi.new("uint32_t[]", [*map(len, records)] or 1)


def _checked(result: int) -> int:
    return result if result >= 0 else _fail(result)


def _refused(result: int) -> bool:
    """False for "full"; raises for everything else."""
    if result != -lib.HM_EFULL:
        _fail(result)
    return False


def _too_large(size: int, size_max: int) -> NoReturn:
    raise MessageTooLarge(f"a record of {size} bytes; this ring takes 0 to {size_max}")


def _fail(result: int) -> NoReturn:
    text = ffi.string(lib.hm_error_text(result)).decode()
    if result == -lib.HM_EINVAL:
        raise UsageError(
            f"{text}: sizes and capacities have bounds, and a capacity is a power of two"
        )
    if result in (-lib.HM_ETRUNC, -lib.HM_EMAGIC, -lib.HM_EVERSION, -lib.HM_ELENGTH):
        raise MalformedInput(f"shared memory of a ring: {text}")
    if result == -lib.HM_ENOSPACE:
        raise StorageFull(f"no room for the ring's file: {text}")
    raise SystemFault(f"ring: {text}")
