"""A program, and its tests against a broker of their own.

Needs pytest. The fixtures `hermes_broker` and `hermes_client` come with Hermes; nothing is imported
or configured for them. Run without arguments, this file gives itself to pytest. Prints pytest's
report, which ends with:

    2 passed
"""

import sys

import pytest

import hermes

WAIT_S = 10


def confirm(client: hermes.Client, count: int) -> None:
    """The program under test: confirm so many orders."""
    with (
        client.subscribe("orders.>", start="earliest") as orders,
        client.publisher() as publisher,
    ):
        for _ in range(count):
            order = orders.receive(timeout=WAIT_S)
            publisher.send(b"ok", f"confirmations.{bytes(order.payload).decode()}")


def test_an_order_is_confirmed(hermes_client: hermes.Client) -> None:
    """The confirmation's topic has the number of the order."""
    with hermes_client.publisher("orders.new") as publisher:
        publisher.send(b"42")

    confirm(hermes_client, 1)

    assert {topic["topic"] for topic in hermes_client.topics()} == {
        "orders.new",
        "confirmations.42",
    }


def test_over_a_port(hermes_broker: hermes.Broker) -> None:
    """Each test has an empty broker; a program that connects by itself is given the URL."""
    with hermes.connect(hermes_broker.url) as client:
        assert client.topics() == []


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", __file__]))
