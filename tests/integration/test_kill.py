"""``kill -9`` of a broker at any instant: what was acknowledged is there afterwards, in order,
once."""

from __future__ import annotations

import random
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes.wire import messages as m
from tests.broker.rawclient import RawClient
from tests.effort import effort
from tests.ports import free_ports

Spawn = Callable[..., Any]

ROUNDS = {"mmap": effort(10, 25), "sqlite": effort(4, 8)}
"""Kills of a broker: one whose log is slow takes long over what was published meanwhile."""
PUBLISHERS = 3
MESSAGES_MAX = 400_000
TIMEOUT_S = 60.0


def payload(publisher: int, number: int, size: int) -> bytes:
    """A message that says which it is, and whether it is whole."""
    body = b"%d:%d:" % (publisher, number) + b"x" * size
    return b"%08x:" % zlib.crc32(body) + body


def read(data: bytes) -> tuple[int, int]:
    """Publisher and number of a payload; fails if it is not whole."""
    checksum, _, body = data.partition(b":")
    assert int(checksum, 16) == zlib.crc32(body), "a message that is not whole"
    publisher, number, _ = body.split(b":", 2)
    return int(publisher), int(number)


class Load(threading.Thread):
    """One publisher on a client of its own; goes on through every restart."""

    def __init__(self, url: str, index: int, level: str, seed: int) -> None:
        super().__init__(name=f"publisher-{index}")
        self.url = url
        self.index = index
        self.level: Any = level
        self.chance = random.Random(seed)
        self.ready = threading.Event()
        self.done = threading.Event()
        self.sent = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with (
                hermes.connect(self.url, timeout=TIMEOUT_S, reconnect=TIMEOUT_S) as client,
                client.publisher(f"load.{self.index}", ack=self.level, window=1 << 20) as publisher,
            ):
                self.ready.set()
                while not self.done.is_set() and self.sent < MESSAGES_MAX:
                    count = self.chance.choice([1, 1, 3, 50])
                    size = self.chance.choice([0, 10, 300, 5000])
                    first = self.sent + 1
                    publisher.send_many(
                        [payload(self.index, first + i, size) for i in range(count)]
                    )
                    self.sent += count
                publisher.flush()
        except BaseException as error:  # shown by the test, in its own thread
            self.failure = error


def settings(tmp_path: Path, storage: str = "mmap", **more: Any) -> dict[str, Any]:
    """Small segments, so that the kills meet rolls of every kind."""
    place = f"{storage}:{tmp_path}/data"
    return {"storage": place, "segment": "1MiB", "retention": "100GiB", **more}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("storage", ROUNDS)
def test_acknowledged_messages_survive_kills(spawn: Spawn, tmp_path: Path, storage: str) -> None:
    """Through many kills under load every message is in the log at the end: whole, in order,
    once."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    url = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    broker = spawn(**settings(tmp_path, storage, listeners=[url]))
    loads = [
        Load(url, i, level, chance.randrange(2**32))
        for i, level in enumerate(["appended", "durable", "appended"][:PUBLISHERS])
    ]
    for load in loads:
        load.start()
        assert load.ready.wait(TIMEOUT_S)

    for _ in range(ROUNDS[storage]):
        time.sleep(chance.uniform(0.0, 0.15))  # the instant of the kill is the experiment
        broker.kill()
        broker = spawn(**settings(tmp_path, storage, listeners=[url]))
    for load in loads:
        load.done.set()
        load.join(TIMEOUT_S)
        assert not load.is_alive()
        assert load.failure is None, load.failure

    numbers: dict[int, list[int]] = {i: [] for i in range(PUBLISHERS)}
    sequences: list[int] = []
    total = sum(load.sent for load in loads)
    with hermes.connect(url, timeout=TIMEOUT_S) as client:
        for message in client.subscribe(">", start="earliest"):
            publisher, number = read(bytes(message.payload))
            numbers[publisher].append(number)
            sequences.append(message.sequence)
            if len(sequences) >= total:
                break
        stats = client.streams()

    assert total > 100
    for load in loads:
        assert numbers[load.index] == list(range(1, load.sent + 1))
    assert sequences == list(range(1, total + 1))
    assert stats[0]["last_sequence"] == total


@pytest.mark.slow
def test_durable_positions_survive_kills(spawn: Spawn, tmp_path: Path) -> None:
    """A committed position is never lost or turned back by a kill: at most one that was not
    answered is added."""
    chance = random.Random(7)
    broker = spawn(**settings(tmp_path))
    client = RawClient(broker.url)
    client.open()
    client.acked(client.publish("a", *[b"x"] * 5000))
    client.close()
    answered = 0
    asked = 0
    for _ in range(10):
        client = RawClient(broker.url)
        client.subscribe(">", start=m.Start(at="durable"), durable="job")
        begun = client.batches[0][2]
        assert answered <= begun <= asked
        answered = asked = begun
        for _ in range(chance.randrange(1, 40)):
            asked += 1
            client.send(client.protocol.commit(1, {"default": asked}))
            if chance.random() < 0.5:
                wanted = asked
                client.expect(m.Commit, lambda c, wanted=wanted: c.positions["default"] >= wanted)
                answered = asked
        broker.kill()
        client.close()
        broker = spawn(**settings(tmp_path))
