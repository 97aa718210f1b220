"""A power loss: pages that no sync covered are kept or dropped at random, and durable means durable."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.native.conftest import RunC, Sanitizer

CALLS = ("openat", "renameat", "unlinkat", "fsync", "syncfs", "msync")
RENAMED = tuple(f"{call}=power_{call}" for call in CALLS)


@pytest.mark.parametrize("seed", [1, 2, None])
def test_durable_messages_survive_and_nothing_stale_comes_back(
    seed: int | None, run_c: RunC, tmp_path: Path
) -> None:
    """Over many lives, each ended by a power loss: synced messages are there, stale frames never are.

    The test was seen to fail with each of these left out of the core: the sync of the index, of the
    segment, of the sealed segments, of the directory; clipping the records behind a cut; removing
    leftover spares; the synced mark, or one that is written before its sync ends; cutting the frames
    of an empty segment before its names are used again, and the sync of that.
    """
    seed = random.randrange(1, 2**31) if seed is None else seed
    print(f"seed {seed}")
    sanitizer: Sanitizer = "address,undefined"

    said = run_c("log_power.c", tmp_path, str(seed), "150", sanitizer=sanitizer, defines=RENAMED)

    assert said.startswith("150 lives")


def test_helper_and_owner_do_not_race(run_c: RunC, tmp_path: Path) -> None:
    """The helper syncs, warms and recycles beside the owner without a data race."""
    said = run_c("log_power.c", tmp_path, "5", "30", sanitizer="thread", defines=RENAMED)

    assert said.startswith("30 lives")
