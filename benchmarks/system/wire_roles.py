"""Publishers and subscribers without the client library: Python greets the broker, C does the rest.

publish PROGRAM PORT TOPICS SIZE PER_BATCH PER_CALL COUNT
subscribe PROGRAM PORT COUNT PATTERN...         one connection per pattern
lockstep PROGRAM PORT SIZE ROUNDS SUBSCRIBERS
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Callable, Sequence

from hermes.wire import messages
from hermes.wire.client import ClientProtocol


class Greeting:
    """A connection until C takes it over."""

    def __init__(self, port: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.protocol = ClientProtocol()
        self.say(self.protocol.hello(client="benchmarks"))

    def say(self, data: bytes) -> None:
        """Send a control frame."""
        self.connection.sendall(data)

    def wait_for(self, kind: type[messages.Ack | messages.Pong]) -> None:
        """Read until an event of ``kind``; nothing may follow it yet."""
        received = bytearray()
        while chunk := self.connection.recv(65536):
            received += chunk
            start = 0
            view = bytes(received)
            while (event := self.protocol.receive(view, start, len(view))) is not None:
                start = self.protocol.position
                if isinstance(event, messages.Error):
                    raise SystemExit(event.message)
                if isinstance(event, kind):
                    return
            del received[:start]
        raise SystemExit("the broker hung up")

    def hand_over(self) -> str:
        """The descriptor, for a program that replaces this one."""
        fd = self.connection.detach()
        os.set_inheritable(fd, True)
        return str(fd)


def _publishing(port: str) -> tuple[Greeting, int]:
    """A connection with an open publisher, and the publisher's id."""
    greeting = Greeting(int(port))
    publisher = greeting.protocol.new_id()
    greeting.say(greeting.protocol.open_publisher(publisher, os.urandom(16), "none"))
    greeting.wait_for(messages.Ack)
    return greeting, publisher


def publish(program: str, port: str, *numbers: str) -> None:
    """Become ``program``, a publisher."""
    greeting, publisher = _publishing(port)
    os.execv(program, [program, greeting.hand_over(), str(publisher), *numbers])


def _subscribed(port: str, patterns: Sequence[str]) -> list[Greeting]:
    """A connection per pattern, its subscription answered."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    greetings = []
    for pattern in patterns:
        greeting = Greeting(int(port))
        greeting.say(greeting.protocol.subscribe(greeting.protocol.new_id(), pattern))
        greeting.say(greeting.protocol.ping(1))
        greetings.append(greeting)
    for greeting in greetings:
        greeting.wait_for(messages.Pong)
    return greetings


def subscribe(program: str, port: str, count: str, *patterns: str) -> None:
    """Become ``program``, a subscriber on as many connections as there are patterns."""
    greetings = _subscribed(port, patterns)
    os.execv(program, [program, count, *(greeting.hand_over() for greeting in greetings)])


def lockstep(program: str, port: str, size: str, rounds: str, subscribers: str) -> None:
    """Become ``program``: a publisher, and subscribers of everything."""
    subscribed = _subscribed(port, [">"] * int(subscribers))
    publishing, publisher = _publishing(port)
    fds = [greeting.hand_over() for greeting in subscribed]
    os.execv(program, [program, publishing.hand_over(), str(publisher), size, rounds, *fds])


def main(role: str, *arguments: str) -> None:
    """Play ``role``."""
    roles: dict[str, Callable[..., None]] = {
        "publish": publish,
        "subscribe": subscribe,
        "lockstep": lockstep,
    }
    roles[role](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
