"""The loops that are timed, with a system that delivers what it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hermes.bench.parts import STAMP, hear, receive


class Told:
    """A subscriber who gets these numbers, one a call; then nothing comes any more."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._left = list(numbers)

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message."""
        return STAMP.pack(0, self._left.pop(0)) if self._left else None

    def drain(self, timeout_s: float) -> int:
        """One, if there is one."""
        return 0 if self.receive(timeout_s) is None else 1

    def close(self) -> None:
        """Nothing."""


def task(messages: int, extra_s: float = 0.0) -> dict[str, Any]:
    """A pass of so many messages."""
    return {"messages": messages, "idle_s": 1.0, "extra_s": extra_s, "first": 0}


def test_a_message_that_comes_again_behind_the_last_is_a_duplicate() -> None:
    """Where duplicates are looked for, one counts that comes when everything is there."""
    found = hear(Told([0, 1, 2, 1]), {}, task(3, extra_s=0.1))

    assert (found["delivered"], found["duplicates"], found["disordered"]) == (3, 1, 0)
    assert receive(Told([0, 1, 2, 1]), {}, task(3, extra_s=0.1))["delivered"] == 4


@pytest.mark.parametrize("part", [hear, receive])
def test_a_pass_ends_with_its_last_message(part: Any) -> None:
    """Where duplicates are not looked for, a message behind the last is left for the next pass."""
    subscriber = Told([0, 1, 2])

    assert part(subscriber, {}, task(2))["delivered"] == 2
    assert subscriber.drain(0.0) == 1


def test_order_and_repetition_are_counted() -> None:
    """A message that another one overtook is disordered, one that comes twice is a duplicate."""
    found = hear(Told([1, 0, 1, 3]), {}, task(4))

    assert (found["delivered"], found["duplicates"], found["disordered"]) == (3, 1, 1)
