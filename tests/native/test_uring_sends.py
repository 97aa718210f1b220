"""Sends that leave together: each reaches its socket once, whatever the ring is short of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.native.conftest import RunC


@pytest.mark.parametrize("seed", range(3, 10))
def test_the_scenario_under_sanitizers(run_c: RunC, seed: int) -> None:
    """Over a kernel that takes a part of what is submitted, does sends late, in part or never, and
    with queues of one entry and of many: every result is true, to the byte."""
    said = run_c("uring_sends.c", "1000", str(seed))

    assert "by the ring" in said
