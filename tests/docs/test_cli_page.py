"""docs/cli.md shows the JSON that commands really print: the same keys, all of them, in that
order.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.serving import DEADLINE_S, serving

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SEGMENT_HEADER = 4096


def examples(command: str) -> list[Any]:
    """The JSON blocks in a command's section."""
    section = re.search(rf"^##+ `hermes {command}`\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert section, command
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", section[1], re.S)]


def shape(value: Any) -> Any:
    """The keys of an object, of what is in it, and of a list's first element."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list) and value:
        return [shape(value[0])]
    return None


def keys(value: Any) -> Any:
    """Like shape, with the order of keys."""
    found = shape(value)
    return json.dumps(found)


class Place:
    """A broker with three messages, and the files it leaves."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.data = place / "data"
        self.url = ""

    def run(self, *arguments: str | Path) -> str:
        """Run a command; its output, whatever the exit code."""
        done = processes.run(
            *("-m", "hermes", *arguments),
            env=os.environ | {"HERMES_URL": self.url},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.stdout, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A broker that has taken three messages."""
    place = Place(tmp_path_factory.mktemp("page"))
    with serving(place.place, "--segment", "16MiB") as place.url:
        place.run("pub", "md.a", "x", "--count", "3", "--json")
        yield place


def test_the_ready_file(place: Place) -> None:
    """As documented for `serve`."""
    (documented,) = examples("serve")

    assert keys(json.loads((place.place / "ready.json").read_text())) == keys(documented)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("pub", ["pub", "other", "x", "--json"]),
        ("sub", ["sub", "md.a", "--from", "earliest", "--count", "1", "--json"]),
        ("streams", ["streams", "--json"]),
        ("topics", ["topics", "--json"]),
        ("plugins", ["plugins", "--json"]),
        ("plugins info", ["plugins", "info", "tcp", "--json"]),
        ("plugins reference", ["plugins", "reference", "tcp", "--json"]),
        ("plugins test", ["plugins", "test", "tcp", "-k", "import_is_fast", "--json"]),
        ("plugins validate", ["plugins", "validate", "tcp", "--json"]),
        ("version", ["version", "--json"]),
        ("demo", ["demo", "--messages", "10000", "--rate", "20000", "--burst", "10", "--json"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_json_has_the_documented_keys(place: Place, command: str, arguments: list[str]) -> None:
    """The example in the command's section has the keys of the real thing, in its order."""
    (documented,) = examples(command)

    assert keys(json.loads(place.run(*arguments))) == keys(documented)


def test_a_new_plugin_is_told_of_as_documented(place: Place, tmp_path: Path) -> None:
    """`plugins new`, which writes files."""
    (documented,) = examples("plugins new")
    arguments = ["plugins", "new", "transport", "x", "--directory", tmp_path / "x", "--json"]

    assert keys(json.loads(place.run(*arguments))) == keys(documented)


def test_stats_have_the_documented_parts(place: Place) -> None:
    """The parts stand as documented; what is in listeners, streams and clients may grow."""
    (documented,) = examples("stats")
    real = json.loads(place.run("stats", "--json"))
    real |= {"listeners": [], "streams": {}, "clients": []}

    assert keys(real) == keys(documented)


def test_logs_have_the_documented_keys(place: Place, tmp_path: Path) -> None:
    """`inspect`, and `verify` of a copy with one byte flipped."""
    inspected, verified = examples("log")
    copy = tmp_path / "data" / "streams" / "default"
    copy.mkdir(parents=True)
    for file in (place.data / "streams" / "default").iterdir():
        content = bytearray(file.read_bytes())
        if file.suffix == ".log":
            content[SEGMENT_HEADER + 20] ^= 1
        (copy / file.name).write_bytes(content)

    assert keys(json.loads(place.run("log", "inspect", copy, "--json"))) == keys(inspected)
    assert keys(json.loads(place.run("log", "verify", copy, "--json"))) == keys(verified)
