"""A full disk: the publisher is told which message was refused, readers are served, the log stays
sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes.errors import StorageFull
from hermes.wire import messages as m
from tests.broker.rawclient import RawClient

Spawn = Callable[..., Any]
Connect = Callable[..., RawClient]

DISK = 8 * 2**20
PAYLOAD = bytes(10_000)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A storage whose files may take 8 MiB, of which nothing is given back by retention."""
    return {"storage": f"mmap:{tmp_path}/data?disk={DISK}", "segment": "1MiB", "retention": "1GiB"}


def fill(client: RawClient) -> tuple[int, m.Error]:
    """Publish until the broker refuses; returns the last sequence sent and the refusal."""
    last = 0
    for _ in range(200):
        last = client.publish("a", *[PAYLOAD] * 10)
        client.settle()
        errors = [event for event in client.events if isinstance(event, m.Error)]
        if errors:
            return last, errors[0]
    raise AssertionError("the disk never got full")


def test_refusal_names_publisher_and_sequence(
    spawn: Spawn, connect: Connect, settings: dict[str, Any]
) -> None:
    """The refusal is not fatal, says what is full and which message was the first not taken; what
    was taken is served."""
    broker = spawn(**settings)
    publisher, reader = connect(broker), connect(broker)
    publisher.open()

    _, error = fill(publisher)

    assert (error.code, error.fatal, error.publisher) == ("storage_full", False, 1)
    assert error.sequence is not None
    taken = error.sequence - 1
    publisher.acked(taken)
    reader.subscribe(">", start="earliest")
    assert [message.sequence for message in reader.received(taken)] == list(range(1, taken + 1))


def test_log_is_sound_after_a_restart(
    spawn: Spawn, connect: Connect, settings: dict[str, Any], tmp_path: Path
) -> None:
    """After a kill of the broker with the full disk, a broker with room has all that was taken and
    takes more."""
    broker = spawn(**settings)
    publisher = connect(broker)
    identity = b"f" * 16
    publisher.open(id=identity)
    _, error = fill(publisher)
    assert error.sequence is not None
    taken = error.sequence - 1
    broker.kill()

    client = connect(spawn(storage=f"mmap:{tmp_path}/data", segment="1MiB"))
    assert client.open(id=identity) == taken
    client.acked(client.publish("a", b"there is room"))
    client.subscribe(">", start="earliest")

    messages = client.received(taken + 1)
    assert [message.sequence for message in messages] == list(range(1, taken + 2))
    assert messages[-1].payload == b"there is room"


def test_client_raises_and_goes_on(spawn: Spawn, settings: dict[str, Any]) -> None:
    """A program is told by StorageFull, at once and when it closes; its reading goes on."""
    broker = spawn(**settings)
    client = hermes.connect(broker.url)
    publisher = client.publisher("a")
    with pytest.raises(StorageFull):  # noqa: PT012 - which send is told is not ours to choose
        for _ in range(2000):
            publisher.send(PAYLOAD)
        publisher.flush()

    taken = publisher.acked
    received = client.subscribe(">", start="earliest").messages(timeout=30)
    assert [next(received).sequence for _ in range(taken)] == list(range(1, taken + 1))
    with pytest.raises(StorageFull, match="unacknowledged"):
        client.close()
