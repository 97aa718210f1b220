"""Rows of a NumPy array, from array to array without a Python object for each message.

Needs the extra `numpy`. Prints how many ticks arrived, and the mean of their prices:

    100000 ticks, mean price 150.00
"""

import numpy as np

import hermes

TICK = np.dtype([("price", "f8"), ("size", "i4"), ("flags", "i4")])
TICKS = 100_000
WAIT_S = 10


def main() -> None:
    ticks = np.zeros(TICKS, TICK)
    ticks["price"] = np.linspace(100, 200, TICKS)

    with (
        hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker,
        hermes.connect(broker.url) as client,
    ):
        with client.publisher("ticks.a") as feed:
            feed.send_rows(ticks)

        count, total = 0, 0.0
        with client.subscribe("ticks.a", start="earliest") as subscription:
            for batch in subscription.batches(timeout=WAIT_S):
                rows = batch.rows(TICK)  # a record for each message of the batch
                count += len(rows)
                total += rows["price"].sum()
                if count == TICKS:
                    break

    print(f"{count} ticks, mean price {total / count:.2f}")


if __name__ == "__main__":
    main()
