"""Where the doors are: paths that are taken or left over, and what a client of another scheme is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import hermes
from hermes.errors import AddressInUse, HermesError, InvalidUrl

pytest.importorskip("zmq")

DOORS = ("pub", "sub", "pull", "push", "router")


def serve(path: Path) -> hermes.Broker:
    """A broker at a path."""
    return hermes.Broker(listeners=[f"zmq+ipc://{path}"], storage="memory:")


def test_a_path_has_one_listener(tmp_path: Path) -> None:
    """A second broker at the same path is refused, and the first is reached as before."""
    path = tmp_path / "feed"
    with serve(path) as first, hermes.connect(first.url) as client:
        with pytest.raises(AddressInUse, match="another process listens"):
            serve(path).start()
        client.ping()
        with hermes.connect(first.url) as other:
            other.ping()


def test_a_path_is_free_after_close(tmp_path: Path) -> None:
    """An orderly stop leaves no file, and one that was left by a process that is gone is replaced."""
    path = tmp_path / "feed"
    for door in DOORS:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(f"{path}.{door}")  # closing does not remove it
    with serve(path) as broker, hermes.connect(broker.url) as client:
        client.ping()

    assert not list(tmp_path.iterdir())


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    """A file at a path that is no socket stays what it is."""
    path = tmp_path / "feed"
    (tmp_path / "feed.router").write_text("precious")

    with pytest.raises(InvalidUrl, match="not a socket"):
        serve(path).start()

    assert (tmp_path / "feed.router").read_text() == "precious"


def test_another_listener_at_the_path_is_left_alone(tmp_path: Path) -> None:
    """The file of a listener that has come to the path meanwhile stays when the first one ends."""
    path = tmp_path / "feed"
    with serve(path):
        (tmp_path / "feed.sub").unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(f"{path}.sub")

    assert [file.name for file in tmp_path.iterdir()] == ["feed.sub"]


@pytest.mark.parametrize("door", DOORS)
def test_a_tcp_client_is_told_what_it_has_met(door: str) -> None:
    """A client that takes a door for a TCP listener is told that it is a ZeroMQ socket, and which
    scheme to use."""
    with (
        hermes.Broker(listeners=["zmq+tcp://127.0.0.1:0"], storage="memory:") as broker,
        pytest.raises(HermesError, match=r"ZeroMQ socket: use zmq\+tcp://"),
    ):
        hermes.connect(broker.listeners[0].doors[door], reconnect=0)
