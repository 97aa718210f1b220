"""Writes the seeds of ``fuzz_dial.c`` into ``corpus/dial``: run it when the datagrams change.

A seed is a list of events, as ``fuzz_dial.c`` says.
"""

from __future__ import annotations

import struct
from pathlib import Path

from hermes_udp.native import ffi, lib

PLACE = Path(__file__).parent / "corpus" / "dial"
RAW, OURS, GROUPED, STRANGER, SMALL_WINDOW = (1 << bit for bit in range(5))
SESSION, GROUP, PUSH, PASS = 0, 3, 4, 5
CAST = 7
HISTORY = 65536


def event(what: int, how: int, size: int, data: bytes = b"") -> bytes:
    return struct.pack("<BBH", what, how, size) + data


def datagram(
    kind: int, body: bytes = b"", *, by: int = SESSION, how: int = OURS, **fields: int
) -> bytes:
    """``kind`` is written as the target reads it."""
    header = ffi.new("hu_header *", {"type": kind, "stamp": 1, "window": 4096, **fields})
    out = ffi.new("uint8_t[]", lib.HU_HEADER)
    lib.hu_header_encode(out, header)
    whole = bytearray(bytes(ffi.buffer(out)) + body)
    whole[3] = kind - 1
    return event(by, how, len(whole), bytes(whole))


def setup(size: int, session: int = 99) -> bytes:
    fields = {"window": 4096, "datagram": size, "liveness_ms": 1000, "cookie": 5}
    out = ffi.new("uint8_t[]", lib.HU_SETUP)
    lib.hu_setup_encode(out, ffi.new("hu_setup *", {**fields, "session": session}))
    return bytes(ffi.buffer(out))


def challenge(size: int = 1408, padding: int = 1000) -> bytes:
    return datagram(lib.HU_CHALLENGE, setup(size) + bytes(padding))


def accept(size: int = 1408, session: int = 99) -> bytes:
    return datagram(lib.HU_ACCEPT, setup(size, session))


def data(position: int, size: int, **fields: int) -> bytes:
    return datagram(lib.HU_DATA, bytes(size), position=position, **fields)


def status(*ranges: tuple[int, int], **fields: int) -> bytes:
    body = b"".join(struct.pack("<QI", *missing) for missing in ranges)
    return datagram(lib.HU_STATUS, body, **fields)


def beacon(
    position: int, join: int = 0, how: int = GROUPED | SMALL_WINDOW, by: int = GROUP
) -> bytes:
    fields = {"join": join, "history": HISTORY, "datagram": 1408, "pattern_size": 1, "streams": 1}
    native = ffi.new("hu_beacon *", fields)
    native.pattern[0] = ord(">")
    entries = ffi.new("hu_beacon_entry[]", 1)
    entries[0].through, entries[0].name_size = 3, 7
    ffi.memmove(entries[0].name, b"default", 7)
    out = ffi.new("uint8_t[]", 1000)
    size = lib.hu_beacon_encode(out, 1000, native, entries)
    body = bytes(ffi.buffer(out, size))
    return cast(lib.HU_BEACON, body, position=position, how=how, by=by)


def cast(kind: int, body: bytes, *, how: int = GROUPED, by: int = GROUP, **fields: int) -> bytes:
    """Which of the two it is stands in the last bit, for the target."""
    whole = bytearray(datagram(kind, body, by=by, how=how, stream=1, session=CAST, **fields))
    whole[4 + 3] = 1 if kind == lib.HU_BEACON else 0
    return bytes(whole)


def piece(position: int, size: int, **options: int) -> bytes:
    return cast(lib.HU_DATA, bytes(size), position=position, **options)


SET_UP = challenge() + accept()
SEEDS: dict[str, bytes] = {
    "accepted": SET_UP + data(0, 100) + status(received=0) + event(PUSH, 0, 300),
    "smaller": event(PASS, 0, 30) * 4 + challenge(600, 500) + accept(600) + event(PUSH, 0, 2000),
    "tiny": challenge(10) + accept(10) + challenge(0) + accept(1 << 31),
    "late": event(PASS, 0, 2000) * 3 + SET_UP,
    "out_of_turn": accept() + challenge() + challenge() + accept() + challenge() + accept(),
    "refused": datagram(lib.HU_RESET, window=lib.HU_REFUSED),
    "not_ours": datagram(lib.HU_CHALLENGE, setup(1408), how=0) + event(0, RAW, 3, b"HU!"),
    "ended": SET_UP + data(0, 9, flags=lib.HU_FIN) + datagram(lib.HU_RESET, window=lib.HU_BYE),
    "silent": SET_UP + event(PUSH, 0, 9) + event(PASS, 0, 700) * 3,
    "called": SET_UP + event(PUSH, 0, 1500) + status((0, 9), (700, 90)) + event(PASS, 0, 1),
    "joined": SET_UP + beacon(0) + piece(0, 500) + piece(500, 500) + beacon(1000),
    "missed": SET_UP
    + beacon(0)
    + piece(500, 500)
    + event(PASS, 0, 1)
    + beacon(1000)
    + event(PASS, 0, 20)
    + piece(0, 500, by=SESSION, flags=lib.HU_REPEAT)
    + event(PASS, 0, 20),
    "cut_off": SET_UP + beacon(0) + piece(40000, 9) + beacon(50000, 45000) + event(PASS, 0, 20),
    "strangers": SET_UP
    + beacon(0, how=GROUPED | STRANGER)
    + beacon(0)
    + piece(0, 9, how=GROUPED | STRANGER)
    + event(GROUP, RAW, 3, b"HU!"),
    "group_silent": SET_UP
    + beacon(0)
    + status()
    + event(PASS, 0, 900)
    + status()
    + event(PASS, 0, 900),
}


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, seed in SEEDS.items():
        (PLACE / name).write_bytes(seed)


if __name__ == "__main__":
    main()
