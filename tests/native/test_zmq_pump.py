"""The C of the ZeroMQ plugin, with a libzmq of the test's own, under sanitizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.effort import effort

if TYPE_CHECKING:
    from tests.native.conftest import RunC

ROUNDS = effort(500, 1500)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, 2])
def test_messages_come_out_frame_for_frame(run_c: RunC, seed: int) -> None:
    """With any parts of a message, and wherever a send is refused, what comes out is what went in;
    no property block leads beyond its frame."""
    said = run_c("zmq_pump.c", str(ROUNDS), str(seed), sanitizer="address,undefined")

    assert said == f"{ROUNDS} rounds\n"
