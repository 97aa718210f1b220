"""What do many topics, and many subscribers of few topics each, cost the broker?

Control: the same load on one topic.  Publisher and subscribers are C programs on the wire, so that the
publisher's and the subscriber's Python is not what is measured.
"""

from __future__ import annotations

from functools import partial

from benchmarks.system import hermes_rounds
from benchmarks.system.harness import (
    RESULT_TIMEOUT_S,
    Contestant,
    Metrics,
    Question,
    Round,
    Scale,
    Target,
    begin,
)

MANY = 10_000
CONNECTIONS = 1_000
ONE = "one topic, to a `>` subscriber"
ALL = "10,000 topics round robin, to a `>` subscriber"
TEN = "10,000 topics round robin, to a subscriber of 10 of them"
EACH = "1,000 topics round robin, 1,000 connections that subscribe to one each"


def memory(stage: Round, *, topics: int) -> Metrics:
    """Growth of the broker's own memory, per topic, when each gets one message."""
    broker = stage.broker(retention=hermes_rounds.RETENTION)
    before = 0
    for number in (1, topics):
        before = broker.anonymous_bytes()
        drain = hermes_rounds.wire_subscriber(stage, broker, ">", messages=topics)
        sender = hermes_rounds.wire_publisher(stage, broker, messages=topics, topics=number)
        begin(drain, sender)
        drain.hear(RESULT_TIMEOUT_S)
    return {"bytes_each": (broker.anonymous_bytes() - before) / topics}


def question(scale: Scale) -> Question:
    """Rates relative to one topic; deliveries of many connections; bytes per topic."""
    messages = scale.pick(10_000_000, 400_000)
    run = partial(hermes_rounds.wire_throughput, messages=messages)
    million = scale.pick(1_000_000, 100_000)
    return Question(
        name="topics",
        asks="Many topics (256 B, publisher and subscribers in C)",
        contestants=(
            Contestant(ONE, run, "control"),
            Contestant(ALL, partial(run, topics=MANY)),
            Contestant(
                TEN, partial(run, topics=MANY, patterns=("t.7.*",), delivered=messages // 1000)
            ),
            Contestant(
                EACH,
                partial(
                    run,
                    messages=scale.pick(3_000_000, 100_000),
                    topics=CONNECTIONS,
                    patterns=tuple(f"t.{number}.0" for number in range(CONNECTIONS)),
                ),
            ),
            Contestant(
                f"{million:,} topics in one stream",
                partial(memory, topics=million),
                "growth of the broker's anonymous memory",
            ),
        ),
        targets=(
            Target(
                "10,000 topics keep of the one-topic rate", ALL, "messages_per_s", 0.5, of=(ONE,)
            ),
            Target("the same to a subscriber of 10 of them", TEN, "messages_per_s", 0.5, of=(ONE,)),
            Target("1,000 connections, deliveries a second", EACH, "deliveries_per_s", 300_000),
            Target(
                "bytes a topic",
                f"{million:,} topics in one stream",
                "bytes_each",
                200,
                at_most=True,
            ),
        ),
    )
