"""The C programs of the benchmarks can be compiled."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted((ROOT / "benchmarks").glob("*/*.c"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_is_valid(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler finds every header of it, and no error."""
    monkeypatch.syspath_prepend(ROOT)
    harness = importlib.import_module("benchmarks.system.harness")

    harness.compile_c(program, "-fsyntax-only", name=program.stem)
