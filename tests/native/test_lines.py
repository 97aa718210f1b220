"""Lines to messages and back: the C behind ``hermes pub --stdin`` and ``hermes sub --format
raw``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.native.encoder import Encoder
from hermes.native.lines import LineJoiner, LineSplitter


def split_all(data: bytes, splitter: LineSplitter) -> tuple[list[bytes], bytes]:
    """Every complete line of ``data`` and what is left behind the last newline."""
    buffer = bytearray(data)
    view = memoryview(buffer)
    start = 0
    found: list[bytes] = []
    while True:
        joined, lengths, consumed = splitter.split(view[start:])
        if not consumed:
            return found, bytes(view[start:])
        text, at = bytes(joined), 0
        for length in lengths:
            found.append(text[at : at + length])
            at += length
        assert at == len(text)
        start += consumed


@given(st.binary(max_size=400).map(lambda b: b.replace(b"a", b"\n")), st.integers(1, 7))
def test_lines_are_what_stands_between_newlines(data: bytes, lines_max: int) -> None:
    """Splitting agrees with Python's split at newlines, whatever the table of lengths holds."""
    *lines, rest = data.split(b"\n")

    assert split_all(data, LineSplitter(lines_max)) == (lines, rest)


@pytest.mark.parametrize("data", [b"", b"no newline", b"\n\n\n", b"a\r\nb\r\n", b"\0\xff\n\0"])
def test_only_a_newline_ends_a_line(data: bytes) -> None:
    """Empty lines, carriage returns and binary bytes are kept as they are."""
    *lines, rest = data.split(b"\n")

    assert split_all(data, LineSplitter()) == (lines, rest)


def test_a_splitter_needs_room_for_a_line() -> None:
    """A table of no lengths would never make progress: refused."""
    with pytest.raises(ValueError, match="at least 1"):
        LineSplitter(0)


def frames(payloads: list[bytes]) -> memoryview:
    """Whole frames, one per payload, of topics whose lengths differ."""
    encoder = Encoder()
    for number, payload in enumerate(payloads):
        encoder.encode(payload, topic="t" * (number % 9 + 1), sequence=number + 1)
    return encoder.view


def join_all(data: memoryview, joiner: LineJoiner, count_max: int) -> tuple[bytes, list[int]]:
    """Everything that ``joiner`` makes of ``data``, and how many messages each call took."""
    out, counts = b"", []
    while len(data):
        lines, count, consumed = joiner.join(data, count_max)
        assert count
        out += bytes(lines)
        counts.append(count)
        data = data[consumed:]
    return out, counts


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 64), st.integers(1, 5))
def test_payloads_become_lines(payloads: list[bytes], capacity: int, count_max: int) -> None:
    """Each payload and a newline, in order, whatever the buffer holds; never more than asked
    for."""
    out, counts = join_all(frames(payloads), LineJoiner(capacity), count_max)

    assert out == b"".join(payload + b"\n" for payload in payloads)
    assert all(count <= count_max for count in counts)


def test_a_payload_larger_than_the_buffer_makes_it_grow() -> None:
    """A message that does not fit is written all the same, in one piece."""
    payload = b"x" * 100_000

    lines, count, _ = LineJoiner(10).join(frames([payload]))

    assert (bytes(lines), count) == (payload + b"\n", 1)


def test_a_property_block_is_no_payload() -> None:
    """A block between topic and payload is left out."""
    encoder = Encoder()
    encoder.encode(b"payload", topic="t", sequence=1, properties=b"abc")

    lines, _, _ = LineJoiner().join(encoder.view)

    assert bytes(lines) == b"payload\n"
