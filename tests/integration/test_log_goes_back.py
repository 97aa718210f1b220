"""A log that goes back: whatever is put back or cut off, nobody misses a new message without a word."""

from __future__ import annotations

import shutil
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import hermes
from hermes import GapDetected, Position, Subscription
from hermes.broker import Broker
from hermes.errors import StorageDamaged
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url

TIMEOUT = 60.0


def settings(storage: str) -> dict[str, Any]:
    """A broker within this process, on that storage."""
    return {"listeners": ["inproc:"], "storage": storage}


def publish(client: hermes.Client, word: str, first: int, last: int) -> None:
    """Messages ``word first`` to ``word last``."""
    with client.publisher("a") as publisher:
        publisher.send_many([f"{word} {number}".encode() for number in range(first, last + 1)])


def text_of(message: hermes.Message) -> str:
    """Text of the message."""
    return bytes(message.payload).decode()


def read_through(subscription: Subscription, last: int) -> None:
    """Receive up to that sequence."""
    while subscription.receive(timeout=TIMEOUT).sequence < last:
        pass


def told(subscription: Subscription) -> tuple[int, int, str]:
    """The gap that comes next."""
    with pytest.raises(GapDetected) as caught:
        subscription.receive(timeout=TIMEOUT)
    return caught.value.first, caught.value.last, caught.value.reason


def whole_copy(place: Path, image: Path) -> None:
    """All of the place goes back."""
    shutil.rmtree(place)
    shutil.copytree(image, place)


def segments_only(place: Path, image: Path) -> None:
    """The state stays, the streams go back."""
    shutil.rmtree(place / "streams")
    shutil.copytree(image / "streams", place / "streams")


@pytest.fixture(params=["mmap", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A storage's URL, and the directory it is in."""
    directory = tmp_path / "place"
    directory.mkdir()
    if request.param == "mmap":
        return f"mmap:{directory}", directory
    return f"sqlite:{directory / 'log.db'}", directory


def fill_and_lose(url: str, directory: Path, tmp_path: Path) -> dict[str, Position]:
    """Twenty messages, a copy, ten more that are read; then the copy is put back.

    Returns the position of the one who read."""
    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "old", 1, 20)
    shutil.copytree(directory, tmp_path / "image")
    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "lost", 21, 30)
        with client.subscribe("a", start="earliest") as subscription:
            read_through(subscription, 30)
            positions = subscription.positions
    whole_copy(directory, tmp_path / "image")
    return positions


def test_a_position_of_ones_own_skips_no_new_message(
    place: tuple[str, Path], tmp_path: Path
) -> None:
    """The log has grown past it again: a gap says what is lost, then the new messages come."""
    url, directory = place
    positions = fill_and_lose(url, directory, tmp_path)

    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "new", 21, 60)
        with client.subscribe("a", start=positions) as subscription:
            gap = told(subscription)
            between = subscription.positions
            first = subscription.receive(timeout=TIMEOUT)
            after = subscription.positions

    assert gap == (21, 30, "epoch")
    assert (text_of(first), first.sequence) == ("new 21", 21)
    assert (between["default"], after["default"]) == (20, 21)
    assert after["default"].epoch != positions["default"].epoch


def test_a_position_within_what_is_there_is_taken_silently(
    place: tuple[str, Path], tmp_path: Path
) -> None:
    """The position was had in a later life of the log, but names a message that is still the same."""
    url, directory = place
    epoch = fill_and_lose(url, directory, tmp_path)["default"].epoch

    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "new", 21, 25)
        with client.subscribe("a", start={"default": Position(19, epoch)}) as subscription:
            read = [text_of(subscription.receive(timeout=TIMEOUT)) for _ in range(2)]

    assert read == ["old 20", "new 21"]


def test_restarts_and_kills_tell_nothing(place: tuple[str, Path]) -> None:
    """A log that was only opened again has lost nothing: positions go on, and carry the new epoch."""
    url, _ = place
    positions: Any = "earliest"
    epochs = set()
    for start in (1, 6, 11):
        with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
            publish(client, "m", start, start + 4)
            with client.subscribe("a", start=positions) as subscription:
                got = [text_of(subscription.receive(timeout=TIMEOUT)) for _ in range(5)]
                positions = subscription.positions
        assert got == [f"m {number}" for number in range(start, start + 5)]
        epochs.add(positions["default"].epoch)

    assert len(epochs) == 3


def test_a_new_memory_log_is_another_one() -> None:
    """Nothing in it is what a position of the one before names."""
    with Broker(**settings("memory:")) as broker, hermes.connect(broker.url) as client:
        publish(client, "old", 1, 5)
        with client.subscribe("a", start="earliest") as subscription:
            read_through(subscription, 5)
            positions = subscription.positions
    with Broker(**settings("memory:")) as broker, hermes.connect(broker.url) as client:
        publish(client, "new", 1, 9)
        with client.subscribe("a", start=positions) as subscription:
            gap = told(subscription)
            first = text_of(subscription.receive(timeout=TIMEOUT))

    assert (gap, first) == ((1, 5, "epoch"), "new 1")


def test_a_client_that_stays_is_told(tmp_path: Path) -> None:
    """Its subscription and its publisher go on by themselves at a broker whose log went back."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory, image = tmp_path / "place", tmp_path / "image"
    config = {"listeners": [f"tcp://127.0.0.1:{port}"], "storage": f"mmap:{directory}"}
    with Broker(**config), hermes.connect(f"tcp://127.0.0.1:{port}") as other:
        publish(other, "old", 1, 20)
    shutil.copytree(directory, image)
    broker = Broker(**config).start()
    with (
        hermes.connect(f"tcp://127.0.0.1:{port}", reconnect=TIMEOUT) as client,
        client.subscribe("a", start="earliest") as subscription,
        client.publisher("a") as publisher,
    ):
        publisher.send_many([b"lost %d" % number for number in range(21, 31)])
        publisher.flush(timeout=TIMEOUT)
        read_through(subscription, 30)
        broker.close()
        whole_copy(directory, image)
        with Broker(**config):
            publisher.send_many([b"new %d" % number for number in range(21, 61)])
            publisher.flush(timeout=TIMEOUT)
            gap = told(subscription)
            got = [text_of(subscription.receive(timeout=TIMEOUT)) for _ in range(40)]

    assert gap == (21, 30, "epoch")
    assert got == [f"new {number}" for number in range(21, 61)]


def test_a_durable_name_keeps_its_place_where_the_state_is_newer(tmp_path: Path) -> None:
    """Its sequences are not given to others: it misses nothing, and has nothing twice."""
    directory, image = tmp_path / "place", tmp_path / "image"
    url = f"mmap:{directory}"
    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "old", 1, 20)
    shutil.copytree(directory, image)
    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "lost", 21, 30)
        with client.subscribe("a", durable="d", start="earliest") as subscription:
            read_through(subscription, 30)
            subscription.commit()
    segments_only(directory, image)
    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "new", 31, 70)
        with client.subscribe("a", durable="d", start="earliest") as subscription:
            first = subscription.receive(timeout=TIMEOUT)
        with client.subscribe("a", start="earliest") as reader:
            for _ in range(20):
                reader.receive(timeout=TIMEOUT)
            gap = told(reader)

    assert (text_of(first), first.sequence) == ("new 31", 31)
    assert gap == (21, 30, "damaged")


def test_a_durable_name_goes_on_where_the_state_is_older(tmp_path: Path) -> None:
    """Segments newer than the state: messages come again, none is missing."""
    directory, image = tmp_path / "place", tmp_path / "image"
    url = f"mmap:{directory}"
    for last, lose in ((20, False), (30, True)):
        with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
            publish(client, "m", 21 if lose else 1, last)
            with client.subscribe("a", durable="d", start="earliest") as subscription:
                read_through(subscription, last)
                subscription.commit()
        if not lose:
            shutil.copytree(directory, image)
    shutil.rmtree(directory / "state")
    shutil.copytree(image / "state", directory / "state")
    with (
        Broker(**settings(url)) as broker,
        hermes.connect(broker.url) as client,
        client.subscribe("a", durable="d", start="earliest") as subscription,
    ):
        got = [text_of(subscription.receive(timeout=TIMEOUT)) for _ in range(10)]

    assert got == [f"m {number}" for number in range(21, 31)]


def test_a_commit_of_lost_messages_stores_what_is_there(tmp_path: Path) -> None:
    """A position of an epoch that ended before it moves a name to the end of the common part."""
    directory = tmp_path / "place"
    directory.mkdir()
    url = f"mmap:{directory}"
    positions = fill_and_lose(url, directory, tmp_path)
    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "new", 21, 60)
        with client.subscribe("a", durable="d", start="earliest") as subscription:
            subscription.commit(positions)
        stored = client.durables()[0]["positions"]

    assert stored == {"default": 20}


def test_an_old_directory_gets_an_epoch(tmp_path: Path) -> None:
    """Without epochs and end mark it opens without complaint; plain ints go on as before."""
    directory = tmp_path / "place"
    url = f"mmap:{directory}"
    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "m", 1, 10)
    (directory / "streams/default/epochs").unlink()
    (directory / "streams/default/end").unlink()
    with (
        Broker(**settings(url)) as broker,
        hermes.connect(broker.url) as client,
        client.subscribe("a", start={"default": 9}) as subscription,
    ):
        got = text_of(subscription.receive(timeout=TIMEOUT))
        position = subscription.positions["default"]

    assert (got, position) == ("m 10", 10)
    assert position.epoch > 0


@pytest.mark.parametrize("by", ["sqlite", "mmap"])
def test_a_flipped_bit_of_stored_positions_is_noticed(tmp_path: Path, by: str) -> None:
    """In every storage: the broker says which state is damaged, and how to go on."""
    url = f"{by}:{tmp_path / 'log.db'}"
    with Broker(**settings(url)) as broker, hermes.connect(broker.url) as client:
        publish(client, "m", 1, 10)
        with client.subscribe("a", durable="d", start="earliest") as subscription:
            read_through(subscription, 5)
            subscription.commit()
    place = parse_url(url)
    with closing(default_plugins().storage(by).open(place)) as storage:
        state = storage.load_state("positions")
        assert state is not None
        storage.save_state("positions", state[:-1] + bytes([state[-1] ^ 1]))

    with pytest.raises(StorageDamaged, match="restore the state 'positions' from a copy"):
        Broker(**settings(url)).start()


def test_a_publisher_of_lost_messages_may_send_them_again(tmp_path: Path) -> None:
    """A program that resumes by its id at a log that went back is told what the log has, and what it
    sends from there on is appended, not taken for repetitions."""
    directory, image = tmp_path / "place", tmp_path / "image"
    url, name = f"mmap:{directory}", bytes(range(16))

    def send(word: str, count: int) -> int:
        """How many messages of the publisher the log had before."""
        with (
            Broker(**settings(url)) as broker,
            hermes.connect(broker.url) as client,
            client.publisher("a", publisher_id=name) as publisher,
        ):
            before = publisher.sent
            publisher.send_many([f"{word} {number}".encode() for number in range(count)])
        return before

    assert send("old", 20) == 0
    shutil.copytree(directory, image)
    assert send("lost", 10) == 20
    segments_only(directory, image)

    assert send("again", 10) == 20
    with (
        Broker(**settings(url)) as broker,
        hermes.connect(broker.url) as client,
        client.subscribe("a", start=21) as subscription,
    ):
        assert [text_of(subscription.receive(timeout=TIMEOUT)) for _ in range(10)] == [
            f"again {number}" for number in range(10)
        ]
