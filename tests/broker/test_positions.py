"""Durable positions: what is stored, when it is told, and what it costs the loop."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest

from hermes.broker import checked
from hermes.broker import positions as module
from hermes.broker.owners import durable_key
from hermes.broker.positions import STATE, Positions
from hermes.errors import HermesError, StorageDamaged, StorageFailed, StorageFull
from hermes.spi.storage import Storage

DEADLINE_S = 60.0


class Shelf:
    """A storage that keeps states in memory, and fails when it is told to."""

    url = "shelf:"

    def __init__(self) -> None:
        self.states: dict[str, bytes] = {}
        self.problem: Exception | None = None

    def load_state(self, name: str) -> bytes | None:
        return self.states.get(name)

    def save_state(self, name: str, state: bytes) -> None:
        if self.problem is not None:
            raise self.problem
        self.states[name] = state


class Loop:
    """Calls what it is asked to when the test says so."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.answers: list[HermesError | None] = []

    def until(self, answers: int) -> None:
        """Run until so many commits are answered."""
        while len(self.answers) < answers:
            self.calls.get(timeout=DEADLINE_S)()


@pytest.fixture
def shelf() -> Shelf:
    """An empty one."""
    return Shelf()


@pytest.fixture
def loop() -> Loop:
    """One that has nothing to do."""
    return Loop()


@pytest.fixture
def positions(shelf: Any, loop: Loop) -> Iterator[Positions]:
    """Positions on the shelf."""
    made = Positions(shelf, loop.calls.put, names_max=100_000)
    yield made
    shelf.problem = None
    made.close()


def stored(shelf: Shelf) -> Any:
    """The positions on the shelf."""
    state = checked.load(cast(Storage, shelf), STATE, "the durable positions")
    assert state is not None
    return msgspec.msgpack.decode(state.payload)


def test_what_is_stored_is_what_was_committed(
    positions: Positions, shelf: Shelf, loop: Loop
) -> None:
    """Any number of names, committed one after another, are stored as one map, and come back."""
    expected = {}
    for number in range(1000):
        name = f"name {number % 700}"
        expected[name] = {**expected.get(name, {}), f"stream {number % 3}": number}
        positions.commit(name, {f"stream {number % 3}": number}, loop.answers.append)
    loop.until(1000)
    again: Any = shelf
    other = Positions(again, loop.calls.put, names_max=1)

    assert set(loop.answers) == {None}
    assert stored(shelf) == expected
    assert {name: other.get(name) for name in expected} == expected
    assert len(other) == 700


def test_a_forgotten_name_is_not_stored(positions: Positions, shelf: Shelf, loop: Loop) -> None:
    """A forgotten name is gone from the storage when that is told, and can be committed again."""
    positions.commit("job", {"a": 5}, loop.answers.append)
    positions.commit("other", {"a": 6}, loop.answers.append)
    assert positions.forget("job", loop.answers.append)
    assert not positions.forget("job", loop.answers.append)
    loop.until(3)
    forgotten = stored(shelf)
    positions.commit("job", {"a": 1}, loop.answers.append)
    loop.until(4)

    assert forgotten == {"other": {"a": 6}}
    assert stored(shelf) == {"job": {"a": 1}, "other": {"a": 6}}


def test_what_could_not_be_forgotten_can_be_again(
    positions: Positions, shelf: Shelf, loop: Loop
) -> None:
    """A name that a failing storage has kept is forgotten when that is asked again, and answered as
    the first time; afterwards there is nothing."""
    positions.commit("job", {"a": 5}, loop.answers.append)
    loop.until(1)
    shelf.problem = StorageFull("no room")
    assert positions.forget("job", loop.answers.append)
    loop.until(2)
    shelf.problem = None

    assert positions.forget("job", loop.answers.append)
    loop.until(3)

    assert [type(answer) for answer in loop.answers] == [type(None), StorageFull, type(None)]
    assert stored(shelf) == {}
    assert not positions.forget("job", loop.answers.append)


@pytest.mark.parametrize("told", [True, False], ids=["told", "under-way"])
def test_what_could_not_be_written_is_written_at_the_end(
    positions: Positions, shelf: Shelf, loop: Loop, told: bool
) -> None:
    """Closing has another try at what a write failed to store, whether or not the loop has heard of
    it."""
    positions.commit("job", {"a": 5}, loop.answers.append)
    positions.commit("other", {"a": 1}, loop.answers.append)
    loop.until(2)
    shelf.problem = StorageFull("no room")
    positions.forget("job", loop.answers.append)
    answered = loop.calls.get(timeout=DEADLINE_S)
    if told:
        answered()
    shelf.problem = None

    positions.close()

    assert stored(shelf) == {"other": {"a": 1}}


def test_a_name_does_not_go_back(positions: Positions, shelf: Shelf, loop: Loop) -> None:
    """A smaller position of a stream leaves the greater one."""
    positions.commit("job", {"a": 5, "b": 1}, loop.answers.append)
    positions.commit("job", {"a": 3, "b": 2}, loop.answers.append)
    loop.until(2)

    assert stored(shelf) == {"job": {"a": 5, "b": 2}}


@pytest.mark.parametrize(
    ("problem", "told"),
    [(StorageFull("no room"), StorageFull), (OSError(28, "No space left"), StorageFailed)],
)
def test_whatever_a_storage_raises_is_told(
    positions: Positions,
    shelf: Shelf,
    loop: Loop,
    problem: Exception,
    told: type[HermesError],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A commit that a storage, or a bug in it, prevents is answered; the next has another try."""
    shelf.problem = problem
    positions.commit("job", {"a": 1}, loop.answers.append)
    loop.until(1)
    shelf.problem = None
    positions.commit("other", {"a": 1}, loop.answers.append)
    loop.until(2)

    assert type(loop.answers[0]) is told
    assert loop.answers[1] is None
    assert stored(shelf) == {"job": {"a": 1}, "other": {"a": 1}}
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(logged) is not isinstance(problem, HermesError)


def test_a_commit_encodes_its_share(
    positions: Positions, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One commit has no more than a few percent of many kept names encoded, and none of
    them on the loop."""
    for number in range(10_000):
        positions.commit(f"name {number}", {"a": number}, loop.answers.append)
    loop.until(10_000)
    encoded: list[int] = []
    real = module._Image._entries

    def entries(image: Any, part: Any) -> Any:
        encoded.append(len(part))
        return real(image, part)

    monkeypatch.setattr(module._Image, "_entries", entries)

    positions.commit("name 5", {"a": 20_000}, loop.answers.append)
    loop.until(10_001)

    assert 0 < sum(encoded) < 500


def test_each_bit_of_the_stored_positions_is_checked(
    positions: Positions, shelf: Shelf, loop: Loop
) -> None:
    """Any flipped bit, and any byte too few or too many, is refused, with what to do."""
    positions.commit("billing", {"default": 300}, loop.answers.append)
    loop.until(1)
    sound = shelf.states[STATE]
    hurt = [
        sound[:byte] + bytes([sound[byte] ^ 1 << bit]) + sound[byte + 1 :]
        for byte in range(len(sound))
        for bit in range(8)
    ]

    for data in (*hurt, *(sound[:size] for size in range(len(sound))), sound + b"\0"):
        shelf.states[STATE] = data
        with pytest.raises(StorageDamaged, match="move the file of that name away"):
            Positions(cast(Storage, shelf), loop.calls.put, names_max=10)
    shelf.states[STATE] = sound


def test_positions_of_an_older_hermes_are_read(shelf: Shelf, loop: Loop) -> None:
    """Without a checksum they count for the client that committed them, and for nothing else."""
    shelf.states[STATE] = msgspec.msgpack.encode({"job": {"a": 5}})

    old = Positions(cast(Storage, shelf), loop.calls.put, names_max=10)

    assert old.get("job") == {"a": 5}
    assert old.farthest() == {}


def test_the_farthest_position_of_each_stream_is_known(
    positions: Positions, shelf: Shelf, loop: Loop
) -> None:
    """Over all names, also of a storage that is opened again."""
    positions.commit("one", {"a": 5, "b": 9}, loop.answers.append)
    positions.commit("two", {"a": 7}, loop.answers.append)
    loop.until(2)

    again = Positions(cast(Storage, shelf), loop.calls.put, names_max=10)

    assert positions.farthest() == again.farthest() == {"a": 7, "b": 9}


def test_a_position_beyond_its_stream_is_taken_back_and_named(
    positions: Positions, shelf: Shelf, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """The name goes on from the end of the stream, is named in a warning, and is told once."""
    positions.commit("ahead", {"a": 20, "b": 3}, loop.answers.append)
    positions.commit("level", {"a": 10}, loop.answers.append)
    loop.until(2)

    positions.rewind({"a": 10, "b": 5})

    assert positions.get("ahead") == {"a": 10, "b": 3}
    assert positions.get("level") == {"a": 10}
    assert positions.take_rewound("ahead") == {"a": 20}
    assert positions.take_rewound("ahead") == positions.take_rewound("level") == {}
    assert "ahead" in caplog.text
    assert "level" not in caplog.text
    loop.until(2)
    positions.close()
    assert stored(shelf) == {"ahead": {"a": 10, "b": 3}, "level": {"a": 10}}


def test_an_identity_leaves_others_their_names(shelf: Any, loop: Loop) -> None:
    """An identity may use no more names than it leaves: others always find some, names that it has
    stay usable, and what it gives back or has forgotten counts no more, also after a restart."""
    most = 64
    positions = Positions(shelf, loop.calls.put, names_max=most)

    def take(owner: str | None) -> list[str]:
        taken = []
        while positions.has_room(key := durable_key(owner, f"name {len(taken)}")):
            positions.reserve(key)
            if len(taken) % 2:
                positions.commit(key, {"default": 1}, loop.answers.append)
            taken.append(key)
        return taken

    mallory, bob = take("mallory"), take("bob")
    assert (len(mallory), len(bob)) == (most // 2 + 1, most // 4)
    assert all(map(positions.has_room, mallory))
    for key in mallory[::2]:
        positions.release(key)
    assert positions.forget(mallory[1], loop.answers.append)
    assert positions.has_room(durable_key("mallory", "another"))
    positions.close()

    positions = Positions(shelf, loop.calls.put, names_max=len(mallory) - 1)
    assert not positions.has_room(durable_key("mallory", "another"))
    assert positions.has_room(durable_key("carol", "first"))
    left = len(mallory) - 1 - len(positions)
    assert len(take(None)) == left
    assert not positions.has_room(durable_key("carol", "first"))
    positions.close()
