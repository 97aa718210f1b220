"""Sensors of a plant: one publisher, three subscribers, each with a pattern of its own.

A display that is opened later begins with the newest value of each sensor. Prints how many values
each subscriber got, and what the display shows:

    everything: 6 values
    temperatures: 4 values
    hall1: 3 values
    display: plant.hall1.temperature = 21.5
    ...
"""

import hermes

READINGS = [
    ("plant.hall1.temperature", b"20.0"),
    ("plant.hall2.temperature", b"18.5"),
    ("plant.hall1.humidity", b"41"),
    ("plant.hall2.temperature", b"18.0"),
    ("plant.hall2.humidity", b"44"),
    ("plant.hall1.temperature", b"21.5"),
]
PATTERNS = {
    "everything": (">", 6),
    "temperatures": ("plant.*.temperature", 4),
    "hall1": ("plant.hall1.>", 3),
}
WAIT_S = 10


def main() -> None:
    with (
        hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker,
        hermes.connect(broker.url, name="sensors") as sensors,
        hermes.connect(broker.url, name="readers") as readers,
    ):
        subscriptions = {
            name: readers.subscribe(pattern) for name, (pattern, _) in PATTERNS.items()
        }
        with sensors.publisher() as publisher:
            for topic, value in READINGS:
                publisher.send(value, topic)

        for name, subscription in subscriptions.items():
            values = [subscription.receive(timeout=WAIT_S) for _ in range(PATTERNS[name][1])]
            print(f"{name}: {len(values)} values")
            subscription.close()

        with readers.subscribe("plant.>", start="last") as display:
            newest = [display.receive(timeout=WAIT_S) for _ in range(4)]
        for message in sorted(newest, key=lambda message: message.topic):
            print(f"display: {message.topic} = {bytes(message.payload).decode()}")


if __name__ == "__main__":
    main()
