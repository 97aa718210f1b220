"""Programs of a ZeroMQ estate that know nothing of Hermes, and the proxy they might have used.

The publisher sends probes until it is told to begin, so that a subscriber that has seen one knows
that the way is open; then messages, then an end mark until it is killed.  High-water marks are
ZeroMQ's own unless a role is told otherwise; the publisher waits where it would drop, so what is
missing was lost between.

    proxy HWM                                    prints its two addresses
    publish ADDRESS COUNT SIZE PARTS HWM
    subscribe ADDRESS PARTS HWM
"""

from __future__ import annotations

import select
import sys
import time
from typing import Any

import zmq

from benchmarks.system.harness import report

TOPIC = b"md.xnas.AAPL"
PROBE, END = b"probe", b"end"
PROBE_PAUSE_S = 0.01


def _socket(context: zmq.Context[Any], kind: int, hwm: int) -> zmq.Socket[Any]:
    socket: zmq.Socket[Any] = context.socket(kind)
    socket.set_hwm(hwm)
    return socket


def _address(socket: zmq.Socket[Any]) -> str:
    return str(socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")


def proxy(hwm: int) -> None:
    """Forward until killed."""
    with zmq.Context() as context:
        front, back = _socket(context, zmq.XSUB, hwm), _socket(context, zmq.XPUB, hwm)
        front.bind("tcp://127.0.0.1:*")
        back.bind("tcp://127.0.0.1:*")
        print(_address(front), _address(back), flush=True)
        zmq.proxy(front, back)


def message(payload: bytes, parts: int) -> list[bytes]:
    """As two parts, or as one with a space."""
    return [TOPIC, payload] if parts == 2 else [TOPIC + b" " + payload]


def publish(address: str, count: int, size: int, parts: int, hwm: int) -> None:
    """Send ``count`` messages as fast as it goes."""
    whole = message(bytes(size), parts)
    with zmq.Context() as context, _socket(context, zmq.XPUB, hwm) as publisher:
        publisher.setsockopt(zmq.XPUB_NODROP, 1)
        publisher.connect(address)
        if not publisher.poll(30_000):
            raise SystemExit("nobody subscribed")
        publisher.recv()
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], PROBE_PAUSE_S)[0]:
            publisher.send_multipart(message(PROBE, parts))
        sys.stdin.readline()
        send: Any = publisher.send_multipart if parts == 2 else publisher.send
        what: Any = whole if parts == 2 else whole[0]
        start = time.monotonic_ns()
        for _ in range(count):
            send(what)
        report(start_ns=start, end_ns=time.monotonic_ns())
        while True:  # until killed: one may be dropped
            publisher.send_multipart(message(END, parts))
            time.sleep(PROBE_PAUSE_S)


def subscribe(address: str, parts: int, hwm: int) -> None:
    """Receive until the end mark; ready when a probe has come."""
    with zmq.Context() as context, _socket(context, zmq.SUB, hwm) as subscriber:
        subscriber.connect(address)
        subscriber.subscribe(TOPIC)
        receive: Any = subscriber.recv_multipart if parts == 2 else subscriber.recv
        probe, end = (message(mark, parts) for mark in (PROBE, END))
        first, last = (probe, end) if parts == 2 else (probe[0], end[0])
        receive()
        print("ready", flush=True)
        sys.stdin.readline()
        got = receive()
        while got == first:
            got = receive()
        count = 0
        finished = time.monotonic_ns()
        while got != last:
            count += 1
            finished = time.monotonic_ns() if count % 64 == 0 else finished
            got = receive()
        report(end_ns=time.monotonic_ns() if count == 0 else finished, messages=count)


def main(role: str, *arguments: str) -> None:
    """Play ``role``."""
    if role == "proxy":
        proxy(int(arguments[0]))
    elif role == "publish":
        publish(arguments[0], *map(int, arguments[1:]))
    elif role == "subscribe":
        subscribe(arguments[0], *map(int, arguments[1:]))


if __name__ == "__main__":
    main(*sys.argv[1:])
