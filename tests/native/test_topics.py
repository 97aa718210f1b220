"""The topic table against a dict, and what it weighs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hermes.native._core import ffi, lib
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import effort

MILLION = 1_000_000
BYTES_PER_TOPIC_MAX = 200

names = st.binary(max_size=255) | st.sampled_from([b"", b"a", b"a" * 8, b"a" * 16, b"a" * 255])


@pytest.fixture
def table() -> Iterator[Any]:
    made = lib.hm_topics_new()
    yield made
    lib.hm_topics_free(made)


def name_of(table: Any, index: int) -> bytes:
    length = ffi.new("uint32_t *")
    found = lib.hm_topics_name(table, index, length)
    return bytes(ffi.buffer(found, length[0]))


@settings(deadline=None, max_examples=effort(20, 50))
@given(st.lists(names, max_size=300))
def test_a_table_knows_what_was_added_and_nothing_else(added: list[bytes]) -> None:
    """Indexes count up from 0 in the order of the first addition; adding again gives the same."""
    table = lib.hm_topics_new()
    known: dict[bytes, int] = {}

    for name in added:
        assert lib.hm_topics_find(table, name, len(name)) == known.get(name, -lib.HM_EUNKNOWN)
        assert lib.hm_topics_add(table, name, len(name)) == known.setdefault(name, len(known))

    assert lib.hm_topics_count(table) == len(known)
    for name, index in known.items():
        assert lib.hm_topics_find(table, name, len(name)) == index
        assert name_of(table, index) == name
        longer = name + b"\0"  # the padding of a shorter name must not be taken for a longer one
        assert longer in known or lib.hm_topics_find(table, longer, len(longer)) < 0
    lib.hm_topics_free(table)


def test_names_stand_still(table: Any) -> None:
    """A name's address stays what it was while the table grows a thousandfold."""
    length = ffi.new("uint32_t *")
    lib.hm_topics_add(table, b"first", 5)
    before = lib.hm_topics_name(table, 0, length)

    for i in range(20_000):
        name = b"t.%d" % i
        lib.hm_topics_add(table, name, len(name))

    assert lib.hm_topics_name(table, 0, length) == before
    assert bytes(ffi.buffer(before, 5)) == b"first"


def test_names_are_zero_padded(table: Any) -> None:
    """Behind a name stand zeros up to a multiple of 8, as in a frame: names compare by words."""
    for name in (b"x" * 9, b"y" * 3, b"z" * 16):
        lib.hm_topics_add(table, name, len(name))

    length = ffi.new("uint32_t *")
    stored = [lib.hm_topics_name(table, i, length) for i in range(3)]

    assert bytes(ffi.buffer(stored[0], 16)) == b"x" * 9 + bytes(7)
    assert bytes(ffi.buffer(stored[1], 8)) == b"y" * 3 + bytes(5)


def test_a_name_over_the_limit_is_refused(table: Any) -> None:
    """256 bytes are no topic: they are not found, and not added."""
    assert lib.hm_topics_find(table, bytes(256), 256) == -lib.HM_EUNKNOWN
    assert lib.hm_topics_add(table, bytes(256), 256) == -lib.HM_ETOPIC


@pytest.mark.parametrize(
    "name", [lambda i: b"md.xnas.%07d" % i, lambda i: b"plant.line.%d.sensor.%d" % (i % 97, i)]
)
def test_a_million_topics_are_cheap(table: Any, name: Callable[[int], bytes]) -> None:
    """A million topics take less than 200 bytes each, slack included."""
    for i in range(MILLION):
        topic = name(i)
        lib.hm_topics_add(table, topic, len(topic))

    assert lib.hm_topics_count(table) == MILLION
    assert lib.hm_topics_bytes(table) / MILLION < BYTES_PER_TOPIC_MAX
