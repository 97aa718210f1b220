"""Rounds of Hermes, in the shapes that several questions need.

*On the wire*: publisher and subscribers are C programs, so that the broker's share is what is left.
"""

from __future__ import annotations

from typing import Any

from benchmarks.system.harness import (
    HERE,
    MESSAGE_BYTES,
    RESULT_TIMEOUT_S,
    Broker,
    Failed,
    Meter,
    Metrics,
    Round,
    begin,
    compiled,
    percentiles,
    rate,
    rates,
    throughput,
)
from benchmarks.system.users import QuestionCast
from hermes.bench.contestant import Job
from hermes.bench.own import SPIN_S
from hermes.bench.stage import Process

PER_BATCH = 1024
"""Messages a C publisher puts into one batch and one system call."""
RETENTION = "2GiB"
"""Bytes that a log keeps whose segments are used again."""


def wire_publisher(
    stage: Round,
    broker: Broker,
    *,
    messages: int,
    topics: int = 1,
    per_batch: int = PER_BATCH,
    per_call: int = PER_BATCH,
    size: int = MESSAGE_BYTES,
) -> Process:
    """A C publisher that is ready: round robin over topics ``t.A.B``, A = i % 1000, B = i / 1000."""
    numbers = (topics, size, per_batch, per_call, messages)
    role = stage.python(
        "wire_roles", "publish", compiled(HERE / "generate.c"), broker.port, *numbers
    )
    role.hear()
    return role


def wire_subscriber(stage: Round, broker: Broker, *patterns: str, messages: int) -> Process:
    """A C subscriber that is ready, with a connection for each pattern."""
    program = compiled(HERE / "drain.c")
    role = stage.python("wire_roles", "subscribe", program, broker.port, messages, *patterns)
    role.hear()
    return role


def wire_throughput(
    stage: Round,
    *,
    messages: int,
    patterns: tuple[str, ...] = (">",),
    delivered: int | None = None,
    subscribers: int = 1,
    topics: int = 1,
    per_batch: int = PER_BATCH,
    per_call: int = PER_BATCH,
    warm: bool = False,
) -> Metrics:
    """Messages per second from the first write to the last delivery; ``delivered``: to each.

    ``warm``: through a log that has been full before.
    """
    broker = stage.broker(retention=RETENTION)
    if warm and not stage.scale.quick:
        users(stage, broker).warm(Job("throughput", MESSAGE_BYTES))
    wanted = messages if delivered is None else delivered
    receivers = [
        wire_subscriber(stage, broker, *patterns, messages=wanted) for _ in range(subscribers)
    ]
    sender = wire_publisher(
        stage, broker, messages=messages, topics=topics, per_batch=per_batch, per_call=per_call
    )
    meter = Meter(stage, broker=[broker.process], publisher=[sender], subscriber=receivers)
    begin(*receivers, sender)
    start = sender.hear(RESULT_TIMEOUT_S)["start_ns"]
    reports = [receiver.hear(RESULT_TIMEOUT_S) for receiver in receivers]
    if any(report["messages"] != wanted for report in reports):
        raise Failed(f"wanted {wanted} messages each, got {[r['messages'] for r in reports]}")
    end = max(report["end_ns"] for report in reports)
    cpu = meter.per_message(messages)
    found = throughput(rate(messages, start, end), cpu, receivers=subscribers)
    if len(patterns) > 1:
        found = {"deliveries_per_s": rate(wanted, start, end), **found}
    return found


def users(stage: Round, broker: Broker, publish: str = "rows", **how: Any) -> QuestionCast:
    """Users of the public client; ``how``: see :mod:`benchmarks.system.users`."""
    return QuestionCast(stage, broker.process, broker.where, publish=publish, **how)


def client_throughput(
    stage: Round,
    *,
    messages: int,
    publish: str = "rows",
    subscribers: int = 1,
    retention: str = RETENTION,
    warm: bool = False,
    broker: Broker | None = None,
    **how: Any,
) -> Metrics:
    """Messages per second between users of the client, from the first call to the last receipt.

    ``how``: see :mod:`benchmarks.system.users`.  ``warm``: through a log that has been full before.
    ``broker``: one that runs already.
    """
    broker = broker or stage.broker(retention=retention)
    cast = users(stage, broker, publish, **how)
    job = Job("throughput", MESSAGE_BYTES, subscribers=subscribers)
    if warm and not stage.scale.quick:
        cast.warm(job)
    return rates(stage.measure(cast, job, messages))


def roundtrip(stage: Round, *, count: int, idle: str, spin: bool = False, **how: Any) -> Metrics:
    """Round trips of one message; ``spin``: the client does not sleep."""
    broker = stage.broker(retention=RETENTION, idle=idle)
    cast = users(stage, broker, spin_s=SPIN_S if spin else 0.0, **how)
    return percentiles(stage.measure(cast, Job("round_trip", MESSAGE_BYTES), count).latency)
