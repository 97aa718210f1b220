"""Rounds of the controls, in the shapes questions need: the raw C relay and the pyzmq proxy."""

from __future__ import annotations

from benchmarks.system.harness import (
    MESSAGE_BYTES,
    Meter,
    Metrics,
    Stage,
    percentiles,
    throughput,
)

READ_BYTES = 262_144
"""What a batched relay reads and writes per system call."""


def relay_throughput(
    stage: Stage,
    *,
    wait: str,
    messages: int,
    write_bytes: int = READ_BYTES,
    read_bytes: int = READ_BYTES,
    sinks: int = 1,
) -> Metrics:
    """Messages per second through the C relay, first write to last byte read."""
    volume = messages * MESSAGE_BYTES
    relay = stage.python("relay_roles", "relay", wait, read_bytes, sinks)
    port = relay.line()
    drains = [stage.python("relay_roles", "sink", port, volume).ready() for _ in range(sinks)]
    source = stage.python("relay_roles", "load", port, write_bytes, volume).ready()
    meter = Meter(broker=[relay], publisher=[source], subscriber=drains)
    for role in (*drains, source):
        role.go()
    start = source.result()["start_ns"]
    end = max(drain.result()["end_ns"] for drain in drains)
    return throughput(messages, start, end, meter, receivers=sinks)


def relay_roundtrip(stage: Stage, *, wait: str, count: int, python: bool = False) -> Metrics:
    """Round trips of one message through the C relay, on a core of its own."""
    port = stage.python("relay_roles", "relay", wait, READ_BYTES, 0, core=1).line()
    if python:
        client = stage.python("python_roles", "pingpong", port, wait, count, MESSAGE_BYTES, core=0)
    else:
        client = stage.python("relay_roles", "pingpong", port, wait, MESSAGE_BYTES, count, core=0)
    return percentiles(client.ready().go().result()["round_trips_ns"])


def zmq_throughput(stage: Stage, *, copy: bool, messages: int, subscribers: int = 1) -> Metrics:
    """Messages per second through the proxy, first send to last receive."""
    proxy = stage.python("zmq_roles", "proxy")
    front, back = proxy.line().split()
    receivers = [
        stage.python("zmq_roles", "subscribe", back, messages, copy).ready()
        for _ in range(subscribers)
    ]
    sender = stage.python("zmq_roles", "publish", front, messages, MESSAGE_BYTES, copy).ready()
    meter = Meter(broker=[proxy], publisher=[sender], subscriber=receivers)
    for role in (*receivers, sender):
        role.go()
    start = sender.result()["start_ns"]
    end = max(receiver.result()["end_ns"] for receiver in receivers)
    return throughput(messages, start, end, meter, receivers=subscribers)


def zmq_roundtrip(stage: Stage, *, count: int) -> Metrics:
    """Round trips of one message through the proxy, on a core of its own."""
    front, back = stage.python("zmq_roles", "proxy", core=1).line().split()
    client = stage.python("zmq_roles", "pingpong", front, back, count, MESSAGE_BYTES, core=0)
    return percentiles(client.ready().go().result()["round_trips_ns"])
