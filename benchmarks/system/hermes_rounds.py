"""Rounds of Hermes, in the shapes that several questions need.

*On the wire*: publisher and subscribers are C programs, so that the broker's share is what is left.
"""

from __future__ import annotations

from benchmarks.system.harness import (
    MESSAGE_BYTES,
    Broker,
    Failed,
    Meter,
    Metrics,
    Role,
    Stage,
    compiled,
    percentiles,
    rate,
    throughput,
)

PER_BATCH = 1024
"""Messages a C publisher puts into one batch and one system call."""


WARM_UP_BYTES = 3 << 30
"""Of frames: more than the retention, so that every later segment is one used again."""


def warmed(
    stage: Stage, *flags: str, quick: bool = False, transport: str = "tcp://127.0.0.1:0"
) -> Broker:
    """A broker whose log has been filled past its retention once: what is measured then is the
    sustained rate, not the first touch of memory."""
    broker = stage.broker(*flags, transport=transport)
    if not quick:
        messages = WARM_UP_BYTES // MESSAGE_BYTES
        filler = stage.python(
            "hermes_roles", "publish", broker.url, "bench.warm", MESSAGE_BYTES, messages, "rows"
        )
        filler.ready().go().result()
    return broker


def wire_publisher(
    stage: Stage,
    broker: Broker,
    *,
    messages: int,
    topics: int = 1,
    per_batch: int = PER_BATCH,
    per_call: int = PER_BATCH,
    size: int = MESSAGE_BYTES,
) -> Role:
    """A C publisher that is ready: round robin over topics ``t.A.B``, A = i % 1000, B = i / 1000."""
    numbers = (topics, size, per_batch, per_call, messages)
    return stage.python(
        "wire_roles", "publish", compiled("generate"), broker.port, *numbers
    ).ready()


def wire_subscriber(stage: Stage, broker: Broker, *patterns: str, messages: int) -> Role:
    """A C subscriber that is ready, with a connection for each pattern."""
    return stage.python(
        "wire_roles", "subscribe", compiled("drain"), broker.port, messages, *patterns
    ).ready()


def wire_throughput(
    stage: Stage,
    *,
    messages: int,
    patterns: tuple[str, ...] = (">",),
    delivered: int | None = None,
    subscribers: int = 1,
    topics: int = 1,
    per_batch: int = PER_BATCH,
    per_call: int = PER_BATCH,
    flags: tuple[str, ...] = ("--retention", "2GiB"),
    warm: bool = False,
) -> Metrics:
    """Messages per second from the first write to the last delivery; ``delivered``: to each.

    ``warm``: through a log that has been full before.
    """
    broker = warmed(stage, *flags, quick=stage.scale.quick) if warm else stage.broker(*flags)
    wanted = messages if delivered is None else delivered
    receivers = [
        wire_subscriber(stage, broker, *patterns, messages=wanted) for _ in range(subscribers)
    ]
    sender = wire_publisher(
        stage, broker, messages=messages, topics=topics, per_batch=per_batch, per_call=per_call
    )
    meter = Meter(broker=[broker.role], publisher=[sender], subscriber=receivers)
    for role in (*receivers, sender):
        role.go()
    start = sender.result()["start_ns"]
    reports = [receiver.result() for receiver in receivers]
    if any(report["messages"] != wanted for report in reports):
        raise Failed(f"wanted {wanted} messages each, got {[r['messages'] for r in reports]}")
    end = max(report["end_ns"] for report in reports)
    found = throughput(messages, start, end, meter, receivers=subscribers)
    if len(patterns) > 1:
        found = {"deliveries_per_s": rate(wanted, start, end)} | found
    return found


TOPIC = "bench.throughput"
RECYCLING = ("--retention", "2GiB")


def client_throughput(
    stage: Stage,
    *,
    messages: int,
    publish: str,
    receive: str,
    subscribers: int = 1,
    size: int = MESSAGE_BYTES,
    flags: tuple[str, ...] = RECYCLING,
    warm: bool = False,
    broker: Broker | None = None,
) -> Metrics:
    """Messages per second between users of the client, from the first call to the last receipt.

    ``publish`` and ``receive``: an API of ``hermes_roles``.  ``warm``: through a log that has been
    full before.  ``broker``: one that runs already.
    """
    if broker is None:
        broker = warmed(stage, *flags, quick=stage.scale.quick) if warm else stage.broker(*flags)
    url = broker.url
    receivers = [
        stage.python("hermes_roles", "subscribe", url, TOPIC, messages, receive).ready()
        for _ in range(subscribers)
    ]
    sender = stage.python("hermes_roles", "publish", url, TOPIC, size, messages, publish).ready()
    meter = Meter(broker=[broker.role], publisher=[sender], subscriber=receivers)
    for role in (*receivers, sender):
        role.go()
    start = sender.result()["start_ns"]
    reports = [receiver.result() for receiver in receivers]
    if any(report["messages"] != messages for report in reports):
        raise Failed(f"sent {messages} messages, got {[r['messages'] for r in reports]}")
    end = max(report["end_ns"] for report in reports)
    return throughput(messages, start, end, meter, receivers=subscribers)


def roundtrip(
    stage: Stage, *, count: int, idle: str, wait: str = "block", ack: str = "appended"
) -> Metrics:
    """Round trips of one message; broker and client each on a core of its own."""
    url = stage.broker("--idle", idle, core=1).url
    numbers = (MESSAGE_BYTES, count, wait, ack)
    client = stage.python("hermes_roles", "pingpong", url, *numbers, core=0)
    return percentiles(client.ready().go().result()["round_trips_ns"])
