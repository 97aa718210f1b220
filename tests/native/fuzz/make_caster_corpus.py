"""Writes the seeds of ``fuzz_caster.c`` into ``corpus/caster``: run it when operations change."""

from __future__ import annotations

import struct
from pathlib import Path

PLACE = Path(__file__).parent / "corpus" / "caster"
FLUSH = b"\4"


def feed(size: int) -> bytes:
    return struct.pack("<BH", 0, size)


def call(caller: int, *ranges: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack("<QI", *one) for one in ranges)
    return struct.pack("<BBB", 1, caller, len(ranges)) + body


def wait(microseconds: int) -> bytes:
    return struct.pack("<BH", 2, microseconds)


def take(datagrams: int) -> bytes:
    return struct.pack("<BB", 3, datagrams)


NEAR = 1 << 56
"""Has a position taken modulo what was sent."""
FED = (feed(16000) + FLUSH + wait(3000)) * 6

SEEDS: dict[str, bytes] = {
    "in_order": FED,
    "called": FED + call(1, (NEAR, 464), (NEAR + 900, 464), (NEAR + 5000, 3000)) + FLUSH,
    "many": FED + b"".join(call(i, (NEAR + i * 700, 464)) for i in range(60)) + FLUSH,
    "overlaps": FED + call(1, (NEAR + 100, 50), (NEAR, 300), (NEAR + 120, 9)) + wait(100) + FLUSH,
    "nonsense": FED + call(1, (2**64 - 1, 2**32 - 1), (0, 0), (3 << 56, 5), (0, 2**32 - 1)) + FLUSH,
    "full": feed(16000) + take(3) + call(2, (NEAR, 4000)) + take(1) + take(0) + FLUSH,
    "overwritten": FED + call(3, (NEAR + 50000, 4000)) + FED * 3 + FLUSH,
    "scattered": FED + call(1, *((NEAR + i * 1000, 100) for i in range(60))) * 9 + FLUSH,
}


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, seed in SEEDS.items():
        (PLACE / name).write_bytes(seed)


if __name__ == "__main__":
    main()
