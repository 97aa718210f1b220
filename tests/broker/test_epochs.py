"""Epochs: which positions of an earlier life of a log are still true."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.broker.epochs import HISTORY_MAX, STATE, STEP, Epochs, EpochStore, decode, encode
from hermes.errors import StorageFull

NOW = 1_800_000_000 * 10**9
SECOND = 10**9


def begun(*firsts: int) -> Epochs:
    """Epochs that began at these sequences, a second apart."""
    epochs = Epochs()
    for number, first in enumerate(firsts):
        epochs.begin(first, NOW + number * SECOND)
    return epochs


class Shelf:
    """A storage that keeps named states in memory."""

    url = "shelf:"

    def __init__(self) -> None:
        self.states: dict[str, bytes] = {}
        self.full = False

    def load_state(self, name: str) -> bytes | None:
        return self.states.get(name)

    def save_state(self, name: str, state: bytes) -> None:
        if self.full:
            raise StorageFull("no room")
        self.states[name] = state


class ShelfPerStream(Shelf):
    """One that keeps states beside its streams."""

    def load_stream_state(self, stream: str, name: str) -> bytes | None:
        return self.states.get(f"{stream}/{name}")

    def save_stream_state(self, stream: str, name: str, state: bytes) -> None:
        if self.full:
            raise StorageFull("no room")
        self.states[f"{stream}/{name}"] = state


def store(shelf: Shelf) -> EpochStore:
    """A store that keeps epochs on the shelf."""
    return EpochStore(cast(Any, shelf))


def test_a_log_that_went_on_has_all_that_it_had() -> None:
    """A position of an earlier epoch is true up to where the next one began."""
    epochs = begun(1, 11, 41)
    first, second, current = (epoch for epoch, _ in epochs.history)

    assert [epochs.common(sequence, first) for sequence in (0, 5, 10, 11, 90)] == [0, 5, 10, 10, 10]
    assert [epochs.common(sequence, second) for sequence in (5, 40, 41)] == [5, 40, 40]
    assert epochs.common(90, current) == epochs.common(90, 0) == 90


def test_an_epoch_that_only_another_copy_had_is_placed_between_the_known_ones() -> None:
    """The copy that was put back has nothing of it, and all that was before it."""
    epochs = begun(1)
    lost = Epochs(epochs.history)
    lost.begin(11, NOW + 5 * SECOND)
    epochs.begin(11, NOW + 9 * SECOND)
    epochs.begin(31, NOW + 10 * SECOND)

    assert epochs.common(20, lost.current) == 10
    assert epochs.common(8, lost.current) == 8


def test_epochs_whose_messages_are_lost_are_forgotten() -> None:
    """The log ends before them: they have nothing here."""
    epochs = begun(1, 11)
    lost = epochs.current
    epochs.begin(6, NOW + 5 * SECOND)

    assert [first for _, first in epochs.history] == [1, 6]
    assert epochs.common(20, lost) == 5


def test_another_log_has_nothing_in_common() -> None:
    """Whenever it was begun."""
    epochs = begun(1, 11)

    for number in range(1, 20):
        assert epochs.common(9, epochs.current + number) == 0
        assert epochs.common(9, epochs.current - number) == 0


def test_a_later_epoch_that_is_not_known_has_nothing_in_common() -> None:
    """No common part can be told."""
    epochs = begun(1, 11)

    assert epochs.common(9, epochs.current + STEP) == 0


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(-(10**12), 10**12)), max_size=30))
def test_whatever_the_clock_does_epochs_ascend(openings: list[tuple[int, int]]) -> None:
    """And fit the protocol's integers."""
    epochs = Epochs()
    for first, offset in openings:
        before = epochs.current
        epochs.begin(first, NOW + offset)
        assert before < epochs.current < 2**63
    history = epochs.history

    assert history == sorted(history)
    assert len({first for _, first in history}) == len(history)


def test_the_history_is_bounded() -> None:
    """The oldest epochs are forgotten; their positions count as those of the first that is known."""
    epochs = begun(*range(1, HISTORY_MAX + 100))

    assert len(epochs.history) == HISTORY_MAX
    assert epochs.common(3, epochs.history[0][0] - STEP) == 3


@pytest.mark.parametrize("kind", [Shelf, ShelfPerStream])
def test_epochs_are_kept(kind: type[Shelf]) -> None:
    """For each stream its own, also of streams that are not opened now."""
    shelf = kind()
    first = store(shelf).begin({"a": 1, "b": 1}, NOW)
    store(shelf).begin({"a": 11}, NOW + SECOND)
    third = store(shelf).begin({"a": 21, "b": 5}, NOW + 2 * SECOND)

    assert [at for _, at in third["a"].history] == [1, 11, 21]
    assert [at for _, at in third["b"].history] == [1, 5]
    assert third["a"].common(30, first["a"].current) == 10
    assert third["b"].common(30, first["b"].current) == 4


@pytest.mark.parametrize("kind", [Shelf, ShelfPerStream])
def test_an_epoch_that_could_not_be_stored_is_ended_by_the_next(
    kind: type[Shelf], caplog: pytest.LogCaptureFixture
) -> None:
    """The start goes on with a warning; a position of it is judged all the same."""
    shelf = kind()
    store(shelf).begin({"a": 1}, NOW)
    shelf.full = True
    unstored = store(shelf).begin({"a": 11}, NOW + SECOND)
    shelf.full = False
    later = store(shelf).begin({"a": 21}, NOW + 2 * SECOND)

    assert "could not be stored" in caplog.text
    assert later["a"].common(30, unstored["a"].current) == 20


def test_each_bit_of_stored_epochs_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    """Any flipped bit and any cut is warned of, and nothing of it is believed."""
    sound = encode({"a": begun(1, 11).history})
    hurt = [
        sound[:byte] + bytes([sound[byte] ^ 1 << bit]) + sound[byte + 1 :]
        for byte in range(len(sound))
        for bit in range(8)
    ]
    caplog.set_level(logging.WARNING)

    for data in (*hurt, *(sound[:size] for size in range(len(sound)))):
        caplog.clear()
        assert decode("here", data) == {}
        assert "begin anew" in caplog.text
    assert list(decode("here", sound)) == ["a"]
    assert STATE == "epochs"
