"""Is `uring+tcp` worth it?  The same work over `tcp` and over `uring+tcp`, in turn.

Fan-out is in step: a message is published when every subscriber has the one before, so each delivery is a
send of its own.  Messages per CPU second are deliveries per second of the broker's processor time.  System
calls are counted in a part of its own, by `perf stat`, where that is there.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.system import hermes_rounds
from benchmarks.system.harness import (
    MESSAGE_BYTES,
    Broker,
    Contestant,
    Failed,
    Meter,
    Metrics,
    Question,
    Scale,
    Stage,
    Target,
    compiled,
    percentiles,
    rate,
)

TCP = "tcp"
URING = "uring+tcp"
SIZES = (64, 256, 1024, 16384)
CONNECTIONS = (1, 4, 64, 512)
BATCH_BYTES = 262144
"""Payload of one system call of the publisher, as far as a batch may have 1024 messages."""
VOLUME_BYTES = 2 << 30
"""Payload of a round of throughput; or MESSAGES_MAX messages, if that is less."""
MESSAGES_MAX = 8_000_000
DELIVERIES = 250_000
"""Of a round of fan-out."""
ATTACH_S = 0.3
"""Until `perf` counts; it does not say when it begins."""
FLAGS = ("--retention", "2GiB")


@contextlib.contextmanager
def system_calls(broker: Broker, found: dict[str, float], messages: int) -> Iterator[None]:
    """Note in ``found`` how many ``broker`` makes meanwhile, a message; nothing without `perf`."""
    perf = shutil.which("perf")
    if perf is None:
        yield
        return
    counting = (perf, "stat", "-x", ",", "-e", "raw_syscalls:sys_enter")
    process = str(broker.role.process.pid)
    counter = subprocess.Popen([*counting, "-p", process], stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(ATTACH_S)
        yield
    finally:
        counter.send_signal(signal.SIGINT)
        _, said = counter.communicate()
    figures = [line.partition(",")[0] for line in said.splitlines() if "sys_enter" in line]
    if figures and figures[0].isdigit():
        found["calls_per_message"] = int(figures[0]) / messages


def serve(stage: Stage, transport: str, *flags: str, core: int | None = None) -> Broker:
    """A broker at a free port."""
    return stage.broker(*FLAGS, *flags, transport=f"{transport}://127.0.0.1:0", core=core)


def throughput(stage: Stage, *, transport: str, size: int, messages: int) -> Metrics:
    """One publisher, one subscriber, both in C, as fast as they can."""
    broker = serve(stage, transport)
    at_once = max(1, min(hermes_rounds.PER_BATCH, BATCH_BYTES // size))
    run = partial(_stream, stage, broker, size=size, at_once=at_once)
    run(messages=messages // 4)  # touches the log
    found = run(messages=messages)
    run(messages=messages // 8, counted=found)
    return found


def _stream(
    stage: Stage,
    broker: Broker,
    *,
    size: int,
    messages: int,
    at_once: int,
    counted: dict[str, float] | None = None,
) -> dict[str, float]:
    receiver = hermes_rounds.wire_subscriber(stage, broker, ">", messages=messages)
    sender = hermes_rounds.wire_publisher(
        stage, broker, messages=messages, size=size, per_batch=at_once, per_call=at_once
    )
    with _counting(broker, counted, messages):
        meter = Meter(broker=[broker.role])
        receiver.go()
        start = sender.go().result()["start_ns"]
        got = receiver.result()
        used = meter.per_message(messages)
    receiver.close()
    sender.close()
    if got["messages"] != messages:
        raise Failed(f"sent {messages} messages, got {got['messages']}")
    return {"messages_per_s": rate(messages, start, got["end_ns"])} | _cpu(used)


def fanout(stage: Stage, *, transport: str, connections: int, deliveries: int) -> Metrics:
    """One message at a time, to all; broker and clients each on a core."""
    broker = serve(stage, transport, "--idle", "block", core=1)
    rounds = max(20, deliveries // (connections + 3))  # few connections: rounds cost more
    _step(stage, broker, connections, rounds // 10)
    found = _step(stage, broker, connections, rounds)
    _step(stage, broker, connections, rounds // 4, counted=found)
    return found


def _step(
    stage: Stage,
    broker: Broker,
    connections: int,
    rounds: int,
    *,
    counted: dict[str, float] | None = None,
) -> dict[str, float]:
    arguments = (compiled("lockstep"), broker.port, MESSAGE_BYTES, rounds, connections)
    clients = stage.python("wire_roles", "lockstep", *arguments, core=0).ready()
    deliveries = rounds * connections
    with _counting(broker, counted, deliveries):
        meter = Meter(broker=[broker.role])
        report = clients.go().result()
        used = meter.per_message(deliveries)
    clients.close()
    per_second = rate(deliveries, report["start_ns"], report["end_ns"])
    return {"deliveries_per_s": per_second} | _cpu(used)


def _counting(
    broker: Broker, found: dict[str, float] | None, messages: int
) -> contextlib.AbstractContextManager[None]:
    if found is None:
        return contextlib.nullcontext()
    return system_calls(broker, found, messages)


def _cpu(used: dict[str, float]) -> dict[str, float]:
    nanoseconds = used["broker_cpu_ns"]
    return {"per_cpu_second": 1e9 / nanoseconds if nanoseconds else 0.0} | used


def roundtrip(stage: Stage, *, transport: str, count: int, idle: str, wait: str) -> Metrics:
    """A client that waits for each message of its own; broker and client each on a core."""
    broker = serve(stage, transport, "--idle", idle, core=1)
    numbers = (MESSAGE_BYTES, count, wait, "appended")
    client = stage.python("hermes_roles", "pingpong", broker.url, *numbers, core=0).ready()
    meter = Meter(broker=[broker.role])
    found = percentiles(client.go().result()["round_trips_ns"])
    if idle == "spin":  # its processor time says how long it ran, not what it did
        return found
    return found | meter.per_message(count + count // 10)


def _row(kind: str, transport: str) -> str:
    return f"{kind}, {transport}"


def question(scale: Scale) -> Question:
    """Each kind of work, over both."""
    count = scale.pick(20_000, 500)
    contestants: list[Contestant] = []
    targets: list[Target] = []

    def both(kind: str, run: partial[Metrics], metric: str, limit: float, text: str) -> None:
        rows = [_row(kind, transport) for transport in (TCP, URING)]
        contestants.extend(
            Contestant(row, partial(run, transport=transport))
            for row, transport in zip(rows, (TCP, URING), strict=True)
        )
        at_most = metric == "p50_us"
        targets.append(
            Target(f"{kind}: {text}", rows[1], metric, limit, at_most=at_most, of=(rows[0],))
        )

    for size in SIZES:
        messages = min(MESSAGES_MAX, VOLUME_BYTES // size)
        run = partial(throughput, size=size, messages=scale.pick(messages, messages // 20))
        both(f"1 to 1, {size} B", run, "messages_per_s", 0.9, "messages a second")
    for connections in CONNECTIONS:
        run = partial(
            fanout, connections=connections, deliveries=scale.pick(DELIVERIES, DELIVERIES // 10)
        )
        kind = f"1 to {connections}, in step"
        wanted = 1.1 if connections >= 64 else 0.9
        both(kind, run, "per_cpu_second", wanted, "messages per CPU second")
        if connections >= 64:
            rows = (_row(kind, URING), _row(kind, TCP))
            text = f"{kind}: system calls"
            targets.append(
                Target(text, rows[0], "calls_per_message", 0.1, at_most=True, of=rows[1:])
            )
    for idle, wait in (("block", "block"), ("adaptive", "block"), ("spin", "poll")):
        run = partial(roundtrip, count=count, idle=idle, wait=wait)
        both(f"round trip, --idle {idle}", run, "p50_us", 1 / 0.9, "median")
    return Question(
        name="uring",
        asks="The same over tcp and over uring+tcp",
        contestants=tuple(contestants),
        targets=tuple(targets),
    )
