"""Frames: golden bytes, round trips, refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.native.conftest import RunC


def test_no_byte_beyond_a_buffer_is_touched(run_c: RunC) -> None:
    """Encode, check, index and stamp stay inside buffers that end where their allocation does."""
    said = run_c("frame_roundtrip.c", sanitizer="address,undefined")

    assert "table ok" in said
