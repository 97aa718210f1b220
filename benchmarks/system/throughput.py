"""How many messages of 256 B a second pass from one publisher to one subscriber, each a process?

Controls: the C relay with 256 KiB per system call (the floor of any broker that is a process), and
the pyzmq proxy without loss.
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import controls
from benchmarks.system.harness import Contestant, Question, Scale


def question(scale: Scale) -> Question:
    """One publisher, one subscriber."""
    volume = scale.pick(40_000_000, 400_000)
    zmq_volume = scale.pick(3_000_000, 50_000)
    relay = partial(controls.relay_throughput, messages=volume)
    return Question(
        name="throughput",
        asks="One publisher, one subscriber, 256 B messages, mmap log on a file",
        contestants=(
            Contestant("C relay, 256 KiB a call, busy-poll", partial(relay, wait="poll")),
            Contestant("C relay, 256 KiB a call, blocking", partial(relay, wait="block")),
            Contestant(
                "pyzmq proxy, copy=True",
                partial(controls.zmq_throughput, copy=True, messages=zmq_volume),
            ),
            Contestant(
                "pyzmq proxy, copy=False",
                partial(controls.zmq_throughput, copy=False, messages=zmq_volume),
            ),
        ),
    )
