"""A broker that stops in order while clients are at work, and its successor at the same address."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import hermes
from hermes.wire.messages import AckLevel
from tests.effort import effort
from tests.transports.uring import needs_uring

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

PAIRS = effort(3, 5)
"""Publishers, and subscribers, each on a client of its own."""
BEFORE_A_STOP = effort(30, 100)
"""Messages each subscriber has before the next stop."""
PACE_S = 0.001
"""Between two messages of a publisher."""
STOPS = 2
TIMEOUT_S = 60.0

TRANSPORTS = ["tcp", pytest.param("uring+tcp", marks=needs_uring), "udp", "zmq+tcp"]
OPTIONS = {"zmq+tcp": "?doors=router"}


class Pair:
    """A publisher that sends numbers, and a durable subscriber that commits each it has."""

    def __init__(self, url: str, number: int, ack: AckLevel) -> None:
        self.topic = f"pair.{number}"
        self.ack = ack
        self.url = url
        self.sent = 0
        self.received: list[int] = []
        self.failures: list[BaseException] = []
        self.subscribed = threading.Event()
        self.ending = threading.Event()
        self.progress = threading.Condition()
        self.threads = [
            threading.Thread(target=self._guard, args=(work,))
            for work in (self._receive, self._send)
        ]
        for thread in self.threads:
            thread.start()

    def _guard(self, work: Callable[[hermes.Client], None]) -> None:
        try:
            with hermes.connect(self.url, timeout=TIMEOUT_S, reconnect=TIMEOUT_S) as client:
                work(client)
        except BaseException as error:
            self.failures.append(error)
            self.subscribed.set()
            with self.progress:
                self.progress.notify_all()

    def _send(self, client: hermes.Client) -> None:
        assert self.subscribed.wait(TIMEOUT_S)
        with client.publisher(self.topic, ack=self.ack) as publisher:
            while not self.ending.wait(PACE_S):
                self.sent += 1
                publisher.send(b"%d" % self.sent)
                if self.sent % 20 == 0:
                    publisher.flush()
            publisher.send(b"0")

    def _receive(self, client: hermes.Client) -> None:
        subscription = client.subscribe(self.topic, durable=self.topic)
        self.subscribed.set()
        while number := int(subscription.receive(TIMEOUT_S).payload):
            self.received.append(number)
            if len(self.received) % 10 == 0:
                subscription.commit()
            with self.progress:
                self.progress.notify_all()

    def await_messages(self, count: int) -> None:
        """Wait until ``count`` more have been received."""
        target = len(self.received) + count
        with self.progress:
            assert self.progress.wait_for(
                lambda: self.failures or len(self.received) >= target, TIMEOUT_S
            )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_all_go_on_when_a_broker_is_stopped_and_started(transport: str, tmp_path: Path):
    """Publishers and subscribers outlive orderly stops, while flushes and commits wait; each message
    is received once, in order."""
    settings = {"storage": f"mmap:{tmp_path}/data", "idle": "block"}
    broker = hermes.Broker(
        listeners=[f"{transport}://127.0.0.1:0{OPTIONS.get(transport, '')}"], **settings
    ).start()
    url = broker.url
    acks: list[AckLevel] = ["appended", "durable"]
    pairs = [Pair(url, number, acks[number % 2]) for number in range(PAIRS)]
    try:
        for _ in range(STOPS):
            for pair in pairs:
                pair.await_messages(BEFORE_A_STOP)
            broker.close()
            broker = hermes.Broker(listeners=[url], **settings).start()
        for pair in pairs:
            pair.await_messages(BEFORE_A_STOP)
    finally:
        for pair in pairs:
            pair.ending.set()
        for pair in pairs:
            for thread in pair.threads:
                thread.join(TIMEOUT_S)
        broker.close()

    assert [pair.failures for pair in pairs] == [[]] * PAIRS
    for pair in pairs:
        assert pair.received == list(range(1, pair.sent + 1))
