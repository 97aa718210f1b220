"""ZeroMQ PUB and SUB programs, unchanged, with a log between them.

Needs the extra `zmq`. The two functions know nothing of Hermes. A reader that comes later gets the
same messages from the log. Prints:

    SUB received md.AAPL 190.5
    from the log: md.AAPL 190.5
"""

from __future__ import annotations

import zmq

import hermes

WAIT_S = 10
POLL_MS = 10


def subscribe(context: zmq.SyncContext, address: str) -> zmq.SyncSocket:
    """A subscriber, as it was before."""
    socket = context.socket(zmq.SUB)
    socket.connect(address)
    socket.subscribe(b"md.")
    return socket


def publish(context: zmq.SyncContext, address: str, subscriber: zmq.SyncSocket) -> None:
    """A publisher, as it was before; it repeats its price until the subscriber is connected."""
    with context.socket(zmq.PUB) as socket:
        socket.connect(address)
        while not subscriber.poll(POLL_MS):
            socket.send_multipart([b"md.AAPL", b"190.5"])


def main() -> None:
    listener = "zmq+tcp://127.0.0.1:0"
    with hermes.Broker(listeners=[listener], storage="memory:") as broker:
        doors = broker.listeners[0].doors  # addresses for ZeroMQ sockets, by role
        context = zmq.Context()
        subscriber = subscribe(context, doors["sub"])
        publish(context, doors["pub"], subscriber)
        topic, price = subscriber.recv_multipart()
        print("SUB received", topic.decode(), price.decode())
        context.destroy(linger=0)

        with (
            hermes.connect(broker.url) as client,
            client.subscribe("md.>", start="earliest") as later,
        ):
            message = later.receive(timeout=WAIT_S)
            print("from the log:", message.topic, bytes(message.payload).decode())


if __name__ == "__main__":
    main()
