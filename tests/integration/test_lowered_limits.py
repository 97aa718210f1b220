"""Messages taken under a larger limit are delivered under a smaller one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes.broker import Broker

DEADLINE_S = 60.0
SMALL, LARGE, LARGEST = b"small", bytes(range(256)) * 4096, bytes(range(256)) * 16384
LOWERED: list[dict[str, Any]] = [
    {"limits": {"message": "64KiB"}},
    {"limits": {"message": "64KiB", "topics": 1, "durables": 1}},
    {"segment": "64KiB"},
    {"streams": [{"name": "other", "patterns": ["other"], "segment": "64KiB"}]},
]
LISTENERS = ["inproc:", "tcp://127.0.0.1:0", "uring+tcp://127.0.0.1:0", "udp://127.0.0.1:0"]
LISTENERS += ["zmq+tcp://127.0.0.1:0?doors=router"]


def started(listener: str, place: str, **settings: Any) -> Broker:
    """A broker, unless this machine cannot have one."""
    try:
        return Broker(listeners=[listener], storage=place, **settings).start()
    except hermes.PluginFailed as error:
        pytest.skip(str(error))


def fill(place: str) -> None:
    """Messages of 5 bytes, 1 MiB and 4 MiB on several topics, and two durable names."""
    with (
        Broker(listeners=["inproc:"], storage=place) as broker,
        hermes.connect(broker.url) as client,
        client.publisher() as publisher,
    ):
        for number in range(2):
            client.subscribe("a.>", durable=f"job-{number}", start="earliest").commit()
        for topic, payload in [("a.b", SMALL), ("a.c", LARGE), ("a.d", LARGEST), ("a.b", SMALL)]:
            publisher.send(payload, topic=topic)


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("storage", ["mmap", "sqlite"])
@pytest.mark.parametrize("lowered", LOWERED, ids=lambda lowered: "+".join(lowered))
def test_what_was_taken_is_delivered(
    lowered: dict[str, Any], storage: str, listener: str, tmp_path: Path
) -> None:
    """From the beginning, by selection, and each topic's newest: no gap, nothing refused."""
    place = f"{storage}:{tmp_path}/data"
    fill(place)
    with started(listener, place, **lowered) as broker, hermes.connect(broker.url) as client:
        everything = client.subscribe(">", start="earliest")
        got = [everything.receive(timeout=DEADLINE_S).payload for _ in range(4)]
        assert got == [SMALL, LARGE, LARGEST, SMALL]
        selected = client.subscribe("a.d", start="earliest")
        assert selected.receive(timeout=DEADLINE_S).payload == LARGEST
        newest = client.subscribe("a.*", start="last")
        assert [newest.receive(timeout=DEADLINE_S).sequence for _ in range(3)] == [2, 3, 4]
        batches = client.subscribe("a.c", start="earliest").batches(timeout=DEADLINE_S)
        assert next(iter(batches)).payloads()[0] == LARGE


@pytest.mark.parametrize("storage", ["mmap", "sqlite"])
def test_the_limit_holds_for_what_is_sent(storage: str, tmp_path: Path) -> None:
    """A publisher is refused what a subscriber on the same client is delivered."""
    place = f"{storage}:{tmp_path}/data"
    fill(place)
    with (
        started("inproc:", place, limits={"message": "64KiB"}) as broker,
        hermes.connect(broker.url) as client,
        client.publisher("a.b") as publisher,
    ):
        with pytest.raises(hermes.errors.MessageTooLarge):
            publisher.send(LARGE)
        found = client.subscribe("a.c", start="earliest")
        assert found.receive(timeout=DEADLINE_S).payload == LARGE
