"""The error table, and what becomes of it at a client."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hermes import errors
from hermes.wire.errorcodes import ERROR_CODES, MALFORMED_CODES, REFUSAL_CODES, exception_for
from hermes.wire.messages import Error

WIRE = Path(__file__).parents[2] / "hermes" / "wire"


@pytest.mark.parametrize("code", ERROR_CODES)
def test_each_code_becomes_its_exception(code: str) -> None:
    """A client raises what the row says, with the broker's words and the code in the message."""
    error = exception_for(Error(code, "the reason"))

    assert type(error) is ERROR_CODES[code].raises
    assert "the reason" in str(error)
    assert code in str(error)
    if isinstance(error, errors.Refused | errors.MalformedInput):
        assert error.code == code


def test_an_unknown_code_is_a_refusal() -> None:
    """A code of a later version is raised as Refused, not swallowed."""
    error = exception_for(Error("moon_phase", ""))

    assert isinstance(error, errors.Refused)
    assert (error.code, str(error)) == ("moon_phase", "the broker said moon_phase")


def test_the_tables_name_defined_codes() -> None:
    """Every code that is sent by name, or for a number of the core, has a row."""
    sent = set(MALFORMED_CODES.values()) | set(REFUSAL_CODES.values())
    for source in ("server.py", "client.py"):
        text = (WIRE / source).read_text()
        sent |= set(re.findall(r'(?:_violated|_answer_error|error)\(\s*"(\w+)"', text))

    assert len(sent) > 20
    assert sent <= set(ERROR_CODES)


def test_only_lasting_refusals_end_a_subscription() -> None:
    """A code that ends a subscription leaves the connection alone."""
    assert not [c for c, row in ERROR_CODES.items() if row.ends_subscription and row.fatal]
