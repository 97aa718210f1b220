"""Forked children: they keep neither the place nor the port of their parent's broker."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import hermes
from hermes.broker import Broker

pytestmark = pytest.mark.slow

LISTENERS = ["tcp://127.0.0.1:0", "udp://127.0.0.1:0", "uring+tcp://127.0.0.1:0", "inproc:"]
LISTENERS += ["zmq+tcp://127.0.0.1:0?doors=router", "zmq+ipc://DIR/socket"]
DEADLINE_S = 60.0


@contextmanager
def forked(*, raw: bool = False) -> Iterator[int]:
    """A child of this process that only waits; ``raw``: made by C code, unknown to Python."""
    libc = ctypes.CDLL(None)
    child = libc.fork() if raw else os.fork()
    if child == 0:
        while True:
            libc.pause()
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def running(listener: str, storage: str) -> Iterator[Broker]:
    """A broker, unless this machine cannot have one."""
    broker = Broker(listeners=[listener], storage=storage)
    try:
        broker.open()
    except hermes.HermesError as error:
        pytest.skip(str(error))
    with broker:
        yield broker


@pytest.mark.parametrize("storage", ["mmap", "sqlite"])
@pytest.mark.parametrize("listener", LISTENERS)
def test_a_child_keeps_neither_place_nor_port(listener: str, storage: str, tmp_path: Path) -> None:
    """While a forked child lives, a closed broker's place and address are free, and nobody is
    accepted there."""
    place = f"{storage}:{tmp_path}/data"
    with running(listener.replace("DIR", str(tmp_path)), place) as broker:
        url = broker.url
        with forked():
            broker.close()

            with suppress(hermes.errors.ConnectFailed, hermes.errors.ConnectionLost):
                hermes.connect(url, timeout=2).close()
                pytest.fail("somebody accepted a client")
            with Broker(listeners=[url], storage=place) as again:
                assert again.url == url


@pytest.mark.parametrize("storage", ["mmap", "sqlite"])
@pytest.mark.parametrize("listener", ["tcp://127.0.0.1:0", "uring+tcp://127.0.0.1:0"])
def test_closing_does_not_rely_on_children(listener: str, storage: str, tmp_path: Path) -> None:
    """A child that C code has made keeps every descriptor; place and port are free all the same."""
    place = f"{storage}:{tmp_path}/data"
    with running(listener, place) as broker:
        url = broker.url
        with forked(raw=True):
            broker.close()

            with pytest.raises(hermes.errors.ConnectFailed):
                hermes.connect(url, timeout=DEADLINE_S)
            with Broker(listeners=[url], storage=place) as again:
                assert again.url == url


@pytest.mark.parametrize("listener", ["tcp://127.0.0.1:0", "uring+tcp://127.0.0.1:0", "inproc:"])
def test_a_child_holds_no_connection_open(listener: str) -> None:
    """A client's connection ends when its broker ends, whatever children there are."""
    with (
        running(listener, "memory") as broker,
        hermes.connect(broker.url, reconnect=0) as client,
        client.subscribe("a") as found,
        forked(),
    ):
        broker.abort()
        with pytest.raises(hermes.errors.ConnectionLost):
            found.receive(timeout=DEADLINE_S)


ORPHAN = """
import os, signal, sys
from hermes.broker import Broker
broker = Broker(listeners=["inproc:"], storage=sys.argv[1]).start()
child = os.fork()
if child == 0:
    os.close(1), os.close(2)
    signal.pause()  # until the test kills it
print(child, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("storage", ["mmap", "sqlite"])
def test_a_killed_owner_leaves_no_lock_to_its_child(storage: str, tmp_path: Path) -> None:
    """When the owner is killed its place is free, although a child of its lives."""
    place = f"{storage}:{tmp_path}/data"
    program = [sys.executable, "-c", ORPHAN, place]
    process = subprocess.run(program, capture_output=True, timeout=60, check=False)
    child = int(process.stdout)
    try:
        with Broker(listeners=["inproc:"], storage=place):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


HEIR = """
import os, sys
import hermes
from hermes.broker import Broker
with Broker(listeners=["inproc:"], storage=sys.argv[1]) as broker:
    with hermes.connect(broker.url) as client, client.publisher("a") as publisher:
        publisher.send(b"before")
        publisher.flush()
        child = os.fork()
        if child == 0:
            sys.exit(3)  # unwinds: closes publisher, client and broker
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        publisher.send(b"after")
        publisher.flush()
"""


@pytest.mark.parametrize("storage", ["mmap", "sqlite"])
def test_a_child_that_ends_leaves_the_log_alone(storage: str, tmp_path: Path) -> None:
    """A child that unwinds its parent's ``with`` blocks neither hangs nor touches the log."""
    place = f"{storage}:{tmp_path}/data"
    subprocess.run([sys.executable, "-c", HEIR, place], timeout=60, check=True)

    with Broker(listeners=["inproc:"], storage=place) as broker, hermes.connect(broker.url) as c:
        found = c.subscribe("a", start="earliest")
        assert [found.receive(timeout=DEADLINE_S).payload for _ in range(2)] == [
            b"before",
            b"after",
        ]
