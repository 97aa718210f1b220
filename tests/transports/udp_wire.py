"""Datagrams of the udp transport, made and taken apart through the native codec."""

from __future__ import annotations

from typing import Any

from hermes_udp.native import ffi, lib

HISTORY = 1 << 20


def sealed(kind: int, body: bytes = b"", **fields: int) -> bytes:
    """A datagram with a sound checksum."""
    header = ffi.new("hu_header *", {"type": kind, **fields})
    out = ffi.new("uint8_t[]", lib.HU_HEADER)
    lib.hu_header_encode(out, header)
    whole = ffi.new("uint8_t[]", bytes(ffi.buffer(out)) + body)
    lib.hu_seal(whole, lib.HU_HEADER + len(body))
    return bytes(ffi.buffer(whole))[:-1]


def opened(datagram: bytes) -> tuple[Any, bytes]:
    """The header of a sound datagram, and what stands behind it."""
    header = ffi.new("hu_header *")
    assert lib.hu_header_decode(datagram, len(datagram), header) == 0
    return header, datagram[lib.HU_HEADER :]


Entries = list[tuple[int, int, bytes]]
"""``through``, index and name of each stream."""


def beacon_body(*, pattern: bytes, entries: Entries, capacity: int = 65000, **fields: int) -> bytes:
    """Bytes behind a beacon's header."""
    native = ffi.new(
        "hu_beacon *", {"pattern_size": len(pattern), "streams": len(entries), **fields}
    )
    ffi.memmove(native.pattern, pattern, len(pattern))
    table = ffi.new("hu_beacon_entry[]", max(1, len(entries)))
    for row, (through, index, name) in zip(table, entries, strict=False):
        row.through, row.index, row.name_size = through, index, len(name)
        ffi.memmove(row.name, name, len(name))
    out = ffi.new("uint8_t[]", capacity)
    size = lib.hu_beacon_encode(out, capacity, native, table)
    return bytes(ffi.buffer(out, size))


def beacon_of(header: Any, body: bytes) -> tuple[dict[str, Any], Entries] | int:
    """The fields and entries of a beacon; a negative number: why it is none."""
    native = ffi.new("hu_beacon *")
    table = ffi.new("hu_beacon_entry[]", lib.HU_BEACON_STREAMS)
    status = lib.hu_beacon_decode(header, body, len(body), native, table)
    if status < 0:
        return int(status)
    names = ("join", "oldest", "history", "receivers", "datagram", "streams")
    fields: dict[str, Any] = {name: int(getattr(native, name)) for name in names}
    fields["pattern"] = bytes(ffi.buffer(native.pattern, native.pattern_size))
    rows = [table[i] for i in range(native.streams)]
    entries = [(r.through, r.index, bytes(ffi.buffer(r.name, r.name_size))) for r in rows]
    return fields, entries
