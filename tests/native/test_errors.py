"""The core's error codes become exceptions that say what happened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hermes.native._core import lib

from hermes import errors
from hermes.native import _errors

HEADER = Path(__file__).parents[2] / "hermes" / "native" / "include" / "hm_error.h"
CODES = {
    name: int(code) for name, code in re.findall(r"^ +(HM_E\w+) = (\d+),", HEADER.read_text(), re.M)
}


@pytest.mark.parametrize("name", CODES)
def test_every_code_is_an_exception_of_its_own_kind(name: str) -> None:
    """No code falls through to the base class, and the message has context and sentence."""
    with pytest.raises((errors.HermesError, MemoryError)) as caught:
        _errors.fail(-CODES[name], "opening the log")

    assert type(caught.value) is not errors.HermesError
    assert str(caught.value) == f"opening the log: {_errors.text(CODES[name])}"
    assert "unknown" not in _errors.text(CODES[name])


def test_malformed_input_carries_code_and_offset() -> None:
    """A fault of foreign bytes has a name and a place."""
    with pytest.raises(errors.MalformedInput, match="at byte 96") as caught:
        _errors.fail(lib.HM_ECRC, "decoding frames", offset=96)

    assert (caught.value.code, caught.value.offset) == ("bad_checksum", 96)


def test_a_code_from_the_future_still_raises() -> None:
    """A code that this Python does not know is a HermesError, never a success."""
    with pytest.raises(errors.HermesError, match="unknown"):
        _errors.check(-9999, "doing something new")


@pytest.mark.parametrize("count", [0, 7])
def test_a_count_is_handed_through(count: int) -> None:
    """Zero and counts are no failures."""
    assert _errors.check(count, "counting") == count
