"""Cost of waking a thread that sleeps on another core: a byte to and fro through pipes."""

from __future__ import annotations

import os
import statistics
import time

from hermes.base.platform import pin, usable_cores

ROUNDS = 300
"""Enough for a median that repeats within some per cent; about 20 ms."""
WARM_UP = 50
"""Rounds that are not counted: both processes have to find their cores."""


def wakeup_ns() -> int | None:
    """Median time in ns from one process's write to the other's return from read, half a round
    trip; system calls included.  None with one core, or where processes cannot be forked."""
    at = usable_cores()
    if not hasattr(os, "fork") or len(at) < 2:
        return None
    there, back = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        _answer(at[1], there, back)
    try:
        return _ask(there, back)
    finally:
        for descriptor in (there[1], back[0]):
            os.close(descriptor)
        os.waitpid(child, 0)


def _answer(core: int, there: tuple[int, int], back: tuple[int, int]) -> None:
    """The child: hand every byte back until there are no more."""
    try:
        pin(0, {core})
        os.close(there[1])
        os.close(back[0])
        while byte := os.read(there[0], 1):
            os.write(back[1], byte)
    finally:
        os._exit(0)


def _ask(there: tuple[int, int], back: tuple[int, int]) -> int:
    os.close(there[0])
    os.close(back[1])
    before = usable_cores()
    pin(0, before[:1])
    try:
        times = []
        for _ in range(WARM_UP + ROUNDS):
            begun = time.perf_counter_ns()
            os.write(there[1], b"x")
            os.read(back[0], 1)
            times.append(time.perf_counter_ns() - begun)
    finally:
        pin(0, before)
    return int(statistics.median(times[WARM_UP:]) / 2)
