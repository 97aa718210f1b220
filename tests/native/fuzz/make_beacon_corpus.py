"""Writes the seeds of ``fuzz_beacon.c`` into ``corpus/beacon``: run it when the layout changes."""

from __future__ import annotations

from pathlib import Path

from hermes_udp.native import lib
from tests.transports.udp_wire import HISTORY, beacon_body, sealed

PLACE = Path(__file__).parent / "corpus" / "beacon"


def beacon(pattern: bytes, entries: list[tuple[int, int, bytes]], **changed: int) -> bytes:
    fields = {"position": 6000, "received": 2000, "join": 5000, "oldest": 3000, **changed}
    place = {name: fields.pop(name) for name in ("position", "received")}
    body = beacon_body(
        pattern=pattern, entries=entries, history=HISTORY, receivers=8, datagram=1408, **fields
    )
    return sealed(lib.HU_BEACON, body, session=7, stream=1, **place)


SEEDS: dict[str, bytes] = {
    "streams": beacon(b"md.>", [(41, 0, b"default"), (2**63, 7, b"other")]),
    "none": beacon(b">", []),
    "many": beacon(b"*.a.>", [(i, i, b"s%d" % i) for i in range(64)]),
    "begun": beacon(b">", [(0, 0, b"default")], position=0, received=0, join=0, oldest=0),
    "out_of_order": beacon(b">", [], join=7000),
}


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, datagram in SEEDS.items():
        (PLACE / name).write_bytes(datagram)


if __name__ == "__main__":
    main()
