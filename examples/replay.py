"""Read the past again: from the beginning, from a time, and from a position.

A position is stored as text, as a program would store it beside its results. Prints which messages
each replay begins and ends with:

    from the earliest: 1 to 6
    from a time: 4 to 6
    from a position: 3 to 6
"""

from datetime import UTC, datetime
from time import sleep
from typing import Literal

import hermes

Beginning = Literal["earliest"] | datetime | dict[str, hermes.Position]
WAIT_S = 10
PAUSE_S = 0.05  # between the messages of the morning and those of the afternoon


def replay(client: hermes.Client, start: Beginning) -> str:
    """The first and the last number from there on."""
    numbers: list[str] = []
    with client.subscribe("log.>", start=start) as subscription:
        while not numbers or numbers[-1] != "6":
            numbers.append(subscription.receive(timeout=WAIT_S).payload.decode())
    return f"{numbers[0]} to {numbers[-1]}"


def main() -> None:
    with (
        hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker,
        hermes.connect(broker.url) as client,
    ):
        with client.publisher("log.events") as publisher:
            publisher.send_many([b"1", b"2", b"3"])
            publisher.flush()
            sleep(PAUSE_S)
            noon = datetime.now(UTC)
            publisher.send_many([b"4", b"5", b"6"])

        with client.subscribe("log.>", start="earliest") as reader:
            reader.receive(timeout=WAIT_S)
            reader.receive(timeout=WAIT_S)
            stored = {stream: position.text for stream, position in reader.positions.items()}

        positions = {stream: hermes.Position.parse(text) for stream, text in stored.items()}
        print("from the earliest:", replay(client, "earliest"))
        print("from a time:", replay(client, noon))
        print("from a position:", replay(client, positions))


if __name__ == "__main__":
    main()
