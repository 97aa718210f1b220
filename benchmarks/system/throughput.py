"""How many messages of 256 B a second pass from one publisher to one subscriber, each a process?

Controls: the C relay with 256 KiB per system call (the floor of any broker that is a process), and the
pyzmq proxy without loss.
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import controls, hermes_rounds
from benchmarks.system.harness import Contestant, Question, Scale, Target

POLL = "C relay, 256 KiB a call, busy-poll"
BLOCK = "C relay, 256 KiB a call, blocking"
COPY = "pyzmq proxy, copy=True"
NO_COPY = "pyzmq proxy, copy=False"
BATCHES = "Hermes, batch API at both ends, segments recycled"
UNRECYCLED = "Hermes, batch API at both ends, no segment recycled"
MANY = "Hermes, send_many, one message object each"
ONE = "Hermes, one send a message (linger 1 ms), one message object each"
AT_ONCE = "Hermes, one send a message (no linger), one message object each"
KEEP_ALL = "100GiB"
LINGER_S = 0.001


def question(scale: Scale) -> Question:
    """The controls, then every way to publish and receive."""
    volume = scale.pick(40_000_000, 400_000)  # 10.2 GB of payload
    relay = partial(controls.relay_throughput, messages=volume)
    proxy = partial(controls.zmq_throughput, messages=scale.pick(3_000_000, 50_000))
    run = hermes_rounds.client_throughput
    objects = partial(run, receive="objects", warm=True, messages=scale.pick(5_000_000, 100_000))
    return Question(
        name="throughput",
        asks="One publisher, one subscriber, 256 B messages, mmap log on a file",
        contestants=(
            Contestant(POLL, partial(relay, idle="spin"), "control"),
            Contestant(BLOCK, partial(relay, idle="block"), "control"),
            Contestant(COPY, partial(proxy, copy=True), "peer"),
            Contestant(NO_COPY, partial(proxy, copy=False), "peer"),
            Contestant(
                BATCHES,
                partial(run, messages=volume, warm=True),
                f"{volume * 256 / 1e9:.1f} GB, retention 2 GiB, after 3 GiB to warm up",
            ),
            Contestant(
                UNRECYCLED,
                partial(run, messages=scale.pick(20_000_000, 400_000), retention=KEEP_ALL),
                "a fresh log: its segments are written in hot slots",
            ),
            Contestant(MANY, partial(objects, publish="many")),
            Contestant(ONE, partial(objects, publish="each", linger=LINGER_S)),
            Contestant(
                AT_ONCE,
                partial(objects, publish="each", messages=scale.pick(500_000, 20_000)),
                "a system call a message: the default",
            ),
        ),
        targets=(
            Target("batch API, beside the proxy", BATCHES, "messages_per_s", 5, of=(COPY, NO_COPY)),
            Target(
                "batch API, beside the C relay", BATCHES, "messages_per_s", 0.5, of=(POLL, BLOCK)
            ),
            Target(
                "a new log, beside a warm one", UNRECYCLED, "messages_per_s", 0.95, of=(BATCHES,)
            ),
            Target("send_many and objects", MANY, "messages_per_s", 1.5e6),
            Target("send and objects", ONE, "messages_per_s", 1e6),
        ),
    )
