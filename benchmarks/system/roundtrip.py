"""How long until a publisher receives its own message of 256 B: broker and client each on one of
two cores?

Controls: a C client of the C relay (the floor), and a Python client of the same relay (what Python
adds).
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import controls
from benchmarks.system.harness import Contestant, Question, Scale


def question(scale: Scale) -> Question:
    """Busy-polling against busy-polling, sleeping against sleeping."""
    count = scale.pick(20_000, 1_000)
    relay = partial(controls.relay_roundtrip, count=count)
    return Question(
        name="roundtrip",
        asks="Round trip of a 256 B message: publish, receive own subscription",
        contestants=(
            Contestant("C relay, C client, busy-poll", partial(relay, wait="poll"), "floor"),
            Contestant(
                "C relay, Python client, busy-poll", partial(relay, wait="poll", python=True)
            ),
            Contestant("C relay, C client, blocking", partial(relay, wait="block"), "floor"),
            Contestant(
                "C relay, Python client, blocking", partial(relay, wait="block", python=True)
            ),
            Contestant("pyzmq proxy", partial(controls.zmq_roundtrip, count=count)),
        ),
    )
