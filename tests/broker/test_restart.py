"""State that a broker finds again in its storage after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hermes.broker import Broker
from hermes.wire import messages as m

Serve = Callable[..., Broker]
Connect = Callable[..., Any]


def test_rerouted_family_is_read_from_both(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """After a restart that gives a family its own stream, its old messages are still read."""
    with Broker(listeners=["inproc:"], storage=f"mmap:{tmp_path}") as broker:
        client = connect(broker)
        client.open()
        client.acked(client.publish("md.a", b"old"))
        client.goodbye()
    broker = serve(storage=f"mmap:{tmp_path}", streams=[{"name": "md", "patterns": ["md.>"]}])
    client = connect(broker)
    client.open()
    client.publish("md.a", b"new")

    client.subscribe("md.>", start="earliest")

    assert {(x.stream, x.payload) for x in client.received(2)} == {
        ("default", b"old"),
        ("md", b"new"),
    }


def test_stream_that_is_configured_no_more_is_still_served(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    """A stream in the storage that no configuration names keeps being readable."""
    settings: dict[str, Any] = {"listeners": ["inproc:"], "storage": f"mmap:{tmp_path}"}
    with Broker(**settings, streams=[{"name": "md", "patterns": ["md.>"]}]) as broker:
        client = connect(broker)
        client.open()
        client.acked(client.publish("md.a", b"old"))
        client.goodbye()
    client = connect(serve(**settings))
    client.subscribe("md.>", start="earliest")

    assert [(x.stream, x.payload) for x in client.received(1)] == [("md", b"old")]


def test_durable_positions_survive(connect: Connect, tmp_path: Path) -> None:
    """A durable name begins again where it has committed, on another broker over the same
    storage."""
    settings: dict[str, Any] = {"listeners": ["inproc:"], "storage": f"mmap:{tmp_path}"}
    with Broker(**settings) as broker:
        client = connect(broker)
        client.open()
        client.subscribe(">", start=m.Start(at="durable"), durable="job")
        client.publish("a", b"1", b"2", b"3")
        client.received(3)
        client.send(client.protocol.commit(1, {"default": 2}))
        assert client.expect(m.Commit).positions == {"default": 2}
        client.goodbye()
    with Broker(**settings) as broker:
        client = connect(broker)
        client.subscribe(">", start=m.Start(at="durable"), durable="job")

        assert client.payloads(1) == [b"3"]
        client.goodbye()
