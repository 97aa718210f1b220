"""Code that the README shows, runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import serving

pytestmark = pytest.mark.slow

README = (Path(__file__).parents[2] / "README.md").read_text()
DEFAULT_URL = "tcp://127.0.0.1:7601"
DEADLINE_S = 90


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A broker started by the README's command, on a port and a directory of its own."""
    assert "\n    hermes serve\n" in README
    with serving(tmp_path, "--segment", "16MiB") as url:
        yield url


def test_the_python_example_runs(url: str) -> None:
    """The README's program prints the two messages that it sends."""
    example = re.search(r"```python\n(.*?)```", README, re.S)
    assert example
    assert DEFAULT_URL in example[1]
    program = example[1].replace(DEFAULT_URL, url)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["md.xnas.AAPL 1 b'101.25'", "md.xnas.AAPL 2 b'101.50'"]


def test_the_commands_run(url: str) -> None:
    """`hermes pub` and `hermes sub`, as the README types them, carry a message."""
    lines = re.findall(r"^    (hermes (?:pub|sub) .+)$", README, re.M)
    assert [line.split()[1] for line in lines] == ["pub", "sub"]
    environment = os.environ | {"HERMES_URL": url}

    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "sub":
            arguments += ["--count", "1"]  # the README's runs until Ctrl-C
        done = subprocess.run(
            [sys.executable, "-m", "hermes", *arguments],
            capture_output=True,
            env=environment,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    assert done.stdout == b"hello\n"
