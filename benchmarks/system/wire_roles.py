"""A publisher without the client library: greets the broker, then C writes one-message batches.

    publish PROGRAM PORT TOPIC SIZE PER_CALL COUNT
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

from hermes.wire import messages
from hermes.wire.client import ClientProtocol, Event


def _events(connection: socket.socket, protocol: ClientProtocol) -> Iterator[Event]:
    received = bytearray()
    while chunk := connection.recv(65536):
        received += chunk
        start = 0
        while (event := protocol.receive(bytes(received), start, len(received))) is not None:
            start = protocol.position
            yield event
        del received[:start]


def publish(program: str, port: str, topic: str, size: str, per_call: str, count: str) -> None:
    """Become ``program`` on a connection that has been greeted."""
    connection = socket.create_connection(("127.0.0.1", int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    protocol = ClientProtocol()
    publisher = protocol.new_id()
    connection.sendall(protocol.hello(client="benchmarks"))
    connection.sendall(protocol.open_publisher(publisher, os.urandom(16), "none"))
    for event in _events(connection, protocol):
        if isinstance(event, messages.Error):
            raise SystemExit(event.message)
        if isinstance(event, messages.Ack):
            break
    else:
        raise SystemExit("the broker hung up")
    fd = connection.fileno()
    os.set_inheritable(fd, True)
    os.execv(program, [program, str(fd), str(publisher), topic, size, per_call, count])


if __name__ == "__main__":
    publish(*sys.argv[2:])
