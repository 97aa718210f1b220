"""Positions as values that programs keep."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes import HermesError, Position, Start

SIXTY_THREE_BITS = st.integers(0, 2**63 - 1)


@given(sequence=SIXTY_THREE_BITS, epoch=SIXTY_THREE_BITS)
def test_a_position_survives_being_kept(sequence: int, epoch: int) -> None:
    """Pickled, copied, and as text, it has its sequence and its epoch."""
    position = Position(sequence, epoch)

    for again in (
        pickle.loads(pickle.dumps(position)),
        copy.copy(position),
        copy.deepcopy({"a": [position]})["a"][0],
        Position.parse(position.text),
        Position.parse(json.loads(json.dumps({"a": position.text}))["a"]),
    ):
        assert (type(again), again, again.epoch) == (Position, sequence, epoch)


def test_a_position_is_an_int() -> None:
    """A position compares, prints, hashes, counts and is encoded as its sequence."""
    position = Position(20, 7)

    assert position == 20
    assert {position: 1}[20] == 1
    assert f"{position} {position!r} {position:,}" == "20 20 20"
    assert json.dumps({"a": position}) == '{"a": 20}'
    assert type(position + 1) is int
    assert type(int(position)) is int


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1@", "@1", "1@g", "1@1@1", "1 ", "\u0661", "9" * 20]
)
def test_text_that_is_no_position_is_refused(text: str) -> None:
    """With an error of ours."""
    with pytest.raises(HermesError):
        Position.parse(text)


def test_text_without_an_epoch_is_a_position_without_one() -> None:
    """A sequence alone is what programs kept so far."""
    assert Position.parse("20").epoch == 0
    assert Position(20).text == "20"


def test_a_start_takes_epochs_out_of_positions() -> None:
    """The protocol's own form has them in a field of their own."""
    start = Start(at="positions", positions={"a": Position(20, 7), "b": 3})

    assert start.positions == {"a": 20, "b": 3}
    assert {type(value) for value in start.positions.values()} == {int}
    assert start.epochs == {"a": 7}
