"""An independent check of ``hermes bench``: the same quantities, measured another way.

Shares nothing with it: a broker from the ``hermes serve`` command, clients of the public interface in
processes of their own, plain clocks, no histogram.

    python -m tests.bench.own_measure round_trip URL      prints us of a round trip
    python -m tests.bench.own_measure publish URL COUNT   (a helper of the next)
    python -m tests.bench.own_measure throughput URL      prints messages a second
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from array import array

import hermes

SIZE = 256
TRIPS = 3000
MESSAGES = 600_000
CALL = 1024


def round_trip(url: str) -> float:
    """The median of single trips: means of several would be those of a machine's interruptions."""
    trips = []
    with hermes.connect(url) as client:
        subscription = client.subscribe("own.round")
        publisher = client.publisher("own.round")
        messages = iter(subscription)
        for _ in range(TRIPS):
            begun = time.perf_counter()
            publisher.send(b"x" * SIZE)
            next(messages)
            trips.append(time.perf_counter() - begun)
    return statistics.median(trips[TRIPS // 10 :]) * 1e6


def publish(url: str, count: int) -> None:
    """Send in batches, when standard input says so."""
    with hermes.connect(url) as client, client.publisher("own.bulk") as publisher:
        joined, lengths = bytes(SIZE) * CALL, array("I", [SIZE]) * CALL
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(count // CALL):
            publisher.send_many(joined, lengths)


def throughput(url: str) -> float:
    """By the subscriber's clock alone, over the second half of what it gets."""
    count = MESSAGES // CALL * CALL
    with hermes.connect(url) as client:
        subscription = client.subscribe("own.bulk")
        command = [sys.executable, "-m", "tests.bench.own_measure", "publish", url, str(count)]
        sender = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdout.readline()
        sender.stdin.write(b"go\n")
        sender.stdin.flush()
        got = from_number = 0
        begun = 0.0
        for batch in subscription.batches(10):
            got += len(batch)
            if got >= count // 2 and not from_number:
                begun, from_number = time.perf_counter(), got
            if got >= count:
                break
        rate = (got - from_number) / (time.perf_counter() - begun)
        sender.communicate()
    return rate


if __name__ == "__main__":
    what, url = sys.argv[1:3]
    if what == "publish":
        publish(url, int(sys.argv[3]))
    else:
        print({"round_trip": round_trip, "throughput": throughput}[what](url))
