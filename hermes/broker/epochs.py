"""The epochs of a stream: which life of its log a sequence is of.

An epoch begins whenever a log is opened.  The history of a stream says at which sequence each of its
epochs began, so that a position of an earlier epoch can be judged: up to where the next epoch began
the two have the same messages; behind that the log went back, and other messages have these sequences.

An epoch is a number of 63 bits: the time at which it began, in units of 2^20 ns (1.05 ms), above 20
random bits that stay the same as long as the history is kept.  So the epochs of a log ascend, also
past one that was begun by a copy of it, and those of another log are told apart.

Knows neither positions nor subscriptions.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Protocol, cast

import msgspec

from hermes.broker import checked
from hermes.errors import StorageDamaged, StorageFailed, StorageFull
from hermes.spi.storage import Storage

LOG = logging.getLogger("hermes.broker")

STATE = "epochs"
"""Under this name the storage keeps them."""
TAG_BITS = 20
STEP = 1 << TAG_BITS
"""Nanoseconds between two epochs of a log at least."""
HISTORY_MAX = 1024
"""Epochs remembered per stream: 18 KiB.  Without the oldest, positions of theirs count as those of the
first that is remembered."""

_History = list[tuple[int, int]]


class Epochs:
    """One stream's history of (epoch, sequence of its first message), ascending; the last is the
    current one."""

    def __init__(self, history: Iterable[tuple[int, int]] = ()) -> None:
        self._history: _History = list(history)

    @property
    def current(self) -> int:
        """The epoch of what is delivered now; 0 before :meth:`begin`."""
        return self._history[-1][0] if self._history else 0

    @property
    def history(self) -> _History:
        """A copy."""
        return list(self._history)

    def begin(self, next_sequence: int, now_ns: int) -> None:
        """Begin an epoch whose first message will have ``next_sequence``.

        Epochs that began there or later have no message in this log any more.
        """
        before = self.current
        tag = before % STEP if before else secrets.randbelow(STEP)
        epoch = now_ns // STEP * STEP + tag
        if epoch <= before:
            epoch = before + STEP  # the clock went back
        kept = [one for one in self._history if one[1] < next_sequence]
        self._history = [*kept, (epoch, next_sequence)][-HISTORY_MAX:]

    def common(self, sequence: int, epoch: int) -> int:
        """The last sequence up to ``sequence`` at which this log has what it had in ``epoch``; 0: it has
        nothing in common.  Without an epoch (0), or in the current one, that is ``sequence``."""
        if epoch in (0, self.current):
            return sequence
        if (epoch - self.current) % STEP:
            return 0  # another log
        later = [first for known, first in self._history if known > epoch]
        return min(sequence, later[0] - 1) if later else 0


class StateBeside(Protocol):
    """A storage that keeps state in the place of a stream, so that both are copied together."""

    def load_stream_state(self, stream: str, name: str) -> bytes | None: ...

    def save_stream_state(self, stream: str, name: str, state: bytes) -> None: ...


class EpochStore:
    """Keeps the epochs of all streams of a storage: beside each stream if the storage can, else in one
    state of its own."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        beside = hasattr(storage, "load_stream_state") and hasattr(storage, "save_stream_state")
        self._beside = cast(StateBeside, storage) if beside else None

    def begin(self, next_sequences: dict[str, int], now_ns: int) -> dict[str, Epochs]:
        """Begin an epoch in every stream; returns them by the stream's name.

        A record that cannot be read begins again, with a warning: positions of programs are then taken for those
        of another log.  What cannot be stored is not missed: the epoch after it ends it.
        """
        found = self._load(list(next_sequences))
        begun = {}
        for stream, next_sequence in next_sequences.items():
            begun[stream] = Epochs(found.get(stream, ()))
            begun[stream].begin(next_sequence, now_ns)
        try:
            self._save({**found, **{stream: one.history for stream, one in begun.items()}})
        except (StorageFailed, StorageFull) as error:
            LOG.warning("the epochs of the streams could not be stored: %s", error)
        return begun

    def _load(self, streams: list[str]) -> dict[str, _History]:
        beside = self._beside
        if beside is None:
            return decode(self._storage.url, self._storage.load_state(STATE))
        found = {}
        for stream in streams:
            place = f"stream {stream!r} of {self._storage.url}"
            found.update(decode(place, beside.load_stream_state(stream, STATE)))
        return {stream: found[stream] for stream in streams if stream in found}

    def _save(self, histories: dict[str, _History]) -> None:
        if self._beside is None:
            self._storage.save_state(STATE, encode(histories))
            return
        for stream, history in histories.items():
            self._beside.save_stream_state(stream, STATE, encode({stream: history}))


def encode(histories: dict[str, _History]) -> bytes:
    """Histories by stream, as they are stored."""
    return checked.sealed(msgspec.msgpack.encode(histories))


def decode(place: str, data: bytes | None) -> dict[str, _History]:
    """Histories by stream, as they were stored at ``place``; nothing, with a warning, if they are
    damaged."""
    if data is None:
        return {}
    try:
        payload = checked.opened(data, place, STATE, "the epochs").payload
        found: dict[str, Any] = msgspec.msgpack.decode(payload, type=dict[str, _History])
    except (StorageDamaged, msgspec.DecodeError) as error:
        LOG.warning(
            "%s: the epochs are damaged (%s) and begin anew: programs that go on from positions of "
            "their own are told of a gap, and get again what the streams hold",
            place,
            error,
        )
        return {}
    return {stream: history for stream, history in found.items() if is_ascending(history)}


def is_ascending(history: _History) -> bool:
    """Whether both epochs and sequences ascend."""
    return all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(history))
