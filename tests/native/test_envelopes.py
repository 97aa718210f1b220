"""The envelope that stands next in a connection's bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.native.envelopes import CONTROL_MAX, EnvelopeReader, address_of, control_at
from tests.wire import reference as ref

BATCH_MAX = 4096
PING = 25
FRAMES = ref.message("a", b"x", 8) + ref.message("a.b", b"y" * 9, 9)
BATCH = ref.batch(3, 1, 7, 9, FRAMES)
CONTROL = ref.frame(PING, b"\x81\xa5token\x05")


def read(data: bytes, size: int | None = None) -> Any:
    reader = EnvelopeReader(control_max=64, batch_max=BATCH_MAX)
    return reader.read_at(address_of(data or b"\0"), len(data) if size is None else size)


def changed(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + bytes([value]) + data[offset + 1 :]


def test_a_control_frame_is_described() -> None:
    """Type, whole size and payload length of a control frame are given."""
    found = read(CONTROL + b"HRMS")

    assert (found.kind, found.size, found.payload_len) == (PING, len(CONTROL), 8)
    assert control_at(address_of(CONTROL), 0, found.size) == (PING, 0, b"\x81\xa5token\x05")


def test_a_batch_is_described() -> None:
    """A batch's size and the fields of its prefix are given, its frames not looked at."""
    found = read(BATCH[:60] + b"?" + BATCH[61:])

    assert (found.kind, found.size) == (ref.BATCH, len(BATCH))
    assert (found.id, found.stream, found.after, found.through) == (3, 1, 7, 9)


@pytest.mark.parametrize(
    ("there", "needed"), [(0, 32), (5, 32), (31, 32), (32, 56), (55, 56), (56, len(BATCH))]
)
def test_an_incomplete_batch_says_how_much_is_needed(there: int, needed: int) -> None:
    """The header, then the prefix, then all of it is asked for."""
    found = read(BATCH, there)

    assert (found.kind, found.needed) == (0, needed)


@given(st.integers(0, len(CONTROL) - 1))
def test_every_prefix_of_a_control_frame_is_incomplete(there: int) -> None:
    """Less than a whole frame is not malformed: more is asked for than is there."""
    found = read(CONTROL, there)

    assert found.kind == 0
    assert there < found.needed <= len(CONTROL)


@pytest.mark.parametrize("there", [1, 2, 3, 4])
def test_foreign_bytes_are_known_at_once(there: int) -> None:
    """The first wrong byte is enough to know a stranger by."""
    assert read(b"HRMS"[: there - 1] + b"?").kind == -ref.EMAGIC


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"?" + CONTROL[1:], ref.EMAGIC),
        (changed(CONTROL, 4, 2), ref.EVERSION),
        (changed(CONTROL, 4, 2)[:5], ref.EVERSION),
        (changed(CONTROL, 5, 1), ref.ETYPE),
        (changed(CONTROL, 5, 3), ref.ETYPE),
        (changed(CONTROL, 5, 31), ref.ETYPE),
        (ref.frame(PING, b"x", b"topic"), ref.EFLAGS),
        (ref.frame(PING, b"x", flags=256), ref.EFLAGS),
        (changed(BATCH, 6, 1), ref.EFLAGS),
        (ref.frame(PING, bytes(65)), ref.ELENGTH),
        (ref.frame(PING, bytes(65))[:32], ref.ELENGTH),
        (ref.batch(1, 0, 0, 0, bytes(BATCH_MAX + 8))[:32], ref.ELENGTH),
        (ref.batch(1, 0, 0, 0, bytes(4)), ref.ELENGTH),
        (ref.frame(ref.BATCH, bytes(16)), ref.ELENGTH),
        (CONTROL[:-8] + changed(CONTROL[-8:], 0, 0x82), ref.ECRC),
        (changed(BATCH, 36, 2), ref.ECRC),
        (ref.frame(PING, b"123")[:-1] + b"!", ref.EPADDING),
        (ref.batch(1, 0, 9, 7), ref.ESEQUENCE),
    ],
)
def test_malformed_envelopes_are_named(data: bytes, error: int) -> None:
    """Each way to be malformed has its number."""
    assert read(data).kind == -error


def test_limits_are_judged_before_bytes_are_waited_for() -> None:
    """A length over its limit is refused from the header alone; one at the limit is waited for."""
    at_limit = ref.batch(1, 0, 0, 0, bytes(BATCH_MAX))

    assert read(at_limit, 56).needed == 56 + BATCH_MAX
    assert read(ref.frame(PING, bytes(64)), 32).needed == 96


def test_reading_a_buffer_at_an_offset() -> None:
    """A buffer is read in place, from and up to the offsets given."""
    reader = EnvelopeReader(control_max=CONTROL_MAX, batch_max=BATCH_MAX)
    buffer = bytearray(b"noise..." + BATCH + CONTROL)

    size, after, through, _, id, stream, _, kind = reader.read(buffer, 8, len(buffer))
    second = reader.read(buffer, 8 + size, len(buffer))

    assert (kind, size, id, stream, after, through) == (ref.BATCH, len(BATCH), 3, 1, 7, 9)
    assert second[-1] == PING
    assert reader.read(buffer, 8 + size, len(buffer) - 1)[-1] == 0


def test_a_region_outside_its_buffer_is_an_error() -> None:
    """Offsets are checked before anything is read, and the buffer is let go of at once."""
    reader = EnvelopeReader(control_max=CONTROL_MAX, batch_max=BATCH_MAX)
    buffer = bytearray(CONTROL)
    with pytest.raises(ValueError, match="is not in a buffer"):
        reader.read(buffer, 0, len(buffer) + 1)
    reader.read(buffer, 0, len(buffer))

    buffer.append(0)
