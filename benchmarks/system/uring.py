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
    HERE,
    MESSAGE_BYTES,
    RESULT_TIMEOUT_S,
    Broker,
    Contestant,
    Failed,
    Meter,
    Metrics,
    Question,
    Round,
    Scale,
    Target,
    begin,
    compiled,
    cpu_ns,
    percentiles,
    rate,
)
from hermes.bench.contestant import Job
from hermes.bench.own import SPIN_S

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
"""Deliveries of a round of fan-out."""
CLIENT_CORE = 1
ATTACH_S = 0.3
"""Until `perf` counts; it does not say when it begins."""


@contextlib.contextmanager
def system_calls(broker: Broker, found: dict[str, float], messages: int) -> Iterator[None]:
    """Note in ``found`` how many ``broker`` makes meanwhile, a message; nothing without `perf`."""
    perf = shutil.which("perf")
    if perf is None:
        yield
        return
    counting = (perf, "stat", "-x", ",", "-e", "raw_syscalls:sys_enter")
    process = str(broker.process.pid)
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


def serve(stage: Round, transport: str, **config: str) -> Broker:
    """A broker at a free port."""
    url = f"{transport}://127.0.0.1:0"
    return stage.broker(url, retention=hermes_rounds.RETENTION, **config)


def throughput(stage: Round, *, transport: str, size: int, messages: int) -> Metrics:
    """One publisher, one subscriber, both in C, as fast as they can."""
    broker = serve(stage, transport)
    at_once = max(1, min(hermes_rounds.PER_BATCH, BATCH_BYTES // size))
    run = partial(_stream, stage, broker, size=size, at_once=at_once)
    run(messages=messages // 4)  # touches the log
    found = run(messages=messages)
    run(messages=messages // 8, counted=found)
    return found


def _stream(
    stage: Round,
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
        meter = Meter(stage, broker=[broker.process])
        begin(receiver, sender)
        start = sender.hear(RESULT_TIMEOUT_S)["start_ns"]
        got = receiver.hear(RESULT_TIMEOUT_S)
        used = meter.per_message(messages)
    receiver.close()
    sender.close()
    if got["messages"] != messages:
        raise Failed(f"sent {messages} messages, got {got['messages']}")
    return {"messages_per_s": rate(messages, start, got["end_ns"])} | _cpu(used)


def fanout(stage: Round, *, transport: str, connections: int, deliveries: int) -> Metrics:
    """One message at a time, to all; broker and clients each on a core."""
    broker = serve(stage, transport, idle="block")
    rounds = max(20, deliveries // (connections + 3))  # few connections: rounds cost more
    _step(stage, broker, connections, rounds // 10)
    found = _step(stage, broker, connections, rounds)
    _step(stage, broker, connections, rounds // 4, counted=found)
    return found


def _step(
    stage: Round,
    broker: Broker,
    connections: int,
    rounds: int,
    *,
    counted: dict[str, float] | None = None,
) -> dict[str, float]:
    arguments = (compiled(HERE / "lockstep.c"), broker.port, MESSAGE_BYTES, rounds, connections)
    clients = stage.python("wire_roles", "lockstep", *arguments, core=CLIENT_CORE)
    clients.hear()
    deliveries = rounds * connections
    with _counting(broker, counted, deliveries):
        meter = Meter(stage, broker=[broker.process])
        begin(clients)
        report = clients.hear(RESULT_TIMEOUT_S)
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


def roundtrip(stage: Round, *, transport: str, count: int, idle: str) -> Metrics:
    """A client that waits for each message of its own; broker and client each on a core."""
    broker = serve(stage, transport, idle=idle)
    cast = hermes_rounds.users(stage, broker, spin_s=SPIN_S if idle == "spin" else 0.0)
    sample = stage.measure(cast, Job("round_trip", MESSAGE_BYTES), count)
    found = percentiles(sample.latency)
    if idle == "spin":  # its processor time says how long it ran, not what it did
        return found
    return found | cpu_ns(sample, "broker")


def _row(kind: str, transport: str) -> str:
    return f"{kind}, {transport}"


def question(scale: Scale) -> Question:
    """Each kind of work, over both."""
    count = scale.pick(20_000, 500)
    contestants: list[Contestant] = []
    targets: list[Target] = []

    def both(
        kind: str,
        run: partial[Metrics],
        metric: str,
        limit: float,
        text: str,
        *,
        pinned: bool = False,
    ) -> None:
        rows = [_row(kind, transport) for transport in (TCP, URING)]
        contestants.extend(
            Contestant(row, partial(run, transport=transport), pinned=pinned)
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
        both(kind, run, "per_cpu_second", wanted, "messages per CPU second", pinned=True)
        if connections >= 64:
            rows = (_row(kind, URING), _row(kind, TCP))
            text = f"{kind}: system calls"
            targets.append(
                Target(text, rows[0], "calls_per_message", 0.1, at_most=True, of=rows[1:])
            )
    for idle in ("block", "adaptive", "spin"):
        run = partial(roundtrip, count=count, idle=idle)
        both(f"round trip, --idle {idle}", run, "p50_us", 1 / 0.9, "median", pinned=True)
    return Question(
        name="uring",
        asks="The same over tcp and over uring+tcp",
        contestants=tuple(contestants),
        targets=tuple(targets),
    )
