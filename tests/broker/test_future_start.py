"""A start at a time that is yet to come delivers nothing that was appended before."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import hermes
from hermes.broker import Broker

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0


def storage_url(name: str, directory: Path) -> str:
    """A storage of each kind."""
    return "memory:" if name == "memory" else f"{name}:{directory}/data"


@pytest.mark.parametrize("listener", ["inproc:", "uring+tcp://127.0.0.1:0"])
@pytest.mark.parametrize("pattern", ["a.b", "a.*", ">"])
@pytest.mark.parametrize("storage", ["memory", "mmap", "sqlite"])
def test_nothing_earlier_is_delivered(
    storage: str, pattern: str, listener: str, tmp_path: Path
) -> None:
    """Messages appended before the time are passed over, whatever else goes on; what comes then is
    delivered, with no gap."""
    settings = {"listeners": [listener], "storage": storage_url(storage, tmp_path)}
    try:
        broker = Broker(**settings).start()
    except hermes.HermesError as error:
        pytest.skip(str(error))
    with (
        broker,
        hermes.connect(broker.url) as client,
        client.publisher() as publisher,
    ):
        publisher.send(b"before", topic="a.b")
        publisher.flush()
        begins = datetime.now() + timedelta(seconds=2)
        found = client.subscribe(pattern, start=begins, on_gap="raise")
        for _ in range(20):
            publisher.send(b"early", topic="a.b")
            publisher.send(b"elsewhere", topic="b")
            publisher.flush()
        with pytest.raises(hermes.Timeout):
            found.receive(timeout=0.5)
        time.sleep(max(0.0, begins.timestamp() - time.time()) + 0.05)
        publisher.send(b"late", topic="a.b")
        publisher.send(b"later", topic="a.b")
        publisher.flush()

        assert [found.receive(timeout=DEADLINE_S).payload for _ in range(2)] == [b"late", b"later"]


@pytest.mark.parametrize("storage", ["mmap", "sqlite"])
def test_a_reconnect_before_the_time_changes_nothing(storage: str, tmp_path: Path) -> None:
    """A subscription that has connected again still delivers nothing from before its time."""
    settings = {"listeners": ["inproc://again"], "storage": storage_url(storage, tmp_path)}
    begins = datetime.now() + timedelta(hours=1)
    with Broker(**settings) as broker:
        client = hermes.connect(broker.url)
        publisher = client.publisher("a")
        found = client.subscribe("a", start=begins)
        publisher.send(b"early")
        publisher.flush()
        with pytest.raises(hermes.Timeout):
            found.receive(timeout=0.2)
    with Broker(**settings), client:
        publisher.send(b"early, too")
        publisher.flush()
        with pytest.raises(hermes.Timeout):
            found.receive(timeout=0.5)
        assert publisher.acked == 2
