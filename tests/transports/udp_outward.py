"""Output of a group client's filter: what its channel does natively, in steps."""

from __future__ import annotations

import random
from typing import Any

from hermes_udp.native import ffi, lib


def sent(outward: Any, data: bytes, draw: random.Random | None = None) -> bytearray:
    """Output for ``data``, in pieces of any size if they are drawn."""
    out, at = bytearray(), 0
    place = ffi.new("const uint8_t **")
    while True:
        while size := lib.hu_outward_queued(outward, place):
            size = draw.randint(1, size) if draw else size
            out += ffi.buffer(place[0], size)
            lib.hu_outward_sent(outward, size)
        if at == len(data):
            return out
        piece = data[at : at + (draw.randint(1, 300) if draw else len(data))]
        passing = lib.hu_outward_passing(outward)
        if passing:
            piece = piece[:passing]
            out += piece
            taken = len(piece)
            lib.hu_outward_passed(outward, taken)
        else:
            taken = lib.hu_outward_collect(outward, piece, len(piece))
            assert taken or lib.hu_outward_noted(outward), (
                "it takes nothing, and has nothing to read"
            )
            if not taken:
                return out
        at += taken
