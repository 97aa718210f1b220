"""Strangers that hold connections do not take the log's descriptors."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import pytest

import hermes
from hermes.spi.url import parse_url
from tests import processes

PROGRAM = """
import logging, resource, socket, sys
import hermes
from hermes.broker import Broker
from tests import processes
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
logging.basicConfig(level=logging.WARNING, format="%(message)s")
broker = Broker(listeners=[sys.argv[1]], storage=sys.argv[2], segment="64KiB")
try:
    broker.start()
except hermes.HermesError as error:
    print("skip:", error)
    raise SystemExit
print(broker.url, flush=True)
sys.stdin.readline()
broker.close()
"""
CROWD = 100


@pytest.mark.parametrize("listener", ["tcp://127.0.0.1:0", "uring+tcp://127.0.0.1:0"])
@pytest.mark.parametrize("storage", ["mmap", "sqlite"])
def test_strangers_leave_descriptors_to_the_log(
    storage: str, listener: str, tmp_path: Path
) -> None:
    """With more connections than descriptors, what clients send is taken; the log says why others
    are turned away, and when they no more are."""

    process = processes.start(
        *("-c", PROGRAM, listener, f"{storage}:{tmp_path}/data"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if line.startswith("skip:"):
            pytest.skip(line)
        url = parse_url(line)
        assert url.port is not None
        with hermes.connect(line, timeout=60) as client, client.publisher("a") as publisher:
            crowd = [socket.create_connection((url.host, url.port)) for _ in range(CROWD)]
            for _ in range(30):
                publisher.send(bytes(20_000))
                publisher.flush()
            assert publisher.acked == 30
            for sock in crowd:
                sock.close()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # the broker may not have closed them yet
            with contextlib.suppress(hermes.HermesError):
                hermes.connect(line, timeout=60).close()
                break
        said = process.communicate("stop\n", timeout=60)[1]
        assert "turns connections away" in said
        assert "ulimit -n" in said
        assert "takes connections again" in said
