"""The datagrams of multicast: golden bytes, any beacon, and one way after another to be none."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_udp.native import lib
from tests.transports.udp_wire import HISTORY, beacon_body, beacon_of, opened, sealed

FIELDS: dict[str, Any] = {
    "join": 5000,
    "oldest": 3000,
    "history": HISTORY,
    "receivers": 8,
    "datagram": 1408,
    "pattern": b"md.>",
}
ENTRIES = [(41, 0, b"default"), (2**63, 7, b"other")]
GOLDEN = (
    struct.pack("<QQIIHHB3x", 5000, 3000, HISTORY, 8, 1408, 2, 4)
    + b"md.>"
    + (struct.pack("<QIB", 41, 0, 7) + b"default")
    + (struct.pack("<QIB", 2**63, 7, 5) + b"other")
)


def beacon(body: bytes, *, position: int = 6000, received: int = 2000) -> Any:
    """Result of a receiver for a beacon."""
    datagram = sealed(lib.HU_BEACON, body, position=position, received=received, stream=1)
    return beacon_of(*opened(datagram))


def test_golden_bytes() -> None:
    """A beacon is written as docs/udp.md says, and read again."""
    body = beacon_body(entries=ENTRIES, **FIELDS)

    assert body == GOLDEN
    assert beacon(body) == ({**FIELDS, "streams": 2}, ENTRIES)


names = st.binary(min_size=1, max_size=lib.HU_NAME_MAX)
entries = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), names))


@given(
    positions=st.lists(st.integers(0, HISTORY), min_size=4, max_size=4).map(sorted),
    base=st.integers(0, 2**63 - 1 - HISTORY),
    table=entries,
    receivers=st.integers(0, 2**32 - 1),
)
def test_any_beacon_is_read_as_it_was_written(
    positions: list[int], base: int, table: Any, receivers: int
) -> None:
    """Every field that is written comes back."""
    received, oldest, join, position = (base + at for at in positions)
    fields = {**FIELDS, "join": join, "oldest": oldest, "receivers": receivers}

    found = beacon(beacon_body(entries=table[:64], **fields), position=position, received=received)

    assert found == ({**fields, "streams": len(table[:64])}, table[:64])


@given(table=entries, capacity=st.integers(36, 2000))
def test_a_table_is_cut_where_the_datagram_ends(table: Any, capacity: int) -> None:
    """As many of the first streams are written as there is room for, whole."""
    table = table[:64]

    body = beacon_body(entries=table, capacity=capacity, **FIELDS)

    assert len(body) <= capacity
    fields, found = beacon(body)
    assert found == table[: len(found)]
    assert fields["streams"] == len(found)
    if len(found) < len(table):
        assert len(body) + 13 + len(table[len(found)][2]) > capacity


@given(cut=st.integers(lib.HU_BEACON_FIXED, len(GOLDEN) - 1))
def test_a_beacon_cut_short_is_none(cut: int) -> None:
    """No part of a beacon is one."""
    assert beacon(GOLDEN[:cut]) < 0


@given(body=st.binary(min_size=lib.HU_BEACON_FIXED, max_size=200))
def test_noise_is_no_beacon_or_one(body: bytes) -> None:
    """Any bytes are refused, or are exactly what the beacon that was read is written as."""
    found = beacon(body)

    if not isinstance(found, int):
        fields, table = found
        fields.pop("streams")
        assert beacon_body(entries=table, **fields) == body


def changed(offset: int, layout: str, value: int) -> bytes:
    size = struct.calcsize(layout)
    return GOLDEN[:offset] + struct.pack(layout, value) + GOLDEN[offset + size :]


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        pytest.param(0, "<Q", 6001, id="join behind the end"),
        pytest.param(0, "<Q", 2999, id="join before oldest"),
        pytest.param(8, "<Q", 1999, id="oldest before what is kept"),
        pytest.param(16, "<I", HISTORY - 1, id="history is no power of two"),
        pytest.param(16, "<I", 0, id="no history"),
        pytest.param(16, "<I", 2048, id="history too small"),
        pytest.param(16, "<I", 1 << 31, id="history too large"),
        pytest.param(24, "<H", 255, id="datagrams too small"),
        pytest.param(24, "<H", 65508, id="datagrams too large"),
        pytest.param(26, "<H", 1, id="bytes behind the last entry"),
        pytest.param(26, "<H", 3, id="an entry that is not there"),
        pytest.param(26, "<H", 65, id="too many entries"),
        pytest.param(28, "<B", 0, id="no pattern"),
        pytest.param(28, "<B", 255, id="a pattern beyond the end"),
        pytest.param(29, "<B", 1, id="padding"),
        pytest.param(32, "<B", 0xFF, id="a pattern that is none"),
        pytest.param(48, "<B", 0, id="a stream without a name"),
        pytest.param(48, "<B", 255, id="a name beyond the end"),
    ],
)
def test_what_is_no_beacon(offset: int, layout: str, value: int) -> None:
    """Each rule of docs/udp.md, broken alone."""
    assert beacon(GOLDEN) == ({**FIELDS, "streams": 2}, ENTRIES)

    assert beacon(changed(offset, layout, value)) < 0


@pytest.mark.parametrize(
    ("position", "received"),
    [(4999, 2000), (6000, 3001), (2**63, 2000), (2000 + HISTORY + 1, 2000)],
    ids=["join behind it", "oldest before it", "no such position", "more than the history"],
)
def test_positions_in_the_header_that_make_no_sense(position: int, received: int) -> None:
    """The header's positions are judged with the body's."""
    assert beacon(GOLDEN, position=position, received=received) < 0


def test_a_beacon_shorter_than_its_fields_is_no_datagram() -> None:
    """The header's own check refuses it."""
    datagram = sealed(lib.HU_BEACON, GOLDEN[:31], position=6000, received=2000, stream=1)
    header = opened(sealed(lib.HU_STATUS))[0]

    assert lib.hu_header_decode(datagram, len(datagram), header) < 0
