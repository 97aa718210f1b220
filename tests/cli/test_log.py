"""``hermes log``: looking into a data directory that a real broker wrote."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import RunningBroker

pytestmark = pytest.mark.slow

Hermes = Callable[..., "subprocess.CompletedProcess[bytes]"]
MESSAGES = 1000
HEADER = 4096
"""Bytes before a segment's first frame."""
FRAME = 32 + 8 + 8
"""Bytes of a frame: header, topic and payload, each padded to eight."""


@pytest.fixture
def data(hermes: Hermes, make_broker: Callable[..., RunningBroker]) -> Path:
    """The directory of a broker that took a thousand messages into `md`, one into `default`."""
    broker = make_broker("--stream", "md=md.>")
    lines = b"".join(b"%07d\n" % n for n in range(1, MESSAGES + 1))
    assert hermes("pub", "md.a", "--stdin", stdin=lines, url=broker.url).returncode == 0
    assert hermes("pub", "other", "x", url=broker.url).returncode == 0
    assert broker.end() == 0
    return broker.data


def segment(data: Path) -> Path:
    """The segment that holds the thousand."""
    found = [f for f in sorted((data / "streams" / "md").glob("*.log")) if f.stem.isdigit()]
    return found[0]


def flip(path: Path, offset: int) -> None:
    """Flip one bit of the byte at ``offset``."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def verified(hermes: Hermes, data: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and findings about `md`."""
    done = hermes("log", "verify", data, "--stream", "md", "--json")
    (stream,) = json.loads(done.stdout)["streams"]
    return done.returncode, stream


def test_verify_is_clean_after_normal_use(hermes: Hermes, data: Path) -> None:
    """Exit code 0, both streams, every message counted; text says so too."""
    done = hermes("log", "verify", data, "--json")
    text = hermes("log", "verify", data)

    assert done.returncode == text.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sound"]
    assert {s["name"]: s["messages"] for s in found["streams"]} == {"default": 1, "md": MESSAGES}
    assert text.stdout.count(b"clean") == 2


@pytest.mark.parametrize("place", [0, 8, 31, 32, 36, 40, 47], ids=lambda place: f"byte-{place}")
def test_verify_names_file_frame_and_what_is_missing(
    hermes: Hermes, data: Path, place: int
) -> None:
    """Any byte of a frame (header, topic, padding, payload): its segment, offset and sequence, and
    how many sound messages stand behind; nothing is changed.
    """
    damaged = 400
    offset = HEADER + FRAME * (damaged - 1)
    flip(segment(data), offset + place)
    before = segment(data).read_bytes()

    code, stream = verified(hermes, data)

    assert code == 1
    problem = next(p for p in stream["problems"] if p["missing"])
    assert problem["file"] == segment(data).name
    assert problem["offset"] == offset
    assert (problem["first_missing"], problem["last_missing"]) == (damaged, damaged)
    assert problem["sound_behind"] == MESSAGES - damaged
    assert stream["messages"] == MESSAGES - 1
    assert segment(data).read_bytes() == before


def test_verify_tells_people_the_same(hermes: Hermes, data: Path) -> None:
    """Text names the file, the offset, the missing sequence and the sound messages behind it."""
    flip(segment(data), HEADER + FRAME * 9)

    done = hermes("log", "verify", data)

    assert done.returncode == 1
    text = done.stdout.decode()
    for words in [segment(data).name, f"offset {HEADER + FRAME * 9}", "sequences 10 to 10", "990"]:
        assert words in text


def test_a_stream_folder_serves_as_well(hermes: Hermes, data: Path) -> None:
    """DIR may be the folder of one stream."""
    done = hermes("log", "verify", data / "streams" / "md", "--json")

    assert [s["name"] for s in json.loads(done.stdout)["streams"]] == ["md"]


def test_inspect_lists_segments(hermes: Hermes, data: Path) -> None:
    """First sequence, count and file of each segment, as JSON and as a table."""
    done = hermes("log", "inspect", data, "--json")
    table = hermes("log", "inspect", data)

    streams = {stream["name"]: stream for stream in json.loads(done.stdout)}
    first = streams["md"]["segments"][0]
    assert (first["base_sequence"], first["messages"]) == (1, MESSAGES)
    assert first["file"] == segment(data).name
    assert segment(data).name.encode() in table.stdout


def test_dump_writes_messages_as_sub_does(hermes: Hermes, data: Path) -> None:
    """Text, raw and JSON, from a sequence, up to a count."""
    dump = ("log", "dump", data, "--stream", "md", "--from", "500", "--count", "2")

    text, raw, lines = hermes(*dump), hermes(*dump, "--format", "raw"), hermes(*dump, "--json")

    assert text.stdout == b"md.a 500 0000500\nmd.a 501 0000501\n"
    assert raw.stdout == b"0000500\n0000501\n"
    found = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [(m["stream"], m["sequence"], m["payload"]) for m in found] == [
        ("md", 500, "0000500"),
        ("md", 501, "0000501"),
    ]


def test_dump_goes_on_behind_damage(hermes: Hermes, data: Path) -> None:
    """Exit code 4; stderr names what is missing, stdout has everything else."""
    flip(segment(data), HEADER + FRAME * 9 + 33)

    done = hermes("log", "dump", data, "--stream", "md", "--format", "raw")

    assert done.returncode == 4
    assert b"10" in done.stderr
    numbers = [int(line) for line in done.stdout.splitlines()]
    assert numbers == [n for n in range(1, MESSAGES + 1) if n != 10]


def test_a_directory_without_a_log_is_explained(hermes: Hermes, tmp_path: Path) -> None:
    """Exit code 2, and what was expected."""
    done = hermes("log", "verify", tmp_path)

    assert done.returncode == 2
    assert b"mmap:DIR" in done.stderr


def test_an_unknown_stream_is_explained(hermes: Hermes, data: Path) -> None:
    """Exit code 2, and the streams there are."""
    done = hermes("log", "dump", data, "--stream", "mb")

    assert done.returncode == 2
    assert b"md" in done.stderr


def test_verify_names_the_newest_messages_that_are_missing(hermes: Hermes, data: Path) -> None:
    """A newest segment that is gone is counted, also if it was the only one; dump says so, too."""
    segment(data).unlink()

    code, found = verified(hermes, data)
    text = hermes("log", "verify", data, "--stream", "md")
    dumped = hermes("log", "dump", data, "--stream", "md")

    assert (code, found["missing"]) == (1, MESSAGES)
    assert [problem["kind"] for problem in found["problems"]] == ["end"]
    assert b"1000 messages missing" in text.stdout or b"1,000 messages missing" in text.stdout
    assert (dumped.returncode, dumped.stdout) == (4, b"")
    assert b"1 to 1000" in dumped.stderr


@pytest.mark.parametrize("name", ["state/positions", "streams/md/epochs"])
def test_verify_checks_each_byte_of_state(
    hermes: Hermes, make_broker: Callable[..., RunningBroker], name: str
) -> None:
    """Positions and epochs as well: what is flipped is named with its file."""
    broker = make_broker("--stream", "md=md.>")
    hermes("pub", "md.a", "x", url=broker.url)
    sub = ("sub", "md.a", "--durable", "me", "--from", "earliest", "--count", "1")
    assert hermes(*sub, url=broker.url).returncode == 0
    assert broker.end() == 0
    path = broker.data / name
    size = path.stat().st_size
    clean = hermes("log", "verify", broker.data)

    assert clean.returncode == 0, clean.stdout
    for offset in (0, 4, 8, size - 1):
        flip(path, offset)
        done = hermes("log", "verify", broker.data, "--json")
        flip(path, offset)
        assert done.returncode == 1, offset
        assert [state["file"] for state in json.loads(done.stdout)["states"]] == [str(path)]


def test_inspect_shows_epochs(hermes: Hermes, data: Path) -> None:
    """One for each start, with the sequence at which it began."""
    done = hermes("log", "inspect", data, "--stream", "md", "--json")
    text = hermes("log", "inspect", data, "--stream", "md")

    (stream,) = json.loads(done.stdout)
    assert [epoch["first_sequence"] for epoch in stream["epochs"]] == [1]
    assert f"{stream['epochs'][0]['epoch']:x} from 1".encode() in text.stdout
