"""Acknowledgements as native code makes and reads them, against the wire protocol's own codec."""

from __future__ import annotations

import msgspec
import pytest
from hermes.native._core import ffi, lib
from hypothesis import given
from hypothesis import strategies as st

from hermes.wire import messages as m

IDS = st.integers(0, m.ID_MAX)
SEQUENCES = st.integers(0, m.SEQUENCE_MAX)


def parse(payload: bytes) -> tuple[int, int] | None:
    """(publisher, sequence), or None for what native code leaves to others."""
    publisher, sequence = ffi.new("uint32_t *"), ffi.new("uint64_t *")
    memory = ffi.new("uint8_t[]", payload or b"\0")  # to the byte, for the sanitizers
    found = lib.hm_ack_parse(memory, len(payload), publisher, sequence)
    return (publisher[0], sequence[0]) if found else None


@given(IDS, SEQUENCES)
def test_what_native_code_makes_every_client_reads(publisher: int, sequence: int):
    """The payload decodes to the same Ack."""
    out = ffi.new("uint8_t[]", lib.HM_ACK_MAX)

    size = lib.hm_ack_encode(out, publisher, sequence)

    payload = bytes(ffi.buffer(out, size))
    assert msgspec.msgpack.decode(payload, type=m.Ack) == m.Ack(publisher, sequence)
    assert parse(payload) == (publisher, sequence)


@given(IDS, SEQUENCES)
def test_what_python_makes_native_code_reads(publisher: int, sequence: int):
    """Numbers are read in whichever size they were written."""
    payload = msgspec.msgpack.encode(m.Ack(publisher, sequence))

    assert parse(payload) == (publisher, sequence)


@given(st.binary(max_size=48))
def test_any_bytes_are_an_ack_or_left_alone(payload: bytes):
    """The codec takes what native code takes, and finds the same in it."""
    found = parse(payload)

    if found is not None:
        assert msgspec.msgpack.decode(payload, type=m.Ack) == m.Ack(*found)


@pytest.mark.parametrize(
    "payload",
    [
        msgspec.msgpack.encode(m.Ack(7, 9, "durable")),
        msgspec.msgpack.encode({"sequence": 9, "publisher": 7}),
        msgspec.msgpack.encode({"publisher": m.ID_MAX + 1, "sequence": 9}),
        msgspec.msgpack.encode({"publisher": 7, "sequence": m.SEQUENCE_MAX + 1}),
        msgspec.msgpack.encode({"publisher": 7, "sequence": -1}),
        msgspec.msgpack.encode({"publisher": 7}),
        *(msgspec.msgpack.encode(m.Ack(300, 70000))[:size] for size in range(27)),
        msgspec.msgpack.encode(m.Ack(7, 9)) + b"\0",
    ],
)
def test_all_else_is_left_to_others(payload: bytes):
    """Another level, another order, a number beyond its limit, half of one: not native code's."""
    assert parse(payload) is None
