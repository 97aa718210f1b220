"""Programs of a ZeroMQ estate: they know nothing of Hermes, and nothing in them was changed for it.

Each is a process; it prints ``ready`` once it may count on its connection, waits for a line on its
standard input, and prints one JSON object.

    pub ADDRESS COUNT SEED HWM      mixed sizes, numbered; sends probes until told to begin
    push ADDRESS COUNT
    sub ADDRESS COUNT               checks number and size of each; ready when a probe has come
    asub ADDRESS COUNT              the same with zmq.asyncio
    pull ADDRESS                    until an item "stop" comes
"""

from __future__ import annotations

import asyncio
import json
import select
import sys
import time
from typing import Any

import zmq
import zmq.asyncio

TOPICS = (b"md.xnas.AAPL", b"md.xnas.MSFT", b"md.xnys.IBM", b"ref")
SIZES = (0, 1, 7, 8, 40, 256, 256, 256, 300, 1500)


def payload(number: int) -> bytes:
    """A payload that can be checked with nothing else at hand."""
    return b"%d:" % number + b"x" * SIZES[number % len(SIZES)]


def report(**values: object) -> None:
    """The result."""
    print(json.dumps(values), flush=True)


def pub(address: str, count: int, hwm: int) -> None:
    """Numbered messages, and one that says how many there were."""
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.set_hwm(hwm)
        socket.connect(address)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0.01)[0]:
            socket.send_multipart([TOPICS[0], b"probe"])
        sys.stdin.readline()
        send: Any = socket.send_multipart
        for number in range(count):
            send((TOPICS[number & 3], payload(number)))
        report(sent=count)
        while True:  # it is killed when everybody has everything
            time.sleep(0.1)


def check(parts: list[bytes], expected: int) -> int:
    """The number of a message, which must be whole."""
    topic, body = parts
    number = int(body.partition(b":")[0])
    if body != payload(number) or topic != TOPICS[number & 3]:
        raise SystemExit(f"message {number} is not what was sent")
    if number != expected:
        raise SystemExit(f"message {expected} was expected, {number} came")
    return number


def sub(address: str, count: int) -> None:
    """Every message, in order."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(address)
        socket.subscribe(b"")
        parts = socket.recv_multipart()
        print("ready", flush=True)
        received = 0
        while received < count:
            if parts[1] != b"probe":
                check(parts, received)
                received += 1
                if received == count:
                    break
            parts = socket.recv_multipart()
    report(received=received)


async def asub(address: str, count: int) -> None:
    """The same on asyncio."""
    with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(address)
        for prefix in (b"md.", b"ref"):
            socket.subscribe(prefix)
        parts = await socket.recv_multipart()
        print("ready", flush=True)
        received = 0
        while received < count:
            if parts[1] != b"probe":
                check(parts, received)
                received += 1
                if received == count:
                    break
            parts = await socket.recv_multipart()
    report(received=received)


def push(address: str, count: int) -> None:
    """Numbered items of work."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(address)
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(count):
            socket.send(b"%d" % number)
        report(sent=count)


def pull(address: str) -> None:
    """Items until one says stop; ready once it has had one that is no work."""
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.connect(address)
        items = []
        ready = False
        while (item := socket.recv()) != b"stop":
            if item != b"probe":
                items.append(int(item))
            elif not ready:
                ready = True
                print("ready", flush=True)
    report(items=items)


def main(role: str, address: str, *numbers: str) -> None:
    """Play ``role``."""
    arguments = map(int, numbers)
    if role == "asub":
        asyncio.run(asub(address, *arguments))
    else:
        {"pub": pub, "sub": sub, "push": push, "pull": pull}[role](address, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
