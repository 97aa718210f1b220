"""Durable positions: how far each named subscription has come, kept in the storage.

Commits are collected and written by a helper thread, many at a time: the loop never waits for a
disk, nor for the names that have not changed to be encoded.  Knows no connection; who committed is
told through a callback, on the loop's thread.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import SimpleQueue

import msgspec

from hermes.base.rlimits import start_thread
from hermes.broker import checked
from hermes.broker.owners import durable_name
from hermes.errors import HermesError, StorageFailed
from hermes.spi.storage import Storage

LOG = logging.getLogger("hermes.broker")

STATE = "positions"
"""Under this name the storage keeps them."""
NAMES_SHOWN = 8
"""Durable names that a warning lists."""
PARTS = 256
"""Parts of the encoded state: of 65,536 names, a commit has 256 encoded again."""

Done = Callable[[HermesError | None], None]
_Names = dict[str, dict[str, int]]
_Changes = dict[str, dict[str, int] | None]
"""None: the name is forgotten."""


class Positions:
    """Name to stream to sequence.  Loop thread only, but for the writing itself."""

    def __init__(
        self, storage: Storage, call: Callable[[Callable[[], None]], None], *, names_max: int
    ) -> None:
        self._storage = storage
        self._call = call
        self._names_max = names_max
        self._checked = True  # what was loaded had a checksum
        self._rewound: _Names = {}
        self._changed: _Changes = {}
        self._stored = self._load()  # what is in it by stream is replaced, never changed
        self._reserved: set[str] = set()  # in use, and nothing committed yet
        self._owned = Counter(durable_name(key).owner for key in self._stored)  # those and these
        self._waiting: list[Done] = []
        self._writing = False
        self._dirty = False  # the last write failed: the storage has less than we do, or more
        self._thread: threading.Thread | None = None
        self._tasks: SimpleQueue[tuple[_Changes, list[Done]] | None] = SimpleQueue()
        self._image = _Image(self._stored)  # the writer's, while it writes
        self.saves = 0
        """Writes finished."""

    def get(self, name: str) -> dict[str, int] | None:
        """Positions that ``name`` has committed, stream by stream; None if there are none."""
        return self._stored.get(name)

    def farthest(self) -> dict[str, int]:
        """Stream name to the last sequence that any name has committed: it was delivered.  Empty if what
        was loaded had no checksum: then it may be anything."""
        return farthest(self._stored) if self._checked else {}

    def rewind(self, last: Mapping[str, int]) -> None:
        """Take back every position beyond ``last``, the last sequence of each stream, and warn of it."""
        for name, positions in self._stored.items():
            rewound = {of: at for of, at in positions.items() if at > last.get(of, at)}
            if rewound:
                self._rewound[name] = rewound
        for name, rewound in self._rewound.items():
            ends = {stream: last[stream] for stream in rewound}
            self._stored[name] = self._changed[name] = {**self._stored[name], **ends}
        if self._rewound:
            warn_rewound(self._rewound)
            self._store(lambda _problem: None)

    def take_rewound(self, name: str) -> dict[str, int]:
        """Stream name to the position that ``name`` had committed beyond the end of the stream when the
        broker started; each is returned once."""
        return self._rewound.pop(name, {})

    def __len__(self) -> int:
        """How many names have committed something."""
        return len(self._stored)

    def has_room(self, name: str) -> bool:
        """Whether ``name`` may be used: it has committed something, or may still.

        An identity has no more names than are left for others: one that uses up its own share takes
        none from them.
        """
        if name in self._stored or name in self._reserved:
            return True
        left = self._names_max - len(self._stored) - len(self._reserved)
        owner = durable_name(name).owner
        return left > 0 and (owner is None or self._owned[owner] <= left)

    def reserve(self, name: str) -> None:
        """``name`` is in use: keep a place for what it commits."""
        if name not in self._stored and name not in self._reserved:
            self._reserved.add(name)
            self._owned[durable_name(name).owner] += 1

    def release(self, name: str) -> None:
        """``name`` is in use no more."""
        if name in self._reserved:
            self._reserved.remove(name)
            self._disown(name)

    def _disown(self, name: str) -> None:
        owner = durable_name(name).owner
        self._owned[owner] -= 1
        if not self._owned[owner]:
            del self._owned[owner]

    def commit(self, name: str, positions: dict[str, int], done: Done) -> None:
        """Remember ``positions``; ``done`` is called when they are stored, or with what prevented
        it.

        Positions only move forwards: what is committed late, of an older connection, does not
        rewind a name.
        """
        held = self._stored.get(name, {})
        later = {of: max(sequence, held.get(of, 0)) for of, sequence in positions.items()}
        if name in self._reserved:
            self._reserved.remove(name)
        elif name not in self._stored:
            self._owned[durable_name(name).owner] += 1
        self._stored[name] = self._changed[name] = {**held, **later}
        self._store(done)

    def names(self) -> list[str]:
        """Every name that has committed something, in no order: sorting all takes longer than others
        should wait."""
        return list(self._stored)

    def forget(self, name: str, done: Done) -> bool:
        """Have nothing of ``name``; ``done`` as for :meth:`commit`.  False: there is nothing.

        After a write that failed the storage may still have what we do not: it is stored again.
        """
        if name in self._stored:
            del self._stored[name]
            self._disown(name)
            self._changed[name] = None
        elif not self._dirty:
            return False
        self._store(done)
        return True

    def close(self) -> None:
        """Wait for the write under way and write what is left, or what could not be written.  The
        callbacks that remain are not called."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()
            self._thread = None
        if self._waiting or self._dirty:
            self._waiting.clear()
            self._storage.save_state(STATE, self._image.changed(self._changed))
            self._dirty = False

    def _store(self, done: Done) -> None:
        self._waiting.append(done)
        if not self._writing:
            self._begin()

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="hermes-positions", daemon=True)
            start_thread(self._thread)
        self._writing = True
        self._tasks.put((self._changed, self._waiting))
        self._changed, self._waiting = {}, []

    def _work(self) -> None:
        """In the helper thread: write until there is no more to come."""
        while (task := self._tasks.get()) is not None:
            changed, covered = task
            problem = self._write(changed)
            self._dirty = problem is not None  # here: close() waits for this thread, not for calls
            self._call(partial(self._ended, covered, problem))

    def _write(self, changed: _Changes) -> HermesError | None:
        """Write changed positions; returns the error that prevented it."""
        try:
            self._storage.save_state(STATE, self._image.changed(changed))
        except HermesError as error:
            return error
        except Exception as error:  # a plugin's: whoever waits is to know
            LOG.exception("the storage failed to save the durable positions")
            return StorageFailed(
                f"the durable positions could not be stored ({type(error).__name__}: {error}): see "
                "the broker's log"
            )
        return None

    def _ended(self, covered: list[Done], problem: HermesError | None) -> None:
        self._writing = False
        self.saves += problem is None
        for done in covered:
            done(problem)
        if self._waiting and not self._writing:
            self._begin()

    def _load(self) -> _Names:
        state = checked.load(self._storage, STATE, "the durable positions")
        if state is None:
            return {}
        self._checked = state.checked
        try:
            return decode(state.payload)
        except msgspec.DecodeError as error:
            why = f"it is no map of positions: {error}"
            raise checked.damaged(self._storage.url, STATE, "the durable positions", why) from error


def decode(payload: bytes) -> _Names:
    """Every name's positions, as they are stored.

    Raises:
        msgspec.DecodeError: it is no map of positions.
    """
    return msgspec.msgpack.decode(payload, type=_Names)


def farthest(names: _Names) -> dict[str, int]:
    """Stream name to the last sequence that any of ``names`` has committed."""
    found: dict[str, int] = {}
    for positions in names.values():
        for stream, sequence in positions.items():
            found[stream] = max(sequence, found.get(stream, 0))
    return found


def warn_rewound(rewound: _Names) -> None:
    """Warn of durable names whose position lies beyond the end of its stream."""
    shown = ", ".join(sorted(rewound)[:NAMES_SHOWN])
    more = len(rewound) - NAMES_SHOWN
    LOG.warning(
        "%d durable names had committed messages that are lost now, because a stream ends before "
        "them: they go on from its end, and are told of a gap: %s%s",
        len(rewound),
        shown,
        f" and {more} more" if more > 0 else "",
    )


class _Image:
    """All positions as they are stored, one MessagePack map, in parts that are kept encoded: a save
    takes the interpreter, and with it the loop, for no longer than copying the whole takes."""

    def __init__(self, names: _Names) -> None:
        self._parts: list[_Names] = [{} for _ in range(PARTS)]
        self._encoded = [b""] * PARTS
        self._encode = msgspec.msgpack.Encoder().encode
        self._apply({**names})

    def changed(self, names: _Changes) -> bytes:
        """The whole, after a change."""
        self._apply(names)
        count = sum(map(len, self._parts))
        stored = b"".join([b"\xdf", count.to_bytes(4, "big"), *self._encoded])  # map 32
        return checked.sealed(stored)

    def _apply(self, names: _Changes) -> None:
        touched = set()
        for name, positions in names.items():
            number = hash(name) % PARTS
            if positions is None:
                self._parts[number].pop(name, None)
            else:
                self._parts[number][name] = positions
            touched.add(number)
        for number in touched:
            self._encoded[number] = b"".join(self._entries(self._parts[number]))

    def _entries(self, part: _Names) -> Iterable[bytes]:
        for name, positions in part.items():
            yield self._encode(name)
            yield self._encode(positions)
