"""One event loop: a feed, a board that shows the newest prices, and a worker with a time limit.

Each is a task; the group ends when all have. Prints what each has seen:

    board: AAPL 109, MSFT 209
    worker: 20 prices, then nothing for 0.5 s
    log: 20 messages
"""

import asyncio

import hermes.aio as hermes

PRICES = [
    (f"price.{name}", b"%d" % (base + i))
    for i in range(10)
    for name, base in (("AAPL", 100), ("MSFT", 200))
]


async def feed(client: hermes.Client) -> None:
    async with client.publisher() as publisher:
        for topic, price in PRICES:
            await publisher.send(price, topic)
            await asyncio.sleep(0.001)


async def board(subscription: hermes.Subscription) -> None:
    newest: dict[str, str] = {}
    async for batch in subscription.batches():
        for message in batch:
            newest[message.topic.rpartition(".")[2]] = message.payload.decode()
        if message.payload == PRICES[-1][1]:
            break
    print("board:", ", ".join(f"{name} {price}" for name, price in sorted(newest.items())))


async def worker(subscription: hermes.Subscription) -> None:
    count = 0
    while True:
        try:
            async with asyncio.timeout(0.5):  # one that passes loses no message
                await subscription.receive()
        except TimeoutError:
            break
        count += 1
    print(f"worker: {count} prices, then nothing for 0.5 s")


async def main() -> None:
    with hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker:
        async with hermes.connect(broker.url) as client:
            one, two = await client.subscribe("price.>"), await client.subscribe("price.>")
            async with one, two, asyncio.TaskGroup() as group:
                for task in (board(one), worker(two), feed(client)):
                    group.create_task(task)
            print(f"log: {(await client.streams())[0]['messages']} messages")


asyncio.run(main())
