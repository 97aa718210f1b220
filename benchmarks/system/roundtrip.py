"""How long until a publisher receives its own message of 256 B, broker and client each on a core?

Controls: a C client of the C relay (the floor), a Python client of the same relay (what Python adds).
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import controls, hermes_rounds
from benchmarks.system.harness import Contestant, Question, Scale, Target

POLL = "C relay, C client, busy-poll"
BLOCK = "C relay, C client, blocking"
ZMQ = "pyzmq proxy"
SPIN = "Hermes, --idle spin, client spins"
DEFAULT = "Hermes, default (--idle adaptive)"


def question(scale: Scale) -> Question:
    """Busy-polling against busy-polling, sleeping against sleeping."""
    count = scale.pick(20_000, 1_000)
    relay = partial(controls.relay_roundtrip, count=count)
    run = partial(hermes_rounds.roundtrip, count=count)
    pinned = partial(Contestant, pinned=True)
    return Question(
        name="roundtrip",
        asks="Round trip of a 256 B message: publish, receive own subscription",
        contestants=(
            pinned(POLL, partial(relay, idle="spin"), "floor"),
            pinned("C relay, Python client, busy-poll", partial(relay, idle="spin", python=True)),
            pinned(SPIN, partial(run, idle="spin", spin=True)),
            pinned(f"{SPIN}, ack none", partial(run, idle="spin", spin=True, ack="none")),
            pinned(BLOCK, partial(relay, idle="block"), "floor"),
            pinned("C relay, Python client, blocking", partial(relay, idle="block", python=True)),
            pinned(DEFAULT, partial(run, idle="adaptive")),
            pinned("Hermes, --idle block", partial(run, idle="block")),
            pinned("Hermes, default, ack none", partial(run, idle="adaptive", ack="none")),
            pinned(ZMQ, partial(controls.zmq_roundtrip, count=count), "peer"),
        ),
        targets=(
            Target("spinning, beside the relay that polls", SPIN, "p50_us", 1.4, True, (POLL,)),
            Target(
                "default, beside the relay that blocks", DEFAULT, "p50_us", 1.25, True, (BLOCK,)
            ),
            Target("default, beside the proxy", DEFAULT, "p50_us", 0.5, True, (ZMQ,)),
        ),
    )
