"""The same program over two transports; a flag chooses one.

`--transport tcp` or `--transport udp` uses that one alone; so does another that takes an address and
a port. Without a flag the broker listens over both, side by side, on one log. Prints a line for
each, with the median time from `send` to `receive`:

    tcp: 200 messages, median ... us
    udp: 200 messages, median ... us
"""

import argparse
from statistics import median
from time import perf_counter_ns

import hermes

MESSAGES = 200
WAIT_S = 10


def measure(url: str, topic: str) -> float:
    """The median microseconds of a message on its way through the broker."""
    times = []
    with (
        hermes.connect(url) as client,
        client.subscribe(topic) as subscription,
        client.publisher(topic) as publisher,
    ):
        for _ in range(MESSAGES):
            sent = perf_counter_ns()
            publisher.send(b"ping")
            subscription.receive(timeout=WAIT_S)
            times.append((perf_counter_ns() - sent) / 1000)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a round trip over transports.")
    parser.add_argument("--transport", action="append", help="tcp, udp, ...; may be repeated")
    transports = parser.parse_args().transport or ["tcp", "udp"]

    listeners = [f"{transport}://127.0.0.1:0" for transport in transports]
    with hermes.Broker(listeners=listeners, storage="memory:") as broker:
        for transport, listener in zip(transports, broker.listeners, strict=True):
            microseconds = measure(listener.url, f"trial.{transport}")
            print(f"{transport}: {MESSAGES} messages, median {microseconds:.0f} us")


if __name__ == "__main__":
    main()
