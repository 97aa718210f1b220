"""docs/testing-plugins.md says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from hermes.intercept import EXAMPLES, Interception

PAGE = (Path(__file__).parents[2] / "docs" / "testing-plugins.md").read_text()


def test_the_table_of_faults_is_complete() -> None:
    """Every fault has a row, with the example that its error message shows and its default."""
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.+?) \|", PAGE, re.M)
    defaults = {
        field.name: "none" if field.default is None else f"`{field.default}`"
        for field in dataclasses.fields(Interception)
    }

    assert {name: example for name, example, _ in rows} == EXAMPLES
    assert {name: default for name, _, default in rows} == defaults
