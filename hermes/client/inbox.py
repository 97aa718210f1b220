"""Memory that a connection is read into: batches are views of where they arrived.

Views of a buffer, NumPy arrays included, keep it alive and unchanged: it is written to again only
when nothing refers to it any more, which CPython's reference count tells.  Knows no protocol.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any

from hermes.native.envelopes import address_of

BUFFER = 1 << 20
"""Bytes of a buffer: a few batches, and the second-level cache still holds it."""
SPARES_MAX = 16
"""Retired buffers kept for reuse; more are left to whoever still holds views of them."""
_LONE = [bytearray()]
_IN_LIST = getrefcount(_LONE[0])
"""What it says of something that only a list holds, asked like this."""


class Inbox:
    """The current buffer: what has arrived and is not taken stands in ``[start, end)``."""

    __slots__ = ("_idle", "_spares", "address", "buffer", "end", "looked", "start")

    def __init__(self) -> None:
        self._spares: list[bytearray] = []
        self.buffer = bytearray(BUFFER)
        """Where the connection is read into."""
        self.address: Any = None
        """Address of ``buffer``, a pointer of cffi."""
        self.start = self.end = self._idle = 0
        self.looked = 0
        """Bytes from ``start`` on that were looked at, and are not whole."""
        self._install()

    @property
    def room(self) -> int:
        """Bytes that may be read to ``address + end``."""
        return len(self.buffer) - self.end

    def arrived(self, size: int) -> None:
        """``size`` bytes were read."""
        self.end += size

    def make_room(self, needed: int) -> None:
        """See to it that ``needed`` bytes (more than are held) from ``start`` on find room."""
        start = self.start
        if start == self.end and start and getrefcount(self.buffer) == self._idle:
            self.start = self.end = 0
        elif needed > len(self.buffer) - start:
            self._move(self.end - start, max(BUFFER, needed))

    def _move(self, held: int, size: int) -> None:
        """What is held goes to the start of this buffer, if nobody looks at it, or of another."""
        start = self.start
        if size <= len(self.buffer) and getrefcount(self.buffer) == self._idle:
            self.buffer[:held] = self.buffer[start : start + held]
        else:
            with memoryview(self.buffer)[start : start + held] as rest:
                fresh = self._take(size)
                fresh[:held] = rest
            self._retire()
            self.buffer = fresh
            del fresh  # so that it is not counted
            self._install()
        self.start, self.end = 0, held

    def _install(self) -> None:
        """Count the references that a buffer has when nobody looks at it."""
        self.address = address_of(self.buffer)
        self.start = self.end = 0
        self._idle = getrefcount(self.buffer)

    def _retire(self) -> None:
        if len(self.buffer) == BUFFER and len(self._spares) < SPARES_MAX:
            self._spares.append(self.buffer)
        self.address = None

    def _take(self, size: int) -> bytearray:
        if size <= BUFFER:
            spares = self._spares
            for i in range(len(spares)):
                if getrefcount(spares[i]) == _IN_LIST:
                    return spares.pop(i)
        return bytearray(max(size, BUFFER))
