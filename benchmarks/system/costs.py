"""Where do the nanoseconds of one ``send`` and of one received message go, in Python?

Control: the same loop around a call that does nothing.  Each step runs in a process of its own; those that
need a broker have one in another process.
"""

from __future__ import annotations

from functools import partial

from benchmarks.system.harness import (
    MESSAGE_BYTES,
    RESULT_TIMEOUT_S,
    Contestant,
    Metrics,
    Question,
    Round,
    Scale,
)

STEPS = (
    ("call of a built-in that does nothing", "empty_call", False, "control"),
    ("call of the core through cffi that does nothing", "empty_core_call", False, "control"),
    ("reading the clock", "clock", False, "control"),
    ("send: frame, checksum, into the outbox", "outbox", False, "the native part of the next two"),
    ("send, whole, linger 1 ms", "send", True, "a native thread writes to the socket"),
    ("send, whole, no linger", "send_at_once", True, "with its system call"),
    ("send_many of 1,000, a message", "send_many", True, "frame, checksum, system calls"),
    ("receive: check and index a batch, a message", "index", False, "all that the batch API does"),
    ("receive: check, copy, make a Message", "objects", False, "native"),
    ("receive: the `for` loop, a message", "walk", False, "Python"),
    ("receive: the loop, `payload` and `topic`", "look", False, "Python"),
)


def cost(stage: Round, *, step: str, broker: bool, count: int) -> Metrics:
    """One step."""
    url = [stage.broker(retention="2GiB").where["url"]] if broker else []
    return stage.python("cost_roles", step, MESSAGE_BYTES, count, *url).hear(RESULT_TIMEOUT_S)


def question(scale: Scale) -> Question:
    """A row per step."""
    count = scale.pick(1_000_000, 50_000)
    return Question(
        name="costs",
        asks="Python's costs of one send and of one received message of 256 B",
        contestants=tuple(
            Contestant(title, partial(cost, step=step, broker=broker, count=count), note)
            for title, step, broker, note in STEPS
        ),
    )
