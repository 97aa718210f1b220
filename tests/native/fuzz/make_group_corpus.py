"""Writes the seeds of ``fuzz_group.c`` into ``corpus/group``: run it when the datagrams change.

A seed is a list of datagrams, each behind its length (u16).
"""

from __future__ import annotations

import struct
from pathlib import Path

from hermes.wire import messages as m
from hermes.wire.codec import encode_control
from hermes_udp.native import lib
from tests.transports.udp_wire import beacon_body, sealed
from tests.wire import reference as ref

PLACE = Path(__file__).parent / "corpus" / "group"
HISTORY = 65536
CAST = {"session": 7, "stream": 1}


def beacon(position: int, *, join: int = 0, oldest: int = 0, receivers: int = 3) -> bytes:
    body = beacon_body(
        pattern=b">",
        entries=[(0, 3, b"default")],
        join=join,
        oldest=oldest,
        history=HISTORY,
        receivers=receivers,
        datagram=1000,
    )
    return sealed(lib.HU_BEACON, body, position=position, received=oldest, **CAST)


def data(stream: bytes, start: int, size: int, **fields: int) -> bytes:
    return sealed(lib.HU_DATA, stream[start : start + size], position=start, **CAST, **fields)


def message(topic: str, sequence: int, size: int = 20) -> bytes:
    return ref.message(topic, bytes(size), sequence)


STREAM = b"".join(
    [
        encode_control(m.Stream(3, "default")),
        ref.batch(1, 3, 0, 3, message("a.b", 1) + message("b", 2) + message("a.c", 3)),
        ref.batch(1, 3, 3, 9),
        encode_control(m.Gap(1, 3, 10, 12, "retention")),
        ref.batch(1, 3, 12, 14, message("a.b", 13, 900)),
        ref.batch(1, 3, 20, 21, message("a.b", 21)),
        ref.batch(1, 5, 0, 1, message("a.b", 1)),
    ]
)
END = len(STREAM)
PARTS = [(at, 200) for at in range(0, END, 200)]

SEEDS: dict[str, list[bytes]] = {
    "in_order": [beacon(0), *(data(STREAM, *part) for part in PARTS), beacon(END)],
    "lost": [beacon(0), *(data(STREAM, *part) for part in PARTS[1:]), beacon(END)],
    "reordered": [beacon(END), *(data(STREAM, *part) for part in reversed(PARTS))],
    "repeated": [beacon(0), *(data(STREAM, *p, flags=lib.HU_REPEAT) for p in PARTS + PARTS)],
    "cut": [
        beacon(0),
        data(STREAM, 0, 150),
        beacon(40_000, join=40_000, oldest=30_000),
        beacon(40_008, join=40_000, oldest=30_000, receivers=1000),
    ],
    "garbage": [beacon(0), data(bytes(500), 0, 500), data(STREAM, 500, 200)],
}


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, datagrams in SEEDS.items():
        seed = b"".join(struct.pack("<H", len(one)) + one for one in datagrams)
        (PLACE / name).write_bytes(seed)


if __name__ == "__main__":
    main()
