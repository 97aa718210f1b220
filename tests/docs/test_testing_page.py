"""Tests that docs/testing.md shows, pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
DEADLINE_S = 240


def test_every_example_passes(tmp_path: Path) -> None:
    """Each example is a test module that passes as it stands, with and without the project's
    settings."""
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (ini,) = re.findall(r"```ini\n(.*?)```", PAGE, re.S)
    assert len(examples) >= 5
    for number, example in enumerate(examples):
        (tmp_path / f"test_{number}.py").write_text(example)
    (tmp_path / "pytest.ini").write_text(ini)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(text.count('def test_') for text in examples) + 1} passed" in done.stdout
