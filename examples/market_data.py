"""A market data feed, and a reader that was away for too long.

The stream `md` keeps one megabyte. A reader that wants everything from sequence 1 is told which
sequences are gone, and goes on behind them: nothing is lost silently. Prints the gap, then the
sequences that were read:

    missing: 1 to ...
    read ... ticks, up to 40000
"""

import struct

import hermes

TICK = struct.Struct("<dI")  # price, size
TICKS = 40_000
WAIT_S = 10

STREAM = {"name": "md", "patterns": ["md.>"], "retention": "1MiB", "segment": "256KiB"}


def publish(client: hermes.Client) -> None:
    """Publish the ticks of a day, many in one call."""
    ticks = [TICK.pack(100 + number / 100, number % 50) for number in range(TICKS)]
    with client.publisher("md.xnas.AAPL") as feed:
        for first in range(0, TICKS, 1000):
            feed.send_many(ticks[first : first + 1000])


def read(client: hermes.Client) -> None:
    """Read all that is there, and print the sequences that are not."""
    gone: list[hermes.Gap] = []
    count = 0
    with client.subscribe("md.>", start=1, on_gap=gone.append) as ticks:
        for message in ticks.messages(timeout=WAIT_S):
            count += 1
            if message.sequence == TICKS:
                break
    for gap in gone:
        print(f"missing: {gap.first} to {gap.last} ({gap.reason})")
    print(f"read {count} ticks, up to {message.sequence}")


def main() -> None:
    with (
        hermes.Broker(
            listeners=["tcp://127.0.0.1:0"], storage="memory:", streams=[STREAM]
        ) as broker,
        hermes.connect(broker.url) as client,
    ):
        publish(client)
        read(client)


if __name__ == "__main__":
    main()
