"""A log in memory that is the newest part of a stream whose store has all of it.

Knows no store: its owner hands over what :meth:`Window.runs` says, tells what has been stored, and
brings back older frames when a cursor asks for them.  ``hm_log.h`` is the contract in full.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from hermes.native._core import ffi, lib
from hermes.native._errors import check
from hermes.native.log import PUBLISHER_BYTES, Log, LogReport, _options

RUNS_AT_ONCE = 1024
_RUN = struct.Struct("=16s8Q")
_NOBODY = bytes(PUBLISHER_BYTES)


class Stretch(NamedTuple):
    """Consecutive messages of one publisher, appended within one tick of the index."""

    publisher: bytes | None
    """None: nobody in particular."""
    publisher_first: int
    first_sequence: int
    position: int
    time_ns: int
    messages: int
    frames: memoryview
    """Log memory; valid for as long as anything refers to it."""


class Window(Log):
    """See :class:`hermes.native.Log`; made by :meth:`begin`."""

    @classmethod
    def begin(
        cls,
        *,
        first_sequence: int,
        start_position: int,
        next_sequence: int,
        end_position: int,
        retention_bytes: int,
        unstored_max: int,
        segment_bytes: int,
        message_max: int,
    ) -> Window:
        """An empty window behind a store with these bounds.

        ``unstored_max``: bytes the store may be behind before appends are refused.

        Raises:
            UsageError: an option or a bound is impossible.
            MemoryError: there is none.
        """
        options = _options(segment_bytes, retention_bytes, 0, 0, message_max, 1)
        log = ffi.new("hm_log **")
        code = lib.hm_log_open_window(
            options, first_sequence, start_position, next_sequence, end_position, unstored_max, log
        )
        check(code, "making a window in memory")
        return cls(log[0], LogReport(), "memory", options)

    def __init__(self, handle: Any, report: LogReport, name: str, options: Any) -> None:
        """For :meth:`begin`."""
        super().__init__(handle, report, name, options)
        self._runs = ffi.new("hm_log_run[]", RUNS_AT_ONCE)

    def runs(self, position: int) -> list[Stretch]:
        """Runs appended from ``position`` on, oldest first: at most :data:`RUNS_AT_ONCE`."""
        count = lib.hm_log_runs(self.handle, position, self._runs, RUNS_AT_ONCE)
        data = ffi.buffer(self._runs, count * _RUN.size)
        return [
            Stretch(
                None if publisher == _NOBODY else publisher,
                publisher_first,
                first_sequence,
                at,
                time_ns,
                messages,
                self.view(segment, offset, size),
            )
            for (
                publisher,
                publisher_first,
                first_sequence,
                at,
                size,
                time_ns,
                segment,
                offset,
                messages,
            ) in _RUN.iter_unpack(data)
        ]

    def store_begins(self, sequence: int, position: int) -> None:
        """The store has forgotten what stands before."""
        lib.hm_log_store_begins(self.handle, sequence, position)

    def refuse(self, error: int) -> None:
        """Refuse appends with a ``-HM_E*``; 0: no more."""
        lib.hm_log_refuse(self.handle, error)

    def remember(self, publisher: bytes, last: int) -> None:
        """The store knows ``publisher`` up to ``last``."""
        check(lib.hm_log_remember(self.handle, publisher, last), "remembering a publisher")

    def fill(self, position: int, sequence: int, frames: memoryview) -> int:
        """Bring what stands at ``position``; returns how many bytes of it are sound and were
        taken."""
        self._views.pop(sequence, None)  # of another stretch by that name
        with ffi.from_buffer("uint8_t[]", frames) as data:
            code = lib.hm_log_fill(self.handle, position, sequence, data, len(data))
        return check(code, "bringing frames back into memory")

    def fill_hole(self, position: int, sequence: int, end: int, next_sequence: int) -> None:
        """Mark what stands there as unreadable.

        Raises:
            UsageError: it has no extent.
        """
        self._views.pop(sequence, None)
        code = lib.hm_log_fill_hole(self.handle, position, sequence, end, next_sequence)
        check(code, "noting a gap")


NO_SPACE: int = -lib.HM_ENOSPACE
IO_ERROR: int = -lib.HM_EIO
GONE: int = lib.HM_EGONE
DAMAGED: int = lib.HM_EDAMAGED
