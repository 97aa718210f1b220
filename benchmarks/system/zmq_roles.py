"""The peer: pyzmq with an XSUB/XPUB proxy, each part in its own process.

Settings are the documented ones for losing nothing at speed: no high-water mark, one I/O thread per
context (the guide's one per gigabyte a second).  The publisher is an XPUB, which is PUB that also
sees subscriptions arrive: so it knows when to begin.

    proxy                                         prints its two addresses
    publish ADDRESS COUNT SIZE COPY
    subscribe ADDRESS COUNT COPY
    pingpong FRONT BACK COUNT SIZE
"""

from __future__ import annotations

import sys
import time
from typing import Any

import zmq

from benchmarks.system.harness import report, role_body


def _socket(context: zmq.Context[Any], kind: int) -> zmq.Socket[Any]:
    socket: zmq.Socket[Any] = context.socket(kind)
    socket.set_hwm(0)
    return socket


def _address(socket: zmq.Socket[Any]) -> str:
    return socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")


def proxy() -> None:
    """Forward until killed."""
    with zmq.Context() as context:
        front, back = _socket(context, zmq.XSUB), _socket(context, zmq.XPUB)
        front.bind("tcp://127.0.0.1:*")
        back.bind("tcp://127.0.0.1:*")
        print(_address(front), _address(back), flush=True)
        zmq.proxy(front, back)


def _await_subscription(publisher: zmq.Socket[Any]) -> None:
    if not publisher.poll(30_000):
        raise SystemExit("no subscription arrived")
    publisher.recv()


def publish(address: str, count: int, size: int, copy: bool) -> None:
    """Send ``count`` messages as fast as it goes."""
    payload = bytes(size)
    with zmq.Context() as context, _socket(context, zmq.XPUB) as publisher:
        publisher.connect(address)
        _await_subscription(publisher)
        with role_body():
            send: Any = publisher.send
            start = time.monotonic_ns()
            for _ in range(count):
                send(payload, copy=copy)
        report(start_ns=start, end_ns=time.monotonic_ns())
        sys.stdin.readline()  # until everybody has everything


def subscribe(address: str, count: int, copy: bool) -> None:
    """Receive ``count`` messages."""
    with zmq.Context() as context, _socket(context, zmq.SUB) as subscriber:
        subscriber.connect(address)
        subscriber.subscribe(b"")
        with role_body():
            receive: Any = subscriber.recv
            for _ in range(count):
                receive(copy=copy)
        report(end_ns=time.monotonic_ns(), messages=count)


def pingpong(front: str, back: str, count: int, size: int) -> None:
    """Publish one message and receive it again, ``count`` times."""
    payload = bytes(size)
    with (
        zmq.Context() as context,
        _socket(context, zmq.XPUB) as publisher,
        _socket(context, zmq.SUB) as subscriber,
    ):
        subscriber.connect(back)
        subscriber.subscribe(b"")
        publisher.connect(front)
        _await_subscription(publisher)
        took = []
        with role_body():
            for _ in range(count // 10 + count):
                start = time.perf_counter_ns()
                publisher.send(payload)
                subscriber.recv()
                took.append(time.perf_counter_ns() - start)
        report(round_trips_ns=took[-count:])


def main(role: str, *arguments: str) -> None:
    """Play ``role``."""
    if role == "proxy":
        proxy()
    elif role == "publish":
        address, count, size, copy = arguments
        publish(address, int(count), int(size), copy == "True")
    elif role == "subscribe":
        address, count, copy = arguments
        subscribe(address, int(count), copy == "True")
    elif role == "pingpong":
        front, back, count, size = arguments
        pingpong(front, back, int(count), int(size))


if __name__ == "__main__":
    main(*sys.argv[1:])
