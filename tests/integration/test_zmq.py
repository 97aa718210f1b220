"""A ZeroMQ estate around a broker: foreign programs in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hermes
from tests import processes
from tests.effort import effort
from tests.integration import zmq_programs
from tests.ports import free_ports

zmq = pytest.importorskip("zmq")

HERE = Path(__file__).parent
PROGRAMS = HERE / "zmq_programs.py"
DEADLINE_S = 60.0
MESSAGES = {"keeping-up": effort(100_000, 1_000_000), "stopped": effort(100_000, 500_000)}
"""More than all queues between publisher and subscriber hold, by what the subscriber does."""
ROLES = ("pub", "sub", "pull", "push", "router")
PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


class Program:
    """A process that says ready, is told to go, and reports."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def has_spoken(self) -> bool:
        """Whether there is a line, or the end."""
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def ready(self) -> Program:
        assert self.line() == "ready"
        return self

    def go(self) -> Program:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.line())
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Estate:
    """A broker with a ZeroMQ listener and a TCP listener, and the programs around it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.programs: list[Program] = []
        self.broker: subprocess.Popen[bytes] | None = None
        self.doors: dict[str, str] = {}
        self.url = self.tcp = ""

    def serve(self, listener: str = "zmq+tcp://127.0.0.1:0", *flags: str) -> Estate:
        ready = self.place / "ready.json"
        ready.unlink(missing_ok=True)
        self.broker = processes.start(
            *("-m", "hermes", "serve", "--idle", "block", *flags),
            *("--transport", listener, "--transport", self.tcp or "tcp://127.0.0.1:0"),
            *("--storage", f"mmap:{self.place / 'data'}", "--ready-file", ready),
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists():
            assert self.broker.poll() is None, "the broker did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)  # a file that appears once
        first, second = json.loads(ready.read_text())["listeners"]
        self.url, self.doors, self.tcp = first["url"], first["doors"], second["url"]
        return self

    def python(self, role: str, address: str, *numbers: int) -> Program:
        return self._started(processes.start(PROGRAMS, role, address, *map(str, numbers), **PIPES))

    def bridge(self, *arguments: str) -> Program:
        line = ("-m", "hermes", "bridge", "zmq", "--url", self.tcp, *arguments, "--json")
        return self._started(processes.start(*line, **PIPES))

    def start(self, *command: str | int | Path) -> Program:
        return self._started(subprocess.Popen([*map(str, command)], **PIPES))

    def _started(self, process: subprocess.Popen[str]) -> Program:
        self.programs.append(Program(process))
        return self.programs[-1]

    def kill(self) -> None:
        assert self.broker is not None
        self.broker.kill()
        self.broker.wait()

    def counters(self) -> dict[str, int]:
        with hermes.connect(self.tcp) as client:
            listeners = client.stats()["listeners"]
        return {k: v for one in listeners for k, v in one.items() if one["url"] == self.url}

    def end(self) -> None:
        for program in self.programs:
            program.end()
        if self.broker is not None and self.broker.poll() is None:
            self.broker.send_signal(signal.SIGTERM)
            try:
                assert self.broker.wait(DEADLINE_S) == 0
            finally:
                self.broker.kill()


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    """An estate without a broker yet."""
    found = Estate(tmp_path)
    try:
        yield found
    finally:
        found.end()


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(("way", "count"), MESSAGES.items(), ids=MESSAGES)
def test_many_messages_pass_complete_and_in_order(estate: Estate, way: str, count: int) -> None:
    """PUB -> Hermes -> SUB: all of them, in order, also if the subscriber stands still until the log has
    them all."""
    estate.serve()
    subscriber = estate.python("sub", estate.doors["sub"], count)
    publisher = estate.python("pub", estate.doors["pub"], count, 0).ready()
    subscriber.ready()

    if way == "stopped":
        subscriber.process.send_signal(signal.SIGSTOP)
    publisher.go()
    assert publisher.result() == {"sent": count}
    if way == "stopped":
        deadline = time.monotonic() + DEADLINE_S
        while estate.counters()["pub_messages"] < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        subscriber.process.send_signal(signal.SIGCONT)

    assert subscriber.result() == {"received": count}
    counters = estate.counters()
    assert counters["pub_messages"] >= count
    assert counters["sub_gaps"] == counters["sub_damaged"] == counters["pub_oversized"] == 0


def test_asyncio_and_workers(estate: Estate) -> None:
    """pyzmq's asyncio SUB gets everything; PUSHed items reach each one of several PULLs, once."""
    estate.serve("zmq+tcp://127.0.0.1:0?work=jobs")
    subscriber = estate.python("asub", estate.doors["sub"], 2000)
    publisher = estate.python("pub", estate.doors["pub"], 2000, 0).ready()
    subscriber.ready()
    workers = [estate.python("pull", estate.doors["pull"]) for _ in range(2)]
    source = estate.python("push", estate.doors["push"], 1000).ready()

    with hermes.connect(estate.tcp) as client, client.publisher("jobs") as foreman:

        def until(item: bytes, condition: Callable[[], bool]) -> None:
            deadline = time.monotonic() + DEADLINE_S
            while not condition():
                foreman.send(item)  # the workers take turns: whoever is left gets one of them
                time.sleep(0.02)
                assert time.monotonic() < deadline

        until(b"probe", lambda: all(worker.has_spoken() for worker in workers))
        for worker in workers:
            worker.ready()
        publisher.go()
        source.go()
        assert source.result() == {"sent": 1000}
        assert subscriber.result() == {"received": 2000}
        until(b"stop", lambda: all(worker.process.poll() is not None for worker in workers))
    items = [worker.result()["items"] for worker in workers]

    assert sorted(items[0] + items[1]) == list(range(1000))
    assert all(items), "both had work"


def _headers() -> Path | None:
    """Directory of zmq.h; installed if that needs no more than to ask for it."""
    for place in map(Path, ("/usr/include", "/usr/local/include")):
        if (place / "zmq.h").exists():
            return place
    if os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "libzmq3-dev"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, env=environment, capture_output=True, timeout=90, check=False)
    return Path("/usr/include") if Path("/usr/include/zmq.h").exists() else None


def test_a_c_program_on_the_systems_libzmq(estate: Estate, tmp_path: Path) -> None:
    """A SUB in C gets what its prefix selects, with the payloads' bytes."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    include = _headers() if compiler else None
    if include is None:
        text = "libzmq3-dev and a C compiler are not here: the C program was NOT tested"
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            print(text, file=sys.stderr)
        pytest.skip(text)
    program = tmp_path / "subscriber"
    source = HERE / "zmq_subscriber.c"
    subprocess.run([str(compiler), f"-I{include}", source, "-lzmq", "-o", program], check=True)
    count = 20_000
    wanted = [n for n in range(count) if zmq_programs.TOPICS[n & 3].startswith(b"md.xnas")]
    estate.serve()
    subscriber = estate.start(program, estate.doors["sub"], "md.xnas", len(wanted))
    publisher = estate.python("pub", estate.doors["pub"], count, 0).ready()
    subscriber.ready()

    publisher.go()

    size = sum(len(zmq_programs.payload(number)) for number in wanted)
    assert subscriber.result() == {"received": len(wanted), "bytes": size}


@pytest.mark.slow
def test_kill_and_restart_under_load(estate: Estate) -> None:
    """The publisher reconnects by itself; the log goes on, has no hole of its own, and what it had
    before the kill is there."""
    ports = free_ports(len(ROLES) + 1)
    listener = "zmq+tcp://127.0.0.1:0?" + "&".join(map("{}={}".format, ROLES, ports))
    estate.tcp = f"tcp://127.0.0.1:{ports[-1]}"
    estate.serve(listener)
    doors = estate.doors
    context = zmq.Context()
    with contextlib.closing(context.socket(zmq.PUB)) as publisher:
        publisher.set_hwm(0)
        publisher.linger = 0
        publisher.connect(doors["pub"])
        sent = 0

        def load(until: Callable[[], bool]) -> None:
            nonlocal sent
            deadline = time.monotonic() + DEADLINE_S
            while not until():
                assert time.monotonic() < deadline
                for _ in range(100):
                    publisher.send_multipart([b"load", b"%d" % sent])
                    sent += 1
                time.sleep(0.001)

        def arrived() -> int:
            with hermes.connect(estate.tcp) as client:
                return int(client.streams()[0]["last_sequence"])

        for _ in range(3):
            before = _numbers(estate)
            enough = len(before) + 2000
            load(lambda enough=enough: arrived() > enough)
            kept, meanwhile = arrived(), sent + 500
            estate.kill()
            load(lambda meanwhile=meanwhile: sent >= meanwhile)
            estate.serve(listener)
            after = _numbers(estate)

            assert after[: len(before)] == before
            assert len(after) >= kept, "what was seen in the log is in it"
        enough = len(after) + 500
        load(lambda: arrived() > enough)
    context.destroy(0)
    numbers = _numbers(estate)

    assert numbers == sorted(set(numbers)), "in order, once"
    assert numbers[-1] > after[-1], "the publisher came back by itself"


def _numbers(estate: Estate) -> list[int]:
    """Numbers that the log has, from its beginning."""
    with hermes.connect(estate.tcp) as client:
        streams = client.streams()
        last = int(streams[0]["last_sequence"])
        found: list[int] = []
        if not last:
            return found
        for message in client.subscribe("load", start="earliest"):
            found.append(int(message.payload))
            assert message.sequence == len(found)
            if message.sequence >= last:
                return found
    return found


@pytest.mark.slow
def test_bridges_between_two_estates(estate: Estate) -> None:
    """A feed that is bound elsewhere is recorded by prefix, and published again to an XSUB, frame
    for frame; both bridges end in order."""
    estate.serve()
    context = zmq.Context()
    feed, target = context.socket(zmq.XPUB), context.socket(zmq.SUB)
    addresses = []
    for socket in (feed, target):
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = int(DEADLINE_S * 1000)
        socket.bind("tcp://127.0.0.1:*")
        addresses.append(socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
    target.subscribe(b"")
    recorder = estate.bridge("--sub", addresses[0], "--prefix", "md.")
    replayer = estate.bridge("--pub", addresses[1], "--from", "earliest")
    assert feed.recv() == b"\x01md."
    sent = [[b"md.a", b"1"], [b"md.b", b"2", b"three"], [b"md.c one part"], [b"md.\xff", b"raw"]]

    for parts in ([b"other", b"0"], *sent):
        feed.send_multipart(parts)

    assert [target.recv_multipart() for _ in sent] == sent
    for bridge in (recorder, replayer):
        assert bridge.result()["event"] == "started"
        bridge.process.send_signal(signal.SIGTERM)
        assert bridge.result()["messages"] == len(sent)
        assert bridge.process.wait(DEADLINE_S) == 0
    context.destroy(0)


@pytest.mark.slow
def test_a_vanished_subscriber_is_let_go() -> None:
    """A subscriber whose machine acknowledges nothing any more is ended, whatever `hold` says, and the
    other one at its door gets everything."""
    tools = all(map(shutil.which, ("unshare", "nsenter", "ip")))
    if os.geteuid() != 0 or not tools:
        pytest.skip("it takes root and network namespaces")
    if subprocess.run(["unshare", "-n", "true"], check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    script = Path(__file__).with_name("vanishing_subscriber.py")

    done = subprocess.run(
        ["unshare", "-n", sys.executable, script],
        capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["got"] == found["sent"] == 3001
    assert found["let_go"] == 1
