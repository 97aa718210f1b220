"""docs/wire-protocol.md says what the code does: every message, field, code, state and limit."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from hermes.native import Decoder, MessageType, decode_batch
from hermes.wire import messages as m
from hermes.wire.client import STREAMS_MAX, BatchReceived, ClientState
from hermes.wire.codec import CLASSES, CONTROL_MAX, HELLO_MAX, PROTOCOL_MAX, PROTOCOL_MIN
from hermes.wire.errorcodes import ERROR_CODES
from hermes.wire.server import ServerState
from tests.wire import reference as ref
from tests.wire.peers import Client, ModelBroker, frames_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-protocol.md").read_text()
MAPS = {"Limits": m.Limits, "Start": m.Start}


def section(heading: str) -> str:
    """Text between the heading that begins so and the next of its level or above."""
    level = heading.split()[0]
    found = re.search(
        rf"^{re.escape(heading)}.*?$(.*?)(?=^#{{1,{len(level)}}} |\Z)", DOCUMENT, re.M | re.S
    )
    assert found is not None, f"no section {heading!r}"
    return found.group(1)


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in ``text``, without head and rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [at for at, row in enumerate(cells) if set(row[0]) == {"-"}]
    heads = {at - 1 for at in rules}
    return [row for at, row in enumerate(cells) if at not in heads and at not in rules]


def fields_in(text: str) -> dict[str, list[str]]:
    return {row[0].strip("`"): row[1:] for row in rows(text)}


def expected_default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value: Any = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, m.Start):
        return f"at `{value.at}`"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if value in ("", {}):
        return "empty"
    return f"`{value}`" if isinstance(value, str) else str(value)


@pytest.mark.parametrize(("kind", "message"), CLASSES.items(), ids=lambda v: getattr(v, "name", ""))
def test_each_message_has_its_section(kind: MessageType, message: type) -> None:
    """A message's heading has its type number, its table each field with its default, and no
    other."""
    text = section(f"### {message.__name__}: type {int(kind)},")

    check_fields(message, fields_in(text))


@pytest.mark.parametrize("name", MAPS)
def test_each_map_has_its_section(name: str) -> None:
    """So have the maps inside messages."""
    check_fields(MAPS[name], fields_in(section(f"### {name}, a map")))


def check_fields(message: type, found: dict[str, list[str]]) -> None:
    fields = msgspec.structs.fields(message)
    assert list(found) == [field.name for field in fields]
    for field in fields:
        kind, default, meaning = found[field.name]
        assert default == expected_default(field)
        assert meaning
        if kind.startswith("one of"):
            words = re.findall(r"`(\w+)`", kind)
            assert sorted(words) == sorted(options(field.type))


def options(kind: Any) -> tuple[Any, ...]:
    return tuple(kind.__args__)


def test_words_of_an_enumeration_are_listed() -> None:
    """A field that takes one of a few words is documented as such."""
    for message in [*CLASSES.values(), *MAPS.values()]:
        for field in msgspec.structs.fields(message):
            if "Literal" in repr(field.type):
                name = message.__name__
                head = f"### {name}, a map" if name in MAPS else f"### {name}: type"
                assert fields_in(section(head))[field.name][0].startswith("one of"), field.name


def test_the_field_types_are_explained() -> None:
    """Every type that a field table names has a row among the types, or a section."""
    explained = set(fields_in(section("## Control frames")))
    used = set()
    for message in CLASSES.values():
        used |= {row[0] for row in fields_in(section(f"### {message.__name__}: type")).values()}
    for name in MAPS:
        used |= {row[0] for row in fields_in(section(f"### {name}, a map")).values()}

    plain = {kind for kind in used if not kind.startswith(("one of", "["))}
    assert plain <= explained
    assert explained - plain == {"one of"}


def test_each_error_code_has_its_row() -> None:
    """The error table is the code's: codes, fatality, what ends, meaning and what to do."""
    found = fields_in(section("## Errors"))

    assert list(found) == list(ERROR_CODES)
    for code, row in ERROR_CODES.items():
        words = ["no", "yes"]
        assert found[code] == [
            words[row.fatal],
            words[row.ends_subscription],
            row.meaning,
            row.cure,
        ]


def test_each_code_named_in_the_text_exists() -> None:
    """A code that the text mentions where it says what answers what is one of the table's."""
    named = re.findall(r"Error `(\w+)`|else `(\w+)`|[Rr]efuses? with `(\w+)`", DOCUMENT)

    codes = {code for groups in named for code in groups if code}
    assert len(codes) >= 5
    assert codes <= set(ERROR_CODES)
    assert {row[2].strip("`") for row in rows(section("## Limits"))} - set(ERROR_CODES) == {
        "cannot be written"
    }


@pytest.mark.parametrize(
    ("heading", "states"),
    [("### The broker's end", ServerState), ("### The client's end", ClientState)],
)
def test_each_state_has_its_row(heading: str, states: Any) -> None:
    """The state tables list the states of the enumerations, in their order."""
    assert list(fields_in(section(heading))) == [state.value for state in states]


def test_the_limits_are_the_codes() -> None:
    """The numbers in the table of limits are the constants."""
    limits = {row[0]: row[1] for row in rows(section("## Limits"))}

    assert limits["payload of Hello"] == f"{HELLO_MAX} bytes"
    assert limits["payload of another control frame"] == f"{CONTROL_MAX} bytes"
    assert limits["unanswered queries"] == str(m.QUERIES_MAX)
    assert limits["announced streams"] == str(STREAMS_MAX)
    text = section("## Control frames")
    assert f"1 to {m.NAME_MAX} characters" in text
    assert f"0 to {m.TEXT_MAX} characters" in text
    assert f"at most {m.PATTERN_MAX} bytes" in text


def test_the_versions_are_the_codes() -> None:
    """The document describes the one version there is."""
    assert f"# The wire protocol, version {PROTOCOL_MAX}\n" in DOCUMENT
    assert PROTOCOL_MIN == PROTOCOL_MAX == 1


def test_the_frame_layout_is_the_codes() -> None:
    """The offsets and sizes of header and prefix are those of the reference's structs."""
    header = [(int(r[0]), int(r[1])) for r in rows(section("## Frames")) if r[0] and r[1]]
    prefix = [(int(r[0]), int(r[1])) for r in rows(section("## Batches")) if r[0] and r[1]]

    assert header == [(0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8), (24, 4), (28, 4)]
    assert prefix == [(32, 4), (36, 4), (40, 8), (48, 8)]
    assert sum(size for _, size in header) == ref.HEADER.size
    assert sum(size for _, size in prefix) == ref.PREFIX.size


def test_links_lead_somewhere() -> None:
    """Each link inside the document names a heading of it."""
    headings = re.findall(r"^#+ (.*)$", DOCUMENT, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}

    assert set(re.findall(r"\(#([\w-]+)\)", DOCUMENT)) <= anchors


def example() -> list[bytes]:
    """The blocks of hexadecimal bytes."""
    blocks = re.findall(r"```hex\n(.*?)```", section("## An example in hex"), re.S)
    return [bytes.fromhex(block) for block in blocks]


def test_the_example_decodes_to_what_it_says() -> None:
    """The bytes shown are the messages and the batch that the text announces."""
    hello, opening, batch, answers = example()

    assert frames_of(hello) == [m.Hello(1, 1)]
    assert frames_of(opening) == [m.Open(1, bytes(range(16)))]
    envelope = decode_batch(batch)
    assert (envelope.id, envelope.after, envelope.through) == (1, 0, 1)
    ((header, topic, payload),) = Decoder(batch[56:])
    assert (header.sequence, topic, bytes(payload)) == (1, "md.a", b"hi")
    sizes = [int(size) for size in re.findall(r"(\d+) bytes", section("## An example in hex"))]
    shown = [len(hello), len(opening), len(batch)]
    assert sizes == [*shown, *(len(frame) for frame in split(answers))]


def split(data: bytes) -> list[bytes]:
    frames = []
    while data:
        size, _ = ref.check(data, CONTROL_MAX)
        frames.append(data[:size])
        data = data[size:]
    return frames


def test_the_example_is_a_session() -> None:
    """Both ends take the bytes shown for what the text says they are."""
    hello, opening, batch, answers = example()
    store = ref.ReferenceStore()
    broker = ModelBroker(store, Random(0))
    client = Client()
    assert client.protocol.hello() == hello
    assert client.protocol.open_publisher(1, bytes(range(16))) == opening

    broker.deliver(hello + opening + batch)
    client.deliver(answers)

    assert [(one.topic, one.payload) for one in store.streams[1]] == [("md.a", b"hi")]
    assert [type(event) for event in client.events] == [m.Welcome, m.Ack, m.Ack]
    assert client.events[1:] == [m.Ack(1, 0, "opened"), m.Ack(1, 1)]
    assert not any(isinstance(event, BatchReceived) for event in client.events)
