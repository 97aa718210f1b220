"""Writes the seeds of ``fuzz_log.c`` into ``corpus/log``: run it when the log's format changes.

A seed is one byte of switches, the length of the index in two, the index, and the segment file (see
the target).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hermes.native import Encoder, Log

PLACE = Path(__file__).parent / "corpus" / "log"
REPAIR, UNSEALED, NO_MARKS, KNOWN_NEXT = 1, 2, 4, 8
BASE = 7
HEADER = 4096
CREATED = slice(32, 40)


def frames(*sizes: int) -> bytes:
    """Frames of these payload sizes."""
    encoder = Encoder()
    for size in sizes:
        encoder.encode(bytes([size % 251]) * size, topic="t.a")
    return bytes(encoder.view)


def segment(*, closed: bool, nested: bool = False) -> tuple[bytes, bytes]:
    """Segment and index of a small log that begins with message 7."""
    with tempfile.TemporaryDirectory() as place:
        alive, killed = Path(place, "alive"), Path(place, "killed")
        alive.mkdir()
        log = Log.open(alive, segment_bytes=8192, retention_ns=1000, spares=0)
        log.append(frames(*[1] * (BASE - 1)), BASE - 1, now_ns=10**9)
        log.trim(2 * 10**9)  # rolls: what follows stands in a segment of its own
        for i, sizes in enumerate([(5, 100, 0), (30,), (200, 8, 7), (64,)]):
            data = frames(*sizes)
            if nested and i == 1:
                encoder = Encoder()
                encoder.encode(data, topic="t.nested")
                data = bytes(encoder.view)
            publisher = bytes([i % 2 + 1]) * 16
            log.append(
                data,
                len(sizes),
                publisher=publisher,
                first_sequence=i * 3 + 1,
                now_ns=3 * 10**9 + i * 10**7,
            )
        shutil.copytree(alive, killed)
        log.close()
        source = alive if closed else killed
        return (
            _undated((source / f"{BASE:020}.log").read_bytes()),
            (source / f"{BASE:020}.index").read_bytes(),
        )


def _undated(data: bytes) -> bytes:
    """Without the time it was made, and with only a little of what is unused."""
    page = bytearray(data[: HEADER + 1400].rstrip(b"\0"))
    page[CREATED] = bytes(8)
    return bytes(page) + bytes(-len(page) % 8 + 64)


def seed(switches: int, log: bytes, index: bytes) -> bytes:
    """One input."""
    used = len(index.rstrip(b"\0"))
    index = index[: (used + 63) // 64 * 64]
    return bytes([switches]) + len(index).to_bytes(2, "little") + index + log


def seeds() -> dict[str, bytes]:
    """File name to content."""
    sealed, sealed_index = segment(closed=True)
    open_, open_index = segment(closed=False)
    nested, nested_index = segment(closed=True, nested=True)
    return {
        "sealed": seed(REPAIR, sealed, sealed_index),
        "sealed-without-index": seed(REPAIR, sealed, b""),
        "unsealed": seed(REPAIR | UNSEALED | KNOWN_NEXT, open_, open_index),
        "unsealed-without-marks": seed(REPAIR | UNSEALED | NO_MARKS, open_, open_index),
        "nested": seed(REPAIR, nested, nested_index),
        "header-only": seed(0, sealed[:HEADER], b""),
        "unrepaired": seed(0, sealed, sealed_index),
    }


if __name__ == "__main__":
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, content in seeds().items():
        (PLACE / name).write_bytes(content)
