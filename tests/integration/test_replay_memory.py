"""A subscriber that replays a long stream takes little memory: what it has left is given up."""

from __future__ import annotations

import ctypes
import mmap
import time
from pathlib import Path

import pytest

import hermes

pytestmark = pytest.mark.slow

MIB = 1 << 20
STREAM_BYTES = 192 * MIB
MESSAGE_BYTES = 64 * 1024
BOUND_BYTES = 48 * MIB
"""Memory of one replay: 8 MiB ahead, 16 MiB behind, and the last stretch, which stays."""
WAIT_S = 60.0


def resident(file: Path) -> int:
    """Bytes of a file that are in memory."""
    size = file.stat().st_size
    if size == 0:
        return 0
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), size) as mapped:
        begin = ctypes.c_char.from_buffer(mapped)
        pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        done = libc.mincore(ctypes.addressof(begin), size, pages)
        del begin
        assert done == 0
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def cached(directory: Path) -> int:
    """Bytes of all segments of a data directory that are in memory."""
    return sum(resident(file) for file in directory.glob("streams/*/0*.log"))


def test_a_replay_gives_up_what_it_has_left(tmp_path: Path) -> None:
    """Subscribers read 192 MiB from the disk, and most of it is in memory neither before nor after."""
    data = tmp_path / "data"
    settings = {"storage": f"mmap:{data}?hot=256MiB", "segment": "8MiB", "idle": "block"}
    with (
        hermes.Broker(listeners=["tcp://127.0.0.1:0"], **settings) as broker,
        hermes.connect(broker.url) as client,
    ):
        with client.publisher("a", ack="durable") as publisher:
            for number in range(STREAM_BYTES // MESSAGE_BYTES):
                publisher.send(number.to_bytes(8, "little") * (MESSAGE_BYTES // 8))
                if number % 64 == 63:  # no faster than the disk
                    publisher.flush()
        before = cached(data)  # of segments that were written before there were slots
        if before > STREAM_BYTES // 2:
            pytest.skip("this file system keeps in memory what is written around it")
        for _ in range(2):
            with client.subscribe("a", start="earliest") as subscription:
                for number in range(STREAM_BYTES // MESSAGE_BYTES):
                    payload = subscription.receive(timeout=WAIT_S).payload
                    assert payload == number.to_bytes(8, "little") * (MESSAGE_BYTES // 8)

            deadline = time.monotonic() + WAIT_S
            while cached(data) > before + BOUND_BYTES:  # the helper does it beside us
                assert time.monotonic() < deadline, f"{cached(data) // MIB} MiB are in memory"
                time.sleep(0.01)
