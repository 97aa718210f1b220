"""Publish with acknowledgements that mean "on the disk", and find the messages after a restart.

The publisher has an id, so the program knows after a restart how much the broker has of it, and
sends nothing twice. Prints, for each of two runs, where the publisher began, then what is kept:

    run 1 begins with payment 1, all on the disk: 3
    run 2 begins with payment 4, all on the disk: 6
    kept: 1 2 3 4 5 6
"""

import hashlib
import tempfile

import hermes

WAIT_S = 10
PAYMENTS_PER_RUN = 3
PUBLISHER_ID = hashlib.blake2b(b"payments of till 1", digest_size=16).digest()


def pay(client: hermes.Client, run: int) -> None:
    """Publish the next payments, and wait until the last is on the disk."""
    with client.publisher("payments", ack="durable", publisher_id=PUBLISHER_ID) as till:
        first = till.sent + 1
        for number in range(first, first + PAYMENTS_PER_RUN):
            till.send(b"%d" % number)
        till.flush()
        print(f"run {run} begins with payment {first}, all on the disk: {till.acked}")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        listeners, storage = ["tcp://127.0.0.1:0"], f"mmap:{directory}/data"
        for run in (1, 2):  # the broker of run 2 opens the log that run 1 has left
            with (
                hermes.Broker(listeners=listeners, storage=storage) as broker,
                hermes.connect(broker.url) as client,
            ):
                pay(client, run)

        with (
            hermes.Broker(listeners=listeners, storage=storage) as broker,
            hermes.connect(broker.url) as client,
            client.subscribe("payments", start="earliest") as payments,
        ):
            count = 2 * PAYMENTS_PER_RUN
            kept = [payments.receive(timeout=WAIT_S).payload for _ in range(count)]
        print("kept:", *(bytes(payload).decode() for payload in kept))


if __name__ == "__main__":
    main()
