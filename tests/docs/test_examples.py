"""The programs in examples/ run as they stand, and print the lines that they promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
INDEX = (EXAMPLES / "README.md").read_text()
DEADLINE_S = 60
LINES_MIN, LINES_MAX = 20, 60

PRINTED = {
    "durable_acks": r"kept: 1 2 3 4 5 6",
    "event_loop": r"worker: 20 prices, then nothing for 0\.5 s",
    "embedded": r"the other program says: hello",
    "market_data": r"missing: 1 to [1-9]\d+ \(retention\)",
    "numpy_batches": r"100000 ticks, mean price 150\.00",
    "pytest_use": r"2 passed in .*",
    "replay": r"from a position: 3 to 6",
    "sensors": r"display: plant\.hall1\.temperature = 21\.5",
    "two_transports": r"udp: 200 messages, median \d+ us",
    "workers": r"second worker: orders 4 to 6",
    "zeromq_programs": r"from the log: md\.AAPL 190\.5",
}
"""A line of each program's output."""

NEEDS = {"numpy_batches": "numpy", "zeromq_programs": "zmq"}


def run(program: Path, *arguments: str) -> list[str]:
    """The lines that a program prints; it must end with 0."""
    done = subprocess.run(
        [sys.executable, "-W", "error", program, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_program_prints_its_line(program: Path) -> None:
    """A program without arguments ends with 0, and prints the line that its docstring promises."""
    if program.stem in NEEDS:
        pytest.importorskip(NEEDS[program.stem])

    lines = run(program)

    assert any(re.fullmatch(PRINTED[program.stem], line) for line in lines), lines


def test_the_feed_and_its_gap_are_complete() -> None:
    """The missing ticks and those that were read are all ticks of the market data example."""
    missing, read = run(EXAMPLES / "market_data.py")

    last = int(re.findall(r"\d+", missing)[1])
    assert read == f"read {40_000 - last} ticks, up to 40000"


def test_a_flag_chooses_the_transport() -> None:
    """With `--transport`, two_transports.py uses that one alone."""
    lines = run(EXAMPLES / "two_transports.py", "--transport", "udp")

    assert [line.partition(":")[0] for line in lines] == ["udp"]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_a_program_is_short_and_explained(program: Path) -> None:
    """A program has 20 to 60 lines, a docstring, and imports nothing of Hermes but `hermes` or, for an
    event loop, `hermes.aio`."""
    text = program.read_text()
    tree = ast.parse(text)

    assert LINES_MIN <= len(text.splitlines()) <= LINES_MAX
    assert "rints" in (ast.get_docstring(tree) or "")
    modules = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    modules += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [name for name in modules if name.startswith("hermes")]
    assert ours in (["hermes"], ["hermes.aio"])


def test_the_index_lists_every_program() -> None:
    """examples/README.md has one line for each program, and nothing else."""
    listed = re.findall(r"^- \[(\w+\.py)\]\(\1\): \w", INDEX, re.M)

    assert sorted(listed) == [program.name for program in PROGRAMS]
    assert sorted(PRINTED) == [program.stem for program in PROGRAMS]
