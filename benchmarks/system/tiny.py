"""What if every message is a batch of its own?

Thousands of one-message batches per system call ask what a batch costs the broker; one system call per message
asks what the kernel costs, and is reported beside the C relay, which does the same.
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import controls, hermes_rounds
from benchmarks.system.harness import MESSAGE_BYTES, Contestant, Question, Scale, Target

PER_CALL = 4096
PACKED = "Hermes, one message a batch, 4,096 batches a system call"
SINGLE = "Hermes, one message a batch, one batch a system call"
RELAY = "C relay, one message a system call at the publisher"
RELAY_BOTH = "C relay, one message a system call at the publisher and in the relay"


def question(scale: Scale) -> Question:
    """Packed and single, beside the relay."""
    packed = scale.pick(10_000_000, 400_000)
    single = scale.pick(1_000_000, 50_000)
    run = partial(hermes_rounds.wire_throughput, per_batch=1)
    relay = partial(
        controls.relay_throughput, idle="block", messages=single, write_bytes=MESSAGE_BYTES
    )
    return Question(
        name="tiny",
        asks="One-message batches (256 B, publisher and subscriber in C)",
        contestants=(
            Contestant(PACKED, partial(run, messages=packed, per_call=PER_CALL)),
            Contestant(SINGLE, partial(run, messages=single, per_call=1)),
            Contestant(RELAY, relay, "control"),
            Contestant(RELAY_BOTH, partial(relay, read_bytes=MESSAGE_BYTES), "control"),
        ),
        targets=(Target("thousands of batches a call", PACKED, "messages_per_s", 2e6),),
    )
