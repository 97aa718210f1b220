"""Durable positions: how far each named subscription has come, kept in the storage.

Commits are collected and written by a helper thread, many at a time: the loop never waits for a
disk.  Knows no connection; who committed is told through a callback, on the loop's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from hermes.errors import HermesError, StorageDamaged
from hermes.storage import Storage

STATE = "positions"
"""Under this name the storage keeps them."""

Done = Callable[[HermesError | None], None]


class Positions:
    """Name to stream to sequence.  Loop thread only, but for the writing itself."""

    def __init__(
        self, storage: Storage, call: Callable[[Callable[[], None]], None], *, names_max: int
    ) -> None:
        self._storage = storage
        self._call = call
        self._names_max = names_max
        self._stored = self._load()
        self._waiting: list[Done] = []
        self._writing = False
        self._thread: threading.Thread | None = None
        self.saves = 0
        """Writes finished."""

    def get(self, name: str) -> dict[str, int] | None:
        """What ``name`` has committed, stream by stream; None if nothing."""
        return self._stored.get(name)

    def names(self) -> list[str]:
        """Every name that has committed something."""
        return sorted(self._stored)

    def has_room(self, name: str) -> bool:
        """Whether ``name`` may commit."""
        return name in self._stored or len(self._stored) < self._names_max

    def commit(self, name: str, positions: dict[str, int], done: Done) -> None:
        """Remember ``positions``; ``done`` is called when they are stored, or with what prevented
        it.

        Positions only move forwards: what is committed late, of an older connection, does not
        rewind a name.
        """
        held = self._stored.setdefault(name, {})
        for stream, sequence in positions.items():
            held[stream] = max(sequence, held.get(stream, 0))
        self._waiting.append(done)
        if not self._writing:
            self._begin()

    def close(self) -> None:
        """Wait for the write under way and write what is left.  The callbacks that remain are not
        called."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._waiting:
            self._waiting.clear()
            self._storage.save_state(STATE, msgspec.msgpack.encode(self._stored))

    def _begin(self) -> None:
        state = msgspec.msgpack.encode(self._stored)
        covered, self._waiting = self._waiting, []
        self._writing = True
        self._thread = threading.Thread(
            target=self._write, args=(state, covered), name="hermes-positions", daemon=True
        )
        self._thread.start()

    def _write(self, state: bytes, covered: list[Done]) -> None:
        problem: HermesError | None = None
        try:
            self._storage.save_state(STATE, state)
        except HermesError as error:
            problem = error
        self._call(lambda: self._ended(covered, problem))

    def _ended(self, covered: list[Done], problem: HermesError | None) -> None:
        self._writing = False
        self.saves += problem is None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for done in covered:
            done(problem)
        if self._waiting:
            self._begin()

    def _load(self) -> dict[str, dict[str, int]]:
        state = self._storage.load_state(STATE)
        if state is None:
            return {}
        try:
            return msgspec.msgpack.decode(state, type=dict[str, dict[str, int]])
        except msgspec.DecodeError as error:
            raise StorageDamaged(
                f"the durable positions in {self._storage.url} cannot be read ({error}): move the "
                "file of that name "
                f"away; subscriptions then begin as if they had committed nothing"
            ) from error
