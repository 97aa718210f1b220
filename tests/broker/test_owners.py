"""Keys of what belongs to an identity."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hermes.broker.owners import (
    NOBODY,
    OWNED_MARK,
    TAG_SIZE,
    durable_key,
    durable_name,
    stored_publisher_id,
)

OWNERS = st.none() | st.text(min_size=1)


@given(OWNERS, st.text(min_size=1))
def test_a_key_is_read_back(owner: str | None, name: str) -> None:
    """The pair that a key was made of comes back, so two pairs never share a key."""
    assert durable_name(durable_key(owner, name)) == (owner, name)


@given(st.text())
def test_any_stored_key_has_a_name(key: str) -> None:
    """A key that no version made is a name without an owner, or is read as it was made."""
    found = durable_name(key)

    assert found == (None, key) or durable_key(*found) == key


def test_a_name_without_owner_is_its_own_key() -> None:
    """Positions that brokers without authentication have stored are found under the same key."""
    assert durable_key(None, "billing") == "billing"


def test_publisher_ids_are_apart() -> None:
    """One id of two identities is two ids; without an owner, or for nobody, it stays as it is."""
    id = bytes(range(16))
    derived = {stored_publisher_id(owner, id) for owner in (None, "a", "b", "ab")}

    assert len(derived) == 4
    assert all(len(one) == 16 for one in derived)
    assert stored_publisher_id(None, id) == id
    assert stored_publisher_id("a", NOBODY) == NOBODY


def test_publisher_ids_of_an_identity_begin_alike() -> None:
    """All ids of an identity share a mark and a tag, and differ behind them."""
    begin = len(OWNED_MARK) + TAG_SIZE
    ids = [stored_publisher_id("alice", bytes([number]) * 16) for number in range(1, 9)]

    assert {id[:begin] for id in ids} == {ids[0][:begin]}
    assert ids[0].startswith(OWNED_MARK)
    assert len({id[begin:] for id in ids}) == len(ids)
    assert stored_publisher_id("bob", bytes([1]) * 16)[:begin] != ids[0][:begin]
