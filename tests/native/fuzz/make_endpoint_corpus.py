"""Writes the seeds of ``fuzz_endpoint.c`` into ``corpus/endpoint``: run it when the datagrams change.

A seed is a list of events, as ``fuzz_endpoint.c`` says.
"""

from __future__ import annotations

import struct
from pathlib import Path

from hermes_udp.native import ffi, lib

PLACE = Path(__file__).parent / "corpus" / "endpoint"
RAW, LIVE, GONE, NONCE, COOKIE, RUN, CALL = (1 << bit for bit in range(7))
EAGAIN, EMSGSIZE, ECONNREFUSED, EIO = 1, 2, 3, 5


def event(what: int, who: int, size: int, how: int, data: bytes = b"") -> bytes:
    return struct.pack("<BBHB", what, who, size, how) + data


def datagram(who: int, kind: int, body: bytes = b"", how: int = 0, **fields: int) -> bytes:
    """``kind`` is written as the target reads it."""
    header = ffi.new("hu_header *", {"type": kind, "stamp": 1, "window": 4096, **fields})
    out = ffi.new("uint8_t[]", lib.HU_HEADER)
    lib.hu_header_encode(out, header)
    whole = bytearray(bytes(ffi.buffer(out)) + body)
    whole[3] = kind - 1
    return event(0, who, len(whole), how, bytes(whole))


def setup(datagram_size: int = 1408) -> bytes:
    out = ffi.new("uint8_t[]", lib.HU_SETUP)
    fields = {"window": 4096, "datagram": datagram_size, "liveness_ms": 10_000}
    lib.hu_setup_encode(out, ffi.new("hu_setup *", fields))
    return bytes(ffi.buffer(out))


def request(who: int, nonce: int = 1, padding: int = 500) -> bytes:
    return datagram(who, lib.HU_REQUEST, setup() + bytes(padding), NONCE, session=nonce)


def confirm(who: int, nonce: int = 1, how: int = COOKIE) -> bytes:
    return datagram(who, lib.HU_CONFIRM, setup(), NONCE | how, session=nonce)


def session(who: int, nonce: int = 1) -> bytes:
    return request(who, nonce) + confirm(who, nonce)


def data(who: int, position: int, size: int, **fields: int) -> bytes:
    return datagram(who, lib.HU_DATA, bytes(size), LIVE, position=position, **fields)


def status(who: int, *ranges: tuple[int, int], how: int = LIVE, **fields: int) -> bytes:
    body = b"".join(struct.pack("<QI", *missing) for missing in ranges)
    return datagram(who, lib.HU_STATUS, body, how, **fields)


def call(who: int, *ranges: tuple[int, int], how: int = LIVE) -> bytes:
    return status(who, *ranges, how=how | CALL)


def reset(who: int, how: int = LIVE) -> bytes:
    return datagram(who, lib.HU_RESET, how=how, window=lib.HU_BYE)


PUSH, DROP, FAIL, CASTING, BATCH, PASS = range(5, 11)
TO_ALL, TO_CALLER = 0, 1


def cast(*sizes: int, repair: int = TO_ALL) -> bytes:
    """Casting begins, and batches leave."""
    return event(CASTING, 0, 0, repair) + b"".join(
        event(BATCH, 0, size, 0) + event(PASS, 0, 1, 0) for size in sizes
    )


SEEDS: dict[str, bytes] = {
    "set_up": session(0) + data(0, 0, 100) + status(0, flags=lib.HU_FIN, position=100),
    "twice": session(0) + confirm(0) + reset(0) + confirm(0) + status(0, how=GONE),
    "blind": confirm(0, how=0) + request(0) + confirm(1) + confirm(0, nonce=2),
    "full": b"".join(session(who, nonce) for who in range(3) for nonce in range(2)),
    "spoofed": session(0) + data(1, 0, 50) + status(2) + reset(3) + data(0, 0, 50),
    "pushed": session(0) + event(PUSH, 0, 2000, 0) + status(0, (0, 900), received=0),
    "ended": session(0) + event(PUSH, 0, 9, 1) + status(0, received=9, flags=8) + reset(0),
    "dropped": session(0) + event(DROP, 0, 0, 1) + status(0, how=GONE) + confirm(0),
    "reborn": session(0)
    + session(1, 2)
    + event(DROP, 0, 0, 0)
    + session(2)
    + session(0, 2)
    + event(DROP, 1, 0, 3)
    + reset(0)
    + session(0, 3)
    + event(PUSH, 1, 50, 0),
    "shared": session(0)
    + session(1)
    + session(2)
    + event(FAIL, 0, 0, EAGAIN)
    + b"".join(event(PUSH, who, 2000, 0) for who in range(3))
    + event(FAIL, 0, 0, 0)
    + status(0),
    "no_trains": session(0) + event(FAIL, 0, 0, EIO) + event(PUSH, 0, 2000, 0) + status(0),
    "no_room": session(0) + event(FAIL, 0, 0, EAGAIN) + event(PUSH, 0, 2000, 0) + status(0),
    "too_large": session(0) + event(FAIL, 0, 0, EMSGSIZE) + event(PUSH, 0, 2000, 0) + status(0),
    "gone": session(0) + event(FAIL, 0, 0, ECONNREFUSED) + event(PUSH, 0, 20, 0) + status(0),
    "run": session(0) + event(0, 0, 96, LIVE | RUN, bytes(range(96))),
    "unknown": status(0, how=0, session=77) + data(1, 0, 0, stream=1) + event(1, 1, 3, RAW, b"HU!"),
    "cast": session(0) + cast(0, 2000, 40, 1900) + event(PASS, 0, 100, 0) + event(CASTING, 0, 0, 0),
    "called": session(0)
    + cast(2000, 2000)
    + event(PASS, 0, 60, 0)
    + call(0, (0, 900), (1400, 1))
    + event(PASS, 0, 60, 0)
    + call(0, (0, 900), (1, 4000)),
    "called_by_two": session(0)
    + session(1)
    + cast(2000, 30, repair=TO_CALLER)
    + call(0, (0, 500))
    + call(1, (0, 500), (1500, 20))
    + event(DROP, 1, 0, 1)
    + event(PASS, 0, 60, 0)
    + call(1, (0, 500), how=GONE)
    + call(0, (0, 1)),
    "called_by_strangers": session(0) + cast(2000) + call(1, (0, 500)) + call(2, (0, 9), how=0),
    "called_for_nonsense": session(0)
    + cast(50)
    + status(0, (1 << 63, 0), (2**64 - 1, 2**32 - 1), (9, 9), stream=1)
    + status(0, (7, 0), stream=1, position=5, received=99),
    "cast_failing": session(0)
    + cast()
    + event(FAIL, 0, 0, EMSGSIZE)
    + event(BATCH, 0, 2000, 0)
    + event(PASS, 0, 1, 0)
    + event(FAIL, 0, 0, EAGAIN)
    + event(BATCH, 0, 2000, 0)
    + call(0, (0, 2000))
    + event(FAIL, 0, 0, 4)
    + event(PASS, 0, 1, 0)
    + event(FAIL, 0, 0, 0),
    "silent": session(0)
    + event(PUSH, 0, 90, 0)
    + event(PASS, 0, 2047, 0) * 6
    + event(PASS, 0, 9, 0),
    "silent_and_full": cast()
    + event(FAIL, 0, 0, EAGAIN)
    + event(BATCH, 0, 2000, 0)
    + session(0)
    + event(PASS, 0, 2047, 0) * 6
    + event(FAIL, 0, 0, 0)
    + event(PASS, 0, 1, 0)
    + request(1),
    "late_cookie": request(0) + event(PASS, 0, 1999, 0) * 6 + confirm(0),
    "grouped": session(0) + status(0, (0, 9), stream=1) + datagram(0, 8, bytes(64), LIVE, stream=1),
}


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, seed in SEEDS.items():
        (PLACE / name).write_bytes(seed)


if __name__ == "__main__":
    main()
