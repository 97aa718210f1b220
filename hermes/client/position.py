"""Positions in a stream, as programs keep them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hermes.base import checks
from hermes.errors import UsageError
from hermes.wire.messages import SEQUENCE_MAX

TEXT = re.compile(r"(\d{1,19})(?:@([0-9a-f]{1,16}))?", re.ASCII)


class Position(int):
    """The sequence of the last message that was had in a stream, an int, and the epoch it is of.

    A stream's epoch ends when its log is opened again: where the log went back since (a power cut, an
    older copy), a subscription from such a position is told of a gap, instead of skipping the messages
    that have the lost sequences now.  Calculating gives plain ints, of which no epoch is known.
    Pickling and copying keep the epoch; for text and JSON there are :attr:`text` and :meth:`parse`.
    """

    epoch: int
    """Which life of the stream's log it is of; 0: not known."""

    def __new__(cls, sequence: int, epoch: int = 0) -> Position:
        """``sequence`` of ``epoch``.

        Raises:
            UsageError: one of them is no integer, or out of its bounds.
        """
        checks.integer(sequence, "sequence", most=SEQUENCE_MAX)
        self = super().__new__(cls, sequence)
        self.epoch = checks.integer(epoch, "epoch", most=SEQUENCE_MAX)
        return self

    @property
    def text(self) -> str:
        """``SEQUENCE@EPOCH``, the epoch in hexadecimal; without a known epoch ``SEQUENCE``."""
        return f"{int(self)}@{self.epoch:x}" if self.epoch else str(int(self))

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that :attr:`text` was made of.

        Raises:
            UsageError: it is none.
        """
        found = TEXT.fullmatch(text)
        if found is None:
            raise UsageError(f"{text!r} is no position: expected SEQUENCE or SEQUENCE@EPOCH")
        return cls(int(found[1]), int(found[2] or "0", 16))

    def __reduce__(self) -> tuple[type[Position], tuple[int, int]]:
        return type(self), (int(self), self.epoch)

    def __copy__(self) -> Position:
        return self

    def __deepcopy__(self, _memo: object) -> Position:
        return self


def epochs_of(positions: Mapping[str, int]) -> dict[str, int]:
    """Stream name to epoch, of the positions that have one."""
    return {
        stream: position.epoch
        for stream, position in positions.items()
        if isinstance(position, Position) and position.epoch
    }
