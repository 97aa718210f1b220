"""State that the broker keeps in a storage, with a checksum: a changed byte is noticed, never believed.

Layout: ``HMST``, CRC-32C of the rest (little-endian), the rest.  What does not begin with ``HMST`` is
of a Hermes without checksums; no single changed bit makes one of the other.
"""

from __future__ import annotations

from typing import NamedTuple

from hermes.errors import StorageDamaged
from hermes.native.frames import crc32c
from hermes.spi.storage import Storage

MAGIC = b"HMST"
PAYLOAD_AT = len(MAGIC) + 4
"""Offset of the payload: behind magic and checksum."""


class State(NamedTuple):
    """A named state as it was loaded."""

    payload: bytes
    checked: bool
    """False: it was saved without a checksum."""


def sealed(payload: bytes) -> bytes:
    """``payload`` with its checksum."""
    return MAGIC + crc32c(payload).to_bytes(4, "little") + payload


def load(storage: Storage, name: str, what: str) -> State | None:
    """The state ``name`` of ``storage``, of which the messages speak as ``what``; None if there is none.

    Raises:
        StorageDamaged: it is not what was saved.
        StorageFailed: it cannot be read.
    """
    data = storage.load_state(name)
    return None if data is None else opened(data, storage.url, name, what)


def opened(data: bytes, place: str, name: str, what: str) -> State:
    """Return the payload that :func:`sealed` put into ``data``.

    Errors name ``place``, ``name`` and ``what``.

    Raises:
        StorageDamaged: it is not what was saved.
    """
    if not data.startswith(MAGIC):
        return State(data, checked=False)
    payload = data[PAYLOAD_AT:]
    if data != sealed(payload):
        raise damaged(place, name, what, "its checksum does not match")
    return State(payload, checked=True)


def damaged(place: str, name: str, what: str, why: str) -> StorageDamaged:
    """The error that names the damaged place, and what to do."""
    return StorageDamaged(
        f"{what} in {place} cannot be read ({why}): restore the state {name!r} from a copy, or "
        "move the file of that name away; subscriptions then begin as if they had committed nothing"
    )
