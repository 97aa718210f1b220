"""A real broker in its own process, and the ``hermes`` command as scripts run it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import processes

DEADLINE_S = 90.0
"""For anything a test waits for: generous, because the machine may be busy; nothing takes this
long."""


def environment() -> dict[str, str]:
    """The tests' environment, without settings that would change what a command does."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("HERMES", "_HERMES"))}


def hermes(
    *arguments: str | Path, stdin: bytes | None = None, url: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    env = environment() | ({"HERMES_URL": url} if url else {})
    return processes.run(
        *("-m", "hermes", *arguments),
        input=stdin,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=env,
        timeout=DEADLINE_S,
    )


def started(
    *arguments: str | Path, url: str | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a command; the caller ends it."""
    env = environment() | ({"HERMES_URL": url} if url else {}) | options.pop("env", {})
    options = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        **options,
    }
    return processes.start("-m", "hermes", *arguments, env=env, **options)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.01)


@dataclass
class RunningBroker:
    """``hermes serve`` in a process of its own; may be killed and started again on the same
    data.
    """

    place: Path
    flags: tuple[str, ...] = ()
    file_bytes_max: int | None = None
    """No file of it may grow over this, as if the disk were full."""
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.place / "data"

    @property
    def url(self) -> str:
        """URL at which it listens."""
        return str(self.ready["listeners"][0]["url"])

    def start(self) -> None:
        """Start, and wait until it listens."""
        ready = self.place / "ready.json"
        ready.unlink(missing_ok=True)
        segment = () if "--segment" in self.flags else ("--segment", "16MiB")
        transport = () if "--transport" in self.flags else ("--transport", "tcp://127.0.0.1:0")
        with (
            (self.place / "serve.out").open("ab") as out,
            (self.place / "serve.err").open("ab") as err,
        ):
            self.process = process = started(
                "serve",
                *transport,
                "--storage",
                f"mmap:{self.data}",
                *segment,
                "--ready-file",
                ready,
                *self.flags,
                stdout=out,
                stderr=err,
            )
            if self.file_bytes_max is not None:
                limits = (self.file_bytes_max, self.file_bytes_max)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
        wait_for(lambda: ready.exists() or process.poll() is not None, "the ready file")
        assert process.poll() is None, self.complaint()
        self.ready = json.loads(ready.read_text())

    def complaint(self) -> str:
        """Text that it wrote to stderr."""
        return (self.place / "serve.err").read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@pytest.fixture(name="hermes")
def hermes_fixture() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a command to its end: ``hermes("version", "--json")``."""
    return hermes


@pytest.fixture(name="started")
def started_fixture() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start commands that the test ends; those it leaves are killed."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        children.append(started(*arguments, **options))
        return children[-1]

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[[Callable[[], bool], str], None]:
    """Wait for a condition, with a deadline."""
    return wait_for


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., RunningBroker]]:
    """Start brokers with the flags a test wants; all of them are ended."""
    made: list[RunningBroker] = []

    def make(*flags: str, file_bytes_max: int | None = None) -> RunningBroker:
        place = tmp_path / f"broker-{len(made)}"
        place.mkdir()
        broker = RunningBroker(place, flags, file_bytes_max)
        made.append(broker)
        broker.start()
        return broker

    yield make
    for broker in made:
        if broker.process is not None and broker.process.poll() is None:
            broker.end(signal.SIGKILL)


@pytest.fixture
def broker(make_broker: Callable[..., RunningBroker]) -> RunningBroker:
    """A broker with an mmap log and a TCP listener."""
    return make_broker()
