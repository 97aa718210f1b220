"""A pipeline of two stages; the broker remembers how far each stage is.

The first worker reads orders and publishes invoices under the durable name `invoicing`. It stops in
the middle, as if it had crashed; the next one begins behind the last commit. Prints:

    first worker: orders 1 to 3
    second worker: orders 4 to 6
    invoices: 6
"""

import hermes

ORDERS = 6
WAIT_S = 10


def work(url: str, count: int) -> list[str]:
    """Read `count` orders, publish an invoice for each, and commit behind the invoice."""
    done = []
    with (
        hermes.connect(url, name="worker") as client,
        client.subscribe("orders.>", durable="invoicing", start="earliest") as orders,
        client.publisher("invoices") as invoices,
    ):
        for _ in range(count):
            order = orders.receive(timeout=WAIT_S)
            invoices.send(b"invoice for " + bytes(order.payload))
            invoices.flush()  # the invoice is in the log: now the order is done
            orders.commit()
            done.append(bytes(order.payload).decode())
    return done


def main() -> None:
    with (
        hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker,
        hermes.connect(broker.url) as shop,
    ):
        with shop.publisher("orders.new") as publisher:
            publisher.send_many([b"%d" % number for number in range(1, ORDERS + 1)])

        for name in ("first", "second"):
            done = work(broker.url, ORDERS // 2)
            print(f"{name} worker: orders {done[0]} to {done[-1]}")

        with shop.subscribe("invoices", start="earliest") as invoices:
            found = [invoices.receive(timeout=WAIT_S) for _ in range(ORDERS)]
        print(f"invoices: {len(found)}")


if __name__ == "__main__":
    main()
