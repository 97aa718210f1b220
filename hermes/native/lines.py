"""Lines of text to messages and back, a buffer at a time: what pipes need.  Knows no file and no
socket.
"""

from __future__ import annotations

from hermes.native._core import ffi, lib

LINES_MAX = 65_536
"""Lines one call of :meth:`LineSplitter.split` returns: bounds the table of lengths to 256 KiB."""
COUNT_MAX = 2**63 - 1
"""No bound on a count."""


class LineSplitter:
    """Splits a buffer at its newlines, in place.  One thread at a time."""

    def __init__(self, lines_max: int = LINES_MAX) -> None:
        if lines_max < 1:
            raise ValueError(f"lines_max must be at least 1, not {lines_max}")
        self._capacity = lines_max
        self._lengths = ffi.new("uint32_t[]", lines_max)
        self._view = memoryview(ffi.buffer(self._lengths)).cast("I")
        self._joined = ffi.new("uint64_t *")
        self._consumed = ffi.new("uint64_t *")

    def split(self, data: memoryview) -> tuple[memoryview, memoryview, int]:
        """Return (lines joined without newlines, their lengths, bytes of ``data`` consumed).

        ``data`` is writable and is overwritten: the joined lines stand at its start.  A line
        without a newline is left where it is, at ``data[consumed:]``.  What is returned is valid
        until the next call or until ``data`` changes.
        """
        with ffi.from_buffer("uint8_t[]", data, require_writable=True) as pointer:
            count = lib.hm_lines_split(
                pointer, len(data), self._lengths, self._capacity, self._joined, self._consumed
            )
        return data[: self._joined[0]], self._view[:count], self._consumed[0]


class LineJoiner:
    """Writes the payloads of frames as lines into a buffer of its own.  One thread at a time."""

    def __init__(self, capacity: int = 1 << 20) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1 byte, not {capacity}")
        self._resize(capacity)
        self._consumed = ffi.new("uint64_t *")
        self._written = ffi.new("uint64_t *")
        self._needed = ffi.new("uint64_t *")

    def _resize(self, capacity: int) -> None:
        self._capacity = capacity
        self._out = ffi.new("uint8_t[]", capacity)
        self._view = memoryview(ffi.buffer(self._out))

    def join(self, frames: memoryview, count_max: int = COUNT_MAX) -> tuple[memoryview, int, int]:
        """Return (payloads, each with a newline; how many; bytes of ``frames`` they took).

        ``frames`` holds whole, validated MESSAGE frames.  What does not fit is left for the next
        call, which begins at the bytes not yet taken; the buffer grows to hold at least one
        message.  The view is valid until the next call.
        """
        while True:
            with ffi.from_buffer("uint8_t[]", frames) as pointer:
                count = lib.hm_lines_join(
                    pointer,
                    len(frames),
                    count_max,
                    self._out,
                    self._capacity,
                    self._consumed,
                    self._written,
                    self._needed,
                )
            if count or not self._needed[0]:
                return self._view[: self._written[0]], count, self._consumed[0]
            self._resize(self._needed[0])
