"""Real broker processes on real TCP ports."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.broker.rawclient import RawClient

SERVE = """
import sys
from hermes.broker import Broker
broker = Broker(**eval(sys.argv[1]))
broker.open()
print(broker.url, flush=True)
broker.run()
"""
EXIT_S = 30.0


class BrokerProcess:
    """A broker in a process of its own."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = {"listeners": ["tcp://127.0.0.1:0"], "idle": "block", **settings}
        self.process = processes.start(
            *("-c", SERVE, repr(self.settings)), stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, "the broker did not start"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("tcp://").rpartition(":")
        return host, int(port)

    @property
    def resident(self) -> int:
        """Bytes of memory that are this process's own: files it has mapped are the page cache's."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("RssAnon:")[2].split()[0]) * 1024

    def kill(self) -> None:
        """End it as a power cut would, but for the page cache."""
        self.process.kill()
        self.process.wait(EXIT_S)

    def stop(self) -> int:
        """End it in order; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(EXIT_S)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., BrokerProcess]]:
    """Start a broker process: ``spawn(**settings)``."""
    with ExitStack() as stack:

        def start(**settings: Any) -> BrokerProcess:
            broker = BrokerProcess({"storage": "memory:", **settings})
            stack.callback(broker.stop)
            return broker

        yield start


@pytest.fixture
def connect() -> Iterator[Callable[..., RawClient]]:
    """Connect a raw client: ``connect(broker)``."""
    clients: list[RawClient] = []

    def dial(broker: BrokerProcess, **options: Any) -> RawClient:
        clients.append(RawClient(broker.url, **options))
        return clients[-1]

    yield dial
    for client in clients:
        client.close()
