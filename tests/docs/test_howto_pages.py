"""The how-to pages around the examples do what they say: their blocks run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hermes
from hermes.broker import load

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def client() -> Iterator[hermes.Client]:
    """A client of a broker with one order in its log."""
    with (
        hermes.Broker(listeners=["inproc:"], storage="memory:") as broker,
        hermes.connect(broker.url) as client,
    ):
        with client.publisher("orders.new") as publisher:
            publisher.send(b"42")
        yield client


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_blocks_about_sensors_run(client: hermes.Client) -> None:
    """The display begins with the newest value of a sensor that the first block published to."""
    names = {"client": client}
    for block in blocks("sensors.md", "python"):
        exec(block, names)

    message = names["message"]
    assert isinstance(message, hermes.Message)
    assert message.topic.startswith("plant.hall1.")


def test_the_block_about_workers_runs(client: hermes.Client) -> None:
    """The worker publishes an invoice for the order and commits behind it."""
    (block,) = blocks("workers.md", "python")

    exec(block, {"client": client})

    with client.subscribe("invoices", start="earliest") as invoices:
        assert invoices.receive(timeout=30).payload == b"invoice for 42"
    assert [name["name"] for name in client.durables()] == ["invoicing"]


def test_the_configuration_for_market_data_is_read(tmp_path: Path) -> None:
    """The file on the page makes a stream with the retention that it names."""
    (table,) = blocks("market-data.md", "toml")
    (tmp_path / "broker.toml").write_text(table)

    (stream,) = load(tmp_path / "broker.toml").streams

    assert (stream.name, stream.patterns) == ("md", ["md.>"])
    assert stream.retention is not None
    assert stream.retention.size == 10 << 30
