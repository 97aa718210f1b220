"""docs/tutorial.md does what it says, from the first command to the last."""

from __future__ import annotations

import os
import re
import shlex
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import processes
from tests.serving import serving

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
DEADLINE_S = 60
SERVE = "hermes serve --storage mmap:./data"
CTRL_C = "Press Ctrl-C"


def steps() -> list[tuple[str, str, str]]:
    """The page's steps from its second section on, in order: files, and commands with output."""
    text = PAGE[PAGE.index("\n## 2.") :]
    return re.findall(rf"^```(python|console)\n(.*?)^```|({CTRL_C})", text, re.M | re.S)


def run(command: str, place: Path, url: str) -> str:
    """The output of a command that the page shows."""
    program, *arguments = shlex.split(command)
    words = [*(["-m", "hermes"] if program == "hermes" else []), *arguments]
    done = processes.run(
        *words,
        cwd=place,
        env=os.environ | {"HERMES_URL": url},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, command + done.stderr
    return str(done.stdout)


def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    """Every file is written and every command run, in order, and prints the lines on the page."""
    url, commands = "", []
    with ExitStack() as broker:
        for kind, block, stop in steps():
            if stop:
                broker.close()
            elif kind == "python":
                name = re.match(r"# (\w+\.py)\n", block)
                assert name, block
                (tmp_path / name[1]).write_text(block)
            else:
                for step in block.split("$ ")[1:]:
                    command, _, printed = step.partition("\n")
                    commands.append(command)
                    if command == SERVE:
                        (tmp_path / "ready.json").unlink(missing_ok=True)
                        url = broker.enter_context(serving(tmp_path))
                        continue
                    output = run(command, tmp_path, url)
                    assert not printed or output == printed, command

    assert commands.count(SERVE) == 2
    assert len(commands) > 10
