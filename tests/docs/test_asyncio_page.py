"""docs/asyncio.md does what it says: its blocks run, in order, in one event loop."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hermes

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "asyncio.md").read_text()
DEADLINE_S = 60
RUNNER = """
import ast, asyncio, inspect, sys
code = compile(sys.stdin.read(), "asyncio.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
async def main():
    found = eval(code, {})
    if inspect.iscoroutine(found):
        await found
asyncio.run(main())
"""


def test_the_blocks_run_in_order() -> None:
    """One program of all blocks ends without an error or a warning, and prints what is promised."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    with hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker:
        program = "\n".join(blocks).replace("tcp://127.0.0.1:7601", broker.url)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", RUNNER],
            input=program,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    assert len(blocks) >= 5
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("[b'three']\n", "")
