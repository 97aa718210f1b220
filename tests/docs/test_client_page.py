"""docs/client.md does what it says: its blocks run, in order, and its tables are those of the code."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hermes

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
DEADLINE_S = 60


def test_the_blocks_run_in_order() -> None:
    """One program of all blocks ends without an error or a warning."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    with hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker:
        program = "\n".join(blocks).replace("tcp://127.0.0.1:7601", broker.url)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    assert len(blocks) >= 10
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_arguments_of_connect_are_documented() -> None:
    """Each has a row, or stands in the text before it."""
    section = PAGE.partition("## Connect")[2].partition("\n## ")[0]

    for name in inspect.signature(hermes.connect).parameters:
        assert name == "url" or f"`{name}`" in section, name
