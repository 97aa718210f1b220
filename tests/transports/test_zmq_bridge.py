"""``hermes bridge zmq`` and the programs it connects to."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hermes
from tests import processes

pytestmark = pytest.mark.slow

zmq = pytest.importorskip("zmq")

DEADLINE_S = 60.0


class Bridges:
    """Bridges to a broker, and the sockets that are bound for them."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.processes: list[subprocess.Popen[str]] = []
        self.sockets: list[Any] = []

    def bound(self, kind: int) -> tuple[Any, str]:
        made = self.context.socket(kind)
        self.sockets.append(made)
        made.linger = 0
        made.rcvtimeo = made.sndtimeo = int(1000 * DEADLINE_S)
        made.bind("tcp://127.0.0.1:*")
        return made, made.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def start(self, url: str, *flags: str) -> subprocess.Popen[str]:
        command = ("-m", "hermes", "bridge", "zmq", "--url", url, "--json", *flags)
        made = processes.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(made)
        assert made.stdout is not None
        assert json.loads(made.stdout.readline())["event"] == "started"
        return made

    def stop(self, process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
        """The bridge's report in the end, and its words meanwhile."""
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        return json.loads(out), err

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for made in self.sockets:
            made.close(0)
        self.context.term()


@pytest.fixture
def bridges() -> Iterator[Bridges]:
    """None yet."""
    found = Bridges()
    try:
        yield found
    finally:
        found.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.01)


def messages(client: hermes.Client) -> int:
    """How many the broker has."""
    return sum(stream["messages"] for stream in client.streams())


def test_sockets_that_bind_push_and_pull(bridges: Bridges) -> None:
    """Work of a bound PUSH reaches a bound PULL by way of the log, byte for byte."""
    vent, source = bridges.bound(zmq.PUSH)
    sink, target = bridges.bound(zmq.PULL)
    sent = [b"%d" % number for number in range(100)]
    with hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker:
        flags = ("--work", "jobs")
        recorder = bridges.start(broker.url, "--pull", source, *flags)
        sender = bridges.start(broker.url, "--push", target, "--from", "earliest", *flags)

        for item in sent:
            vent.send(item)
        found = [sink.recv() for _ in sent]
        with hermes.connect(broker.url) as client:
            topics = client.topics()
        reports = [bridges.stop(process)[0] for process in (recorder, sender)]

    assert found == sent
    assert [(topic["topic"], topic["messages"]) for topic in topics] == [("jobs", 100)]
    assert [report["messages"] for report in reports] == [100, 100]


def test_a_refused_topic_is_left_out(bridges: Bridges) -> None:
    """The bridge goes on behind messages that the broker refuses: the others are in the log once and
    in order, the refused ones are counted, and the log of the bridge names a topic."""
    vent, source = bridges.bound(zmq.PUSH)
    declared = {"name": "default", "create_topics": False, "declare": ["ok"]}
    with (
        hermes.Broker(
            listeners=["tcp://127.0.0.1:0"], storage="memory:", streams=[declared]
        ) as broker,
        hermes.connect(broker.url) as client,
    ):
        recorder = bridges.start(broker.url, "--pull", source)
        for number in range(60):
            vent.send_multipart([b"no" if number % 7 == 3 else b"ok", b"%d" % number])
        good = [b"%d" % number for number in range(60) if number % 7 != 3]
        until(lambda: messages(client) == len(good))
        subscription = client.subscribe("ok", start="earliest")
        found = [bytes(subscription.receive(DEADLINE_S).payload) for _ in good]
        report, said = bridges.stop(recorder)

    assert found == good
    assert (report["messages"], report["refused"]) == (len(good), 60 - len(good))
    assert "'no'" in said


def test_a_socket_of_another_kind_is_told_of(bridges: Bridges) -> None:
    """The bridge says when what it connects to is no socket that it can talk to."""
    _, endpoint = bridges.bound(zmq.REP)
    with hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage="memory:") as broker:
        recorder = bridges.start(broker.url, "--sub", endpoint)
        assert recorder.stderr is not None
        line = recorder.stderr.readline()
        bridges.stop(recorder)

    assert endpoint in line
    assert "PUB or XPUB" in line


def test_the_bridge_outlives_its_broker(bridges: Bridges, tmp_path: Any) -> None:
    """A bridge whose broker was started again goes on, and ends with 0."""
    vent, source = bridges.bound(zmq.PUSH)
    storage = f"mmap:{tmp_path}"
    with hermes.Broker(listeners=["tcp://127.0.0.1:0"], storage=storage) as broker:
        url = broker.url
        recorder = bridges.start(url, "--pull", source)
        vent.send_multipart([b"a", b"1"])
        with hermes.connect(url) as client:
            until(lambda: messages(client) == 1)
    vent.send_multipart([b"a", b"2"])
    with hermes.Broker(listeners=[url], storage=storage), hermes.connect(url) as client:
        vent.send_multipart([b"a", b"3"])
        until(lambda: messages(client) == 3)
        report, _ = bridges.stop(recorder)

    assert report["messages"] == 3
