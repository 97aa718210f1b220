"""What do four subscribers of everything receive together, and what does one that lags cost?

Controls: the C relay with four sinks, the pyzmq proxy with four subscribers.
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import controls, hermes_rounds
from benchmarks.system.harness import (
    MESSAGE_BYTES,
    Contestant,
    Metrics,
    Question,
    Round,
    Scale,
    Target,
)

SUBSCRIBERS = 4
CLIENT = "Hermes, 4 subscribers with the batch API"
WIRE = "Hermes, 4 subscribers in C, publisher in C"
WARM = "segments recycled"
LAG = "Hermes, 4 subscribers that never read, beside one that does"


def lag(stage: Round, *, messages: int) -> Metrics:
    """How much the broker's own memory grows while four subscribers fall behind by everything."""
    broker = stage.broker(retention=hermes_rounds.RETENTION)
    hermes_rounds.client_throughput(stage, broker=broker, messages=messages // 10)
    before = broker.anonymous_bytes()
    for number in range(SUBSCRIBERS):  # subscribed, and never told to read
        staller = hermes_rounds.users(stage, broker).actor("staller", number)
        part = {"role": "receive", "topic": ">", "size": MESSAGE_BYTES}
        staller.tell({"do": "prepare", "where": broker.where, "parts": [part]})
        staller.hear()
    metrics = hermes_rounds.client_throughput(stage, broker=broker, messages=messages)
    grown = broker.anonymous_bytes() - before
    return {
        "messages_per_s": metrics["messages_per_s"],
        "lag_mib": messages * MESSAGE_BYTES / 2**20,
        "growth_mib": grown / 2**20,
    }


def question(scale: Scale) -> Question:
    """One publisher, four subscribers."""
    messages = scale.pick(10_000_000, 200_000)
    return Question(
        name="fanout",
        asks="Fan-out to 4 subscribers (256 B)",
        contestants=(
            Contestant(
                "C relay, 4 sinks, blocking",
                partial(
                    controls.relay_throughput, idle="block", messages=messages, sinks=SUBSCRIBERS
                ),
                "control",
            ),
            Contestant(
                "pyzmq proxy, 4 subscribers",
                partial(
                    controls.zmq_throughput,
                    copy=True,
                    messages=scale.pick(1_000_000, 30_000),
                    subscribers=SUBSCRIBERS,
                ),
                "peer",
            ),
            Contestant(
                CLIENT,
                partial(
                    hermes_rounds.client_throughput,
                    messages=messages,
                    subscribers=SUBSCRIBERS,
                    warm=True,
                ),
                WARM,
            ),
            Contestant(
                WIRE,
                partial(
                    hermes_rounds.wire_throughput,
                    messages=messages,
                    subscribers=SUBSCRIBERS,
                    warm=True,
                ),
                WARM,
            ),
            Contestant(LAG, partial(lag, messages=messages), "growth of anonymous memory"),
        ),
        targets=(
            Target("deliveries a second in all, batch API", CLIENT, "deliveries_per_s", 6e6),
            Target("memory that a lag of four subscribers costs, MiB", LAG, "growth_mib", 16, True),
        ),
    )
