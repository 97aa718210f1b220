"""docs/writing-plugins.md builds what it says it builds: every block of code is run.

A block's first line says what becomes of it: `python PATH` and the like is a file, `sh` is typed
into a shell, `sh serve` into another one which goes on, `sh fails` fails with what stands below it.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hermes.testing.template import Names, project
from tests.environment import DEADLINE_S, Environment
from tests.ports import free_ports

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "writing-plugins.md").read_text()


PORTS = ("7601", "7602")
"""Ports that the page takes for free; the tests take others."""


@dataclass(frozen=True)
class Block:
    """One fenced block of the page."""

    language: str
    what: str
    text: str
    below: str
    """The line of output that is quoted below it, if one is."""


def chapter(heading: str) -> list[Block]:
    """The blocks below a heading of the second level."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert section, heading
    blocks = re.findall(
        r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```\n(?:\n    ([^\n]+)\n)?", section[1], re.M | re.S
    )
    return [Block(*parts) for parts in blocks]


class Reader:
    """Somebody who does what the page says, in a folder of their own."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.output = ""
        """Output of the last shell."""
        self._ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._servers: list[subprocess.Popen[bytes]] = []
        folder.mkdir()

    def do(self, block: Block) -> None:
        """Write the file, or run the commands."""
        for port, free in self._ports.items():
            block = replace(block, text=block.text.replace(port, free))
        if block.language != "sh":
            file = self.folder / block.what
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        elif block.what == "serve":
            self._serve(block.text)
        elif block.what == "fails":
            self.output = self.environment.shell(block.text, cwd=self.folder, expect=None)
            assert block.below, "say what is printed"
        else:
            self.output = self.environment.shell(block.text, cwd=self.folder)
        assert block.below in self.output

    def _serve(self, line: str) -> None:
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        server = subprocess.Popen(
            ["sh", "-c", f"exec {line.strip()} --ready-file {ready}"],
            cwd=self.folder,
            env=self.environment.variables,
            stdout=subprocess.DEVNULL,
        )
        self._servers.append(server)
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        """End what still runs."""
        for server in self._servers:
            server.terminate()
            assert server.wait(DEADLINE_S) == 0


@pytest.fixture
def reader(environment: Environment, tmp_path: Path) -> Iterator[Reader]:
    """A reader with an environment of their own."""
    reader = Reader(environment, tmp_path / "project")
    yield reader
    reader.stop()


def test_the_transport_in_fifteen_minutes(reader: Reader) -> None:
    """A reader who copies the files and types the commands has a transport that works and keeps the
    contract."""
    reader.environment.chosen = "registration or options or exchange or broker"  # what is quick
    said = []
    for block in chapter("A transport in fifteen minutes"):
        reader.do(block)
        said.append(reader.output)

    assert any("No module named 'hermes_unix.engine'" in output for output in said)
    assert any(output.endswith("101.25\n") for output in said)


@pytest.mark.parametrize(
    ("heading", "kind", "medium"),
    [("What a transport owes", "transport", "packets"), ("A storage", "storage", "stream")],
)
def test_what_is_quoted_stands_there(heading: str, kind: str, medium: str) -> None:
    """The pieces of code that are explained are those that `hermes plugins new` writes."""
    files = project(kind, Names(kind, "pipes"), hermes_version="1", medium=medium)

    blocks = chapter(heading)

    assert blocks
    for block in blocks:
        assert block.text in files[f"src/hermes_pipes/{block.what}"], block.text


def test_the_gateway(reader: Reader) -> None:
    """Lines become messages, and messages lines; what is wrong is answered."""
    for block in chapter("A gateway: programs that speak something else"):
        reader.do(block)

    talk, sub = reader.output.splitlines()[-2:]
    assert talk == "md.xnas.AAPL 1 101.25"
    assert sub == "md.xnas.AAPL 1 101.25"


def test_c_of_its_own(reader: Reader) -> None:
    """A plugin's C compiles against the installed headers, and reaches the core through the table."""
    for block in chapter("C of its own"):
        reader.do(block)

    assert reader.output.endswith("\n2 12\n")
