"""Names that clients choose, bound to the identity that uses them.

Where a broker authenticates its clients, a durable name and a publisher id exist once per identity:
two identities that use the same one never meet, and neither learns whether the other's exists.
Without authentication there is one owner, None.  Pure functions; knows neither storage nor
connection.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from hermes.wire.messages import PUBLISHER_ID_SIZE

NOBODY = bytes(PUBLISHER_ID_SIZE)
"""The publisher id that any number of publishers may have: nothing of theirs is recognised."""

OWNED_MARK = b"\xf5\x0e"
"""Begins the stored ids of publishers that belong to an identity; ``HM_OWNED_MARK`` in C."""
TAG_SIZE = 2
"""Bytes behind the mark that are the same for all publishers of an identity."""

_OWNED = "\x01"
_UNOWNED = "\x02"


class DurableName(NamedTuple):
    """A durable name and the identity whose it is; None: no identity's."""

    owner: str | None
    name: str


def durable_key(owner: str | None, name: str) -> str:
    """The string under which the positions of a durable name are stored: different for every pair.

    A name without an owner is stored as it is, as by brokers that do not authenticate.
    """
    if owner is not None:
        return f"{_OWNED}{len(owner)}:{owner}{name}"
    return f"{_UNOWNED}{name}" if name.startswith((_OWNED, _UNOWNED)) else name


def durable_name(key: str) -> DurableName:
    """The pair that :func:`durable_key` made ``key`` of; a key that it cannot have made is a name
    without an owner."""
    found = DurableName(None, key.removeprefix(_UNOWNED))
    if key.startswith(_OWNED):
        length, _, rest = key[1:].partition(":")
        size = int(length) if length.isascii() and length.isdecimal() and len(length) <= 9 else 0
        found = DurableName(rest[:size], rest[size:])
    return found if durable_key(*found) == key else DurableName(None, key)


def stored_publisher_id(owner: str | None, publisher_id: bytes) -> bytes:
    """The publisher id under which the logs know a publisher of ``owner``.

    Twelve bytes are derived with a cryptographic hash: an identity that knows another's id cannot
    append under it, nor find out how far it has come.  The four before them, a mark and the
    owner's tag, tell logs whose publishers are many: those make room for each other first.
    """
    if owner is None or publisher_id == NOBODY:
        return publisher_id
    key = hashlib.sha256(owner.encode("utf-8", "surrogatepass")).digest()
    rest = PUBLISHER_ID_SIZE - len(OWNED_MARK) - TAG_SIZE
    own = hashlib.blake2b(publisher_id, digest_size=rest, key=key, person=b"hermes publisher")
    return OWNED_MARK + key[:TAG_SIZE] + own.digest()
