"""Brokers, clients of them, and a wire between the two that can be cut, held and tampered with."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import hermes


class Wire:
    """Passes bytes between clients and a broker; made for what can go wrong on the way.

    Each direction of each connection has a thread of its own.
    """

    def __init__(self, to: str) -> None:
        self._address = (to.rpartition("//")[2].rpartition(":")[0], int(to.rpartition(":")[2]))
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._flowing = {"up": threading.Event(), "down": threading.Event()}
        for event in self._flowing.values():
            event.set()
        self.refusing = False
        """Whether new connections are hung up on at once."""
        self.tamper: Callable[[bytes], bytes] = lambda data: data
        """Change made to the bytes that come from the broker."""
        self.connections = 0
        self.bytes_up = 0
        """Bytes that were passed to the broker."""
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                if self.refusing:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(self._address)
                except OSError:
                    near.close()
                    continue
                self.connections += 1
                self._pairs.append((near, far))
                self._start(self._pass, near, far, "up")
                self._start(self._pass, far, near, "down")

    def _pass(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._flowing[way].wait()
                data = source.recv(65536)
                if not data:
                    break
                self._flowing[way].wait()
                self.bytes_up += len(data) if way == "up" else 0
                target.sendall(self.tamper(data) if way == "down" else data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def hold(self, way: str) -> None:
        """Pass nothing more ``up`` (to the broker) or ``down``, until :meth:`let_go`."""
        self._flowing[way].clear()

    def let_go(self) -> None:
        """Pass everything again."""
        for event in self._flowing.values():
            event.set()

    def cut(self) -> None:
        """Break every connection; what is under way is lost."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        """Break everything and wait for the threads."""
        self.let_go()
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.cut()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def serve() -> Iterator[Callable[..., hermes.Broker]]:
    """Start a broker: ``serve(**settings)``; over TCP and in memory unless told otherwise."""
    with ExitStack() as stack:

        def start(**settings: Any) -> hermes.Broker:
            settings = {
                "listeners": ["tcp://127.0.0.1:0"],
                "storage": "memory:",
                "idle": "block",
                **settings,
            }
            return stack.enter_context(hermes.Broker(**settings))

        yield start


@pytest.fixture
def broker(serve: Callable[..., hermes.Broker]) -> hermes.Broker:
    """A broker with its defaults."""
    return serve()


@pytest.fixture
def client(broker: hermes.Broker) -> Iterator[hermes.Client]:
    """A client of ``broker``."""
    with hermes.connect(broker.url) as made:
        yield made


@pytest.fixture
def other(broker: hermes.Broker) -> Iterator[hermes.Client]:
    """Another client of ``broker``."""
    with hermes.connect(broker.url) as made:
        yield made


@pytest.fixture
def wire(broker: hermes.Broker) -> Iterator[Wire]:
    """A wire to ``broker``."""
    made = Wire(broker.url)
    yield made
    made.close()
