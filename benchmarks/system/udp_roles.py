"""A client that publishes at a fixed rate and receives its own messages, as a process.

steady URL RATE SIZE COUNT      one way: from when a message was to be sent until it is received
"""

from __future__ import annotations

import struct
import sys
import time

import hermes
from benchmarks.system.harness import report, role_body
from benchmarks.system.hermes_roles import SPIN_S, TIMEOUT_S
from hermes.errors import Timeout

TOPIC = "bench.steady"
NS_PER_S = 1_000_000_000
_TIME = struct.Struct("<Q")
LAST_S = 5.0
"""How long the last messages may take."""


def steady(url: str, rate: int, size: int, count: int) -> None:
    """One thread at both ends: between two messages it looks for what has come."""
    pause = NS_PER_S // rate
    warm = count // 10
    total = warm + count
    took: list[int] = []
    now = time.monotonic_ns
    filler = bytes(size - _TIME.size)
    with (
        hermes.connect(url, timeout=TIMEOUT_S, spin=SPIN_S) as client,
        client.subscribe(TOPIC) as subscription,
        client.publisher(TOPIC, ack="none") as publisher,
    ):
        send, receive, pack, unpack = publisher.send, subscription.receive, _TIME.pack, _TIME.unpack
        with role_body():
            begun = now()
            for number in range(total):
                due = begun + number * pause
                while (left := due - now()) > 0:
                    try:
                        message = receive(left / NS_PER_S)
                    except Timeout:
                        continue
                    took.append(now() - unpack(message.payload[: _TIME.size])[0])
                send(pack(due) + filler)
            while len(took) < total:
                message = receive(LAST_S)
                took.append(now() - unpack(message.payload[: _TIME.size])[0])
        report(one_way_ns=took[warm:])


def main(role: str, *arguments: str) -> None:
    """Play ``role``."""
    assert role == "steady"
    url, rate, size, count = arguments
    steady(url, int(rate), int(size), int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
