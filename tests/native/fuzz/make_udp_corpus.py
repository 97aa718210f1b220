"""Writes the seeds of ``fuzz_udp.c`` into ``corpus/udp``: run it when the datagrams change.

A seed is a list of datagrams, each behind its length (u16).
"""

from __future__ import annotations

import struct
from pathlib import Path

from hermes_udp.native import ffi, lib

PLACE = Path(__file__).parent / "corpus" / "udp"
DATA, STATUS, RESET = lib.HU_DATA, lib.HU_STATUS, lib.HU_RESET
WINDOW = 4096


def datagram(kind: int, body: bytes = b"", **fields: int) -> bytes:
    header = ffi.new("hu_header *", {"type": kind, "session": 7, "stamp": 1, **fields})
    out = ffi.new("uint8_t[]", lib.HU_HEADER)
    lib.hu_header_encode(out, header)
    whole = ffi.new("uint8_t[]", bytes(ffi.buffer(out)) + body)
    lib.hu_seal(whole, len(whole) - 1)
    return bytes(ffi.buffer(whole))[:-1]


def data(position: int, size: int, **fields: int) -> bytes:
    return datagram(DATA, bytes(size), position=position, window=WINDOW, **fields)


def status(*ranges: tuple[int, int], **fields: int) -> bytes:
    body = b"".join(struct.pack("<QI", *missing) for missing in ranges)
    return datagram(STATUS, body, window=WINDOW, **fields)


SEEDS: dict[str, list[bytes]] = {
    "in_order": [data(0, 400), data(400, 400), data(800, 100, flags=lib.HU_FIN)],
    "gaps": [data(400, 100), data(800, 100), data(1600, 100), data(0, 1000), data(900, 700)],
    "overlaps": [data(100, 300), data(50, 100), data(0, 500), data(200, 900, flags=lib.HU_REPEAT)],
    "outside": [data(4000, 200), data(2**63, 100), data(2**64 - 100, 50), data(0, 10)],
    "acknowledged": [status(received=464), status(received=928, echo=200), status(received=3500)],
    "called": [status((0, 464), (928, 464)), status((0, 2**32 - 1)), status((2**64 - 1, 100))],
    "tail": [status(position=3000), data(2900, 100), status(position=4000, flags=lib.HU_FIN)],
    "probes": [data(0, 10, flags=lib.HU_PROBE), status(flags=lib.HU_PROBE), data(0, 10)],
    "ended": [status(flags=lib.HU_FIN_RECEIVED, received=3500), datagram(RESET, window=1)],
}


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, datagrams in SEEDS.items():
        seed = b"".join(struct.pack("<H", len(one)) + one for one in datagrams)
        (PLACE / name).write_bytes(seed)


if __name__ == "__main__":
    main()
