"""docs/udp.md says what the code does: layouts, numbers of the protocol, timers and bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hermes_udp.native import ffi, lib

NATIVE = Path(__file__).parents[2] / "transports" / "hermes_udp" / "native"
PAGE = (Path(__file__).parents[2] / "docs" / "udp.md").read_text()


def rows(head: str) -> list[list[str]]:
    """The cells of the tables whose first heading is ``head``."""
    found = []
    for table in re.findall(rf"^\| {head} \|.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", PAGE, re.M):
        found += [[c.strip(" `") for c in line.strip("|").split("|")] for line in table.split("\n")]
    return [row for row in found if len(row) > 1]


TIMERS = rows("constant")


@pytest.mark.parametrize("row", TIMERS, ids=lambda row: row[0])
def test_a_timer_is_what_the_page_says(row: list[str]) -> None:
    """Each constant on the page has its value in the code."""
    assert getattr(lib, row[0]) == int(row[1])
    assert row[3], "a reason"


def test_every_timer_is_on_the_page() -> None:
    """Each constant of the headers that is a time or a bound of ours has a row."""
    times = set()
    for header in NATIVE.glob("*.h"):
        times |= set(re.findall(r"#define (HU_\w+) +\d+ +/\* (?:ns|ms)\b", header.read_text()))
    times -= {"HU_LIVENESS_MIN", "HU_LIVENESS_MAX"}  # bounds of an option

    assert times <= {row[0] for row in TIMERS}


@pytest.mark.parametrize("head", ["type", "flag", "reason"])
def test_a_number_is_what_the_page_says(head: str) -> None:
    """Each type, flag and reason has its number."""
    named = {name: int(number) for number, name, *_ in rows(head)}

    assert named
    assert named == {name: getattr(lib, f"HU_{name}") for name in named}


def test_the_header_is_where_the_page_says() -> None:
    """Each field of the header and of a set-up stands at its offset, and they leave no gap."""
    header = ffi.new("hu_header *", {"session": 1, "type": lib.HU_DATA})
    for name in ("session", "position", "received", "window", "stamp", "echo", "flags", "stream"):
        setattr(header, name, 0xA5)
        out = ffi.new("uint8_t[]", lib.HU_HEADER)
        lib.hu_header_encode(out, header)
        setattr(header, name, 0)
        offset = next(int(row[0]) for row in rows("offset") if row[2] == name)
        assert bytes(ffi.buffer(out))[offset] == 0xA5, name
    starts = [int(row[0]) for row in rows("offset")]
    sizes = [int(row[1]) for row in rows("offset")]
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    assert [end for end, after in zip(ends, [*starts[1:], None], strict=True) if end != after] == [
        lib.HU_HEADER,
        lib.HU_SETUP,
    ]


def test_a_beacon_is_what_the_page_says() -> None:
    """Each of a beacon's numbers, and of an entry's, stands at its offset."""
    fixed = {row[2]: int(row[0]) for row in rows("at")}
    beacon = ffi.new("hu_beacon *", {"pattern_size": 1})
    plain = encoded(beacon)
    for name in ("join", "oldest", "history", "receivers", "datagram"):
        setattr(beacon, name, 0xA5)
        differing = [at for at, byte in enumerate(encoded(beacon)) if byte != plain[at]]
        setattr(beacon, name, 0)
        assert differing == [fixed[name]], name
    beacon.streams = 1
    assert encoded(beacon)[fixed["streams"]] == 1
    assert plain[fixed["pattern_size"]] == 1
    assert fixed["pattern"] == lib.HU_BEACON_FIXED
    assert fixed["name"] == lib.HU_BEACON_ENTRY
    entry = encoded(beacon)[lib.HU_BEACON_FIXED + 1 :]
    assert (entry[fixed["through"]], entry[fixed["index"]]) == (7, 8)
    assert entry[fixed["name_size"]] == len(entry) - fixed["name"] == 1


def encoded(beacon: Any) -> bytes:
    """A beacon's bytes, with an entry if it has one."""
    entry = ffi.new("hu_beacon_entry *", {"through": 7, "index": 8, "name_size": 1})
    out = ffi.new("uint8_t[]", 100)
    return bytes(ffi.buffer(out, lib.hu_beacon_encode(out, 100, beacon, entry)))
