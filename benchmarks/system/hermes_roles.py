"""Users of the public client, each a process; ``+busy`` behind an API adds a thread that computes.

publish URL TOPIC SIZE COUNT API         API: rows, many, one (with a linger), each (without)
subscribe URL PATTERN COUNT API          API: batches, objects
stall URL PATTERN                        subscribes and never reads
pingpong URL SIZE COUNT WAIT ACK         WAIT: poll, block
embedded [busy]                          a broker in this process; prints its URL
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable

import hermes
from benchmarks.system.harness import report, role_body
from hermes.wire.messages import AckLevel

ROWS = 4096
"""Messages of one ``send_rows``."""
MANY = 1000
"""Messages of one ``send_many``."""
LINGER_S = 0.001
SPIN_S = 1.0
"""Longer than any round trip: a client that polls never sleeps."""
TIMEOUT_S = 60.0


def _compute() -> None:
    number = 1
    while True:
        number = number * 1103515245 + 12345 & 0x7FFFFFFF


def _busy(wanted: bool) -> None:
    if wanted:
        threading.Thread(target=_compute, daemon=True).start()


def _split(api: str) -> tuple[str, bool]:
    name, _, extra = api.partition("+")
    return name, extra == "busy"


def _rows(publisher: hermes.Publisher, size: int, count: int) -> None:
    import numpy as np

    rows = np.zeros((ROWS, size), dtype=np.uint8)
    for _ in range(count // ROWS):
        publisher.send_rows(rows)
    if count % ROWS:
        publisher.send_rows(rows[: count % ROWS])


def _many(publisher: hermes.Publisher, size: int, count: int) -> None:
    payloads = [bytes(size)] * MANY
    for _ in range(count // MANY):
        publisher.send_many(payloads)
    if count % MANY:
        publisher.send_many(payloads[: count % MANY])


def _one(publisher: hermes.Publisher, size: int, count: int) -> None:
    payload = bytes(size)
    send = publisher.send
    for _ in range(count):
        send(payload)


PUBLISH: dict[str, Callable[[hermes.Publisher, int, int], None]] = {
    "rows": _rows,
    "many": _many,
    "one": _one,
    "each": _one,
}


def publish(url: str, topic: str, size: int, count: int, api: str) -> None:
    """Publish ``count`` messages by one of the ways."""
    name, busy = _split(api)
    linger = LINGER_S if name == "one" else None
    with (
        hermes.connect(url, timeout=TIMEOUT_S) as client,
        client.publisher(topic, linger=linger) as publisher,
    ):
        _busy(busy)
        with role_body():
            start = time.monotonic_ns()
            PUBLISH[name](publisher, size, count)
            handed_over = time.monotonic_ns()
            publisher.flush()
        report(start_ns=start, handed_over_ns=handed_over, end_ns=time.monotonic_ns())
        sys.stdin.readline()


def _take_batches(subscription: hermes.Subscription, count: int) -> int:
    received = 0
    for batch in subscription.batches():
        received += len(batch)
        if received >= count:
            break
    return received


def _take_objects(subscription: hermes.Subscription, count: int) -> int:
    received = 0
    for message in subscription:
        message.payload  # noqa: B018 - a user would look at it
        received += 1
        if received == count:
            break
    return received


def subscribe(url: str, pattern: str, count: int, api: str) -> None:
    """Receive ``count`` messages by one of the ways."""
    name, busy = _split(api)
    take = _take_batches if name == "batches" else _take_objects
    with (
        hermes.connect(url, timeout=TIMEOUT_S) as client,
        client.subscribe(pattern) as subscription,
    ):
        _busy(busy)
        with role_body():
            received = take(subscription, count)
        report(end_ns=time.monotonic_ns(), messages=received)


def stall(url: str, pattern: str) -> None:
    """Subscribe and read nothing until told to end."""
    with hermes.connect(url, timeout=TIMEOUT_S) as client:
        client.subscribe(pattern)
        with role_body():
            sys.stdin.readline()


def pingpong(url: str, size: int, count: int, wait: str, ack: AckLevel) -> None:
    """Publish a message and receive it, ``count`` times."""
    payload = bytes(size)
    took = []
    with (
        hermes.connect(url, timeout=TIMEOUT_S, spin=SPIN_S if wait == "poll" else 0.0) as client,
        client.subscribe("bench.pingpong") as subscription,
        client.publisher("bench.pingpong", ack=ack) as publisher,
    ):
        messages = iter(subscription)
        with role_body():
            for _ in range(count // 10 + count):
                start = time.perf_counter_ns()
                publisher.send(payload)
                next(messages)
                took.append(time.perf_counter_ns() - start)
        report(round_trips_ns=took[-count:])


def embedded(busy: bool) -> None:
    """Serve from within a program, which may have better things to do."""
    with (
        tempfile.TemporaryDirectory(prefix="hermes-bench-") as directory,
        hermes.Broker(
            listeners=["tcp://127.0.0.1:0"], storage=f"mmap:{directory}", retention="2GiB"
        ) as broker,
    ):
        _busy(busy)
        print(broker.listeners[0].url, flush=True)
        sys.stdin.readline()


def main(role: str, *arguments: str) -> None:
    """Play ``role``."""
    if role == "publish":
        url, topic, size, count, api = arguments
        publish(url, topic, int(size), int(count), api)
    elif role == "subscribe":
        url, pattern, count, api = arguments
        subscribe(url, pattern, int(count), api)
    elif role == "stall":
        stall(*arguments)
    elif role == "pingpong":
        url, size, count, wait, ack = arguments
        pingpong(url, int(size), int(count), wait, "none" if ack == "none" else "appended")
    elif role == "embedded":
        embedded("busy" in arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
