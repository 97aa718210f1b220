"""A client that publishes at a fixed rate and receives its own messages, as a process.

steady URL RATE SIZE COUNT PASSES   one way: from when a message was to be sent until it is
                                    received; COUNT messages, PASSES times
"""

from __future__ import annotations

import struct
import sys
import time

import hermes
from benchmarks.system.harness import role_body
from hermes.bench.actor import say
from hermes.bench.own import CLIENT_TIMEOUT_S, SPIN_S
from hermes.errors import Timeout

TOPIC = "bench.steady"
NS_PER_S = 1_000_000_000
_TIME = struct.Struct("<Q")
LAST_S = 5.0
"""How long the last messages may take."""


def steady(url: str, rate: int, size: int, count: int, passes: int) -> None:
    """One thread at both ends, several times."""
    with (
        hermes.connect(url, timeout=CLIENT_TIMEOUT_S, spin=SPIN_S) as client,
        client.subscribe(TOPIC) as subscription,
        client.publisher(TOPIC, ack="none") as publisher,
    ):
        for _ in range(passes):
            with role_body():
                took = one_pass(publisher, subscription, rate, size, count // 10 + count)
            say({"one_way_ns": took[-count:]})


def one_pass(
    publisher: hermes.Publisher, subscription: hermes.Subscription, rate: int, size: int, total: int
) -> list[int]:
    """Between two messages it looks for what is under way.  When nothing is it watches the clock: a
    wait for a message that ends without one comes back late, and the next message would leave late.
    """
    pause = NS_PER_S // rate
    filler = bytes(size - _TIME.size)
    took: list[int] = []
    now = time.monotonic_ns
    send, receive, pack, unpack = publisher.send, subscription.receive, _TIME.pack, _TIME.unpack
    begun = now()
    for number in range(total):
        due = begun + number * pause
        while (left := due - now()) > 0:
            if len(took) == number:
                continue
            try:
                message = receive(left / NS_PER_S)
            except Timeout:
                continue
            took.append(now() - unpack(message.payload[: _TIME.size])[0])
        send(pack(due) + filler)
    while len(took) < total:
        message = receive(LAST_S)
        took.append(now() - unpack(message.payload[: _TIME.size])[0])
    return took


if __name__ == "__main__":
    _, _, url, *numbers = sys.argv
    steady(url, *map(int, numbers))
