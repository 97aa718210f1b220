"""What every question shares: processes that report, C programs, a broker, one round's stage.

A *role* is a process of its own.  It may first print a line that tells its address; then it prints
``ready``, waits for a line on its standard input, does its work and prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from hermes.base.closing import Closable

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INCLUDE = ROOT / "hermes" / "native" / "include"
SOURCES = ROOT / "hermes" / "native" / "src"

READY_TIMEOUT_S = 30.0
RESULT_TIMEOUT_S = 900.0

MESSAGE_BYTES = 256
"""Payload of a message wherever the question does not vary it."""

Metrics = Mapping[str, float]


class Failed(Exception):
    """A role died, said nothing in time, or reported what cannot be."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work a round does."""

    quick: bool
    """Small volumes: does everything still run?  The figures mean little."""
    directory: Path
    """Where brokers keep their logs: on the file system that is to be measured."""

    def pick(self, full: int, quick: int) -> int:
        """One number or the other."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row: a name, and how to play one round."""

    name: str
    run: Callable[[Stage], Metrics]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach, relative to the best of some others, or in absolute terms."""

    text: str
    row: str
    metric: str
    limit: float
    at_most: bool = False
    of: tuple[str, ...] = ()
    """Rows whose best median is the divisor; none: the limit is absolute."""
    of_metric: str = ""
    """Metric of the divisor, if it is another."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, who answers, and what would be good."""

    name: str
    asks: str
    contestants: tuple[Contestant, ...]
    targets: tuple[Target, ...] = ()
    rounds: int | None = None
    """Rounds this question needs, if not as many as the others."""
    notes: tuple[str, ...] = field(default=())


class Role:
    """A process of a benchmark; see the module's docstring."""

    def __init__(self, command: list[str], *, core: int | None = None) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if core is not None and (cores := sorted(os.sched_getaffinity(0)))[core % len(cores) :]:
            command = ["taskset", "-c", str(cores[core % len(cores)]), *command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT
        )
        self._name = " ".join(command[:6])
        self._pending = b""

    def line(self, timeout_s: float = READY_TIMEOUT_S) -> str:
        """The next line it prints."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        fd = self.process.stdout.fileno()
        while b"\n" not in self._pending:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Failed(f"nothing within {timeout_s} s from {self._name}")
            chunk = os.read(fd, 1 << 20)
            if not chunk:
                raise Failed(f"exit status {self.process.wait()} of {self._name}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def ready(self) -> Self:
        """Wait until it is."""
        line = self.line()
        if line != "ready":
            raise Failed(f"{line!r} instead of 'ready' from {self._name}")
        return self

    def go(self) -> Self:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()
        return self

    def result(self, timeout_s: float = RESULT_TIMEOUT_S) -> dict[str, Any]:
        """What it reports."""
        report: dict[str, Any] = json.loads(self.line(timeout_s))
        return report

    def anonymous_bytes(self) -> int:
        """Resident memory that is not a file's: what it really takes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return int(fields["RssAnon"].split()[0]) * 1024

    def cpu_ns(self) -> int:
        """Processor time of all its threads so far, also just after it has ended."""
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = status.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))

    def close(self) -> None:
        """End it, politely first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Meter:
    """Processor time of the parts of a round, from when it is made: it says who is the bottleneck.

    On a machine with fewer cores than parts, the sum over the cores bounds the rate.
    """

    def __init__(self, **parts: list[Role]) -> None:
        self._parts = parts
        self._before = {name: self._total(roles) for name, roles in parts.items()}

    @staticmethod
    def _total(roles: list[Role]) -> int:
        return sum(role.cpu_ns() for role in roles)

    def per_message(self, messages: int) -> dict[str, float]:
        """Nanoseconds of each part, a published message."""
        return {
            f"{name}_cpu_ns": (self._total(roles) - self._before[name]) / messages
            for name, roles in self._parts.items()
        }


@dataclass(frozen=True, slots=True)
class Broker:
    """A running ``hermes serve``."""

    role: Role
    url: str
    ready_file: Path | None = None
    """What ``hermes serve`` wrote about its listeners."""

    @property
    def port(self) -> int:
        """Of its TCP listener."""
        return int(self.url.rsplit(":", 1)[1])


class Stage(Closable):
    """One round of one contestant: starts roles, and ends them all whatever happens."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self._stack = contextlib.ExitStack()

    def close(self) -> None:
        """End them."""
        self._stack.close()

    def role(self, *command: str | int | Path, core: int | None = None) -> Role:
        """Start a process."""
        role = Role([*map(str, command)], core=core)
        self._stack.callback(role.close)
        return role

    def python(self, module: str, *arguments: str | int | Path, core: int | None = None) -> Role:
        """Start ``benchmarks.system.<module>`` as a process."""
        return self.role(sys.executable, "-m", f"benchmarks.system.{module}", *arguments, core=core)

    def directory(self) -> Path:
        """A new directory on the file system under test, removed at the end of the round."""
        place = Path(tempfile.mkdtemp(prefix="hermes-bench-", dir=self.scale.directory))
        self._stack.callback(shutil.rmtree, place, ignore_errors=True)
        return place

    def broker(
        self,
        *flags: str,
        storage: str = "",
        core: int | None = None,
        transport: str = "tcp://127.0.0.1:0",
    ) -> Broker:
        """Start ``hermes serve``, on a free TCP port unless ``transport`` says otherwise; its log
        is new unless ``storage`` does."""
        place = self.directory()
        ready = place / "ready.json"
        where = storage or f"mmap:{place / 'data'}"
        serve = [sys.executable, "-m", "hermes", "serve", "--transport", transport]
        role = self.role(*serve, "--storage", where, "--ready-file", ready, *flags, core=core)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready.exists():
            if role.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the broker did not start (exit status {role.process.poll()})")
            time.sleep(0.01)  # a file that appears once: nothing to wait on that is portable
        return Broker(role, json.loads(ready.read_text())["listeners"][0]["url"], ready)


@cache
def compiled(name: str) -> Path:
    """The C program ``name`` of this directory, compiled with the core beside it, once per run."""
    source = HERE / f"{name}.c"
    objects = core() if "hm_" in source.read_text() else []
    return compile_c(source, *objects, "-lpthread", "-lm", name=name)


@cache
def core() -> list[Path]:
    """The objects of the native core, compiled once per run, on all processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = sorted(SOURCES.rglob("*.c"))
        return list(pool.map(lambda file: compile_c(file, "-c", name=f"{file.stem}.o"), sources))


def compile_c(*arguments: str | Path, name: str) -> Path:
    """What the C compiler makes of them."""
    target = Path(tempfile.mkdtemp(prefix="hermes-bench-bin-")) / name
    flags = ("-std=c11", "-D_GNU_SOURCE", "-O3", f"-I{INCLUDE}")
    subprocess.run([os.environ.get("CC", "cc"), *flags, *arguments, "-o", target], check=True)
    return target


def remove_compiled() -> None:
    """Delete what :func:`compiled` made."""
    for target in Path(tempfile.gettempdir()).glob("hermes-bench-bin-*"):
        shutil.rmtree(target, ignore_errors=True)


@contextlib.contextmanager
def role_body() -> Iterator[None]:
    """In a Python role: say that it is ready, and wait to be let go."""
    print("ready", flush=True)
    sys.stdin.readline()
    yield


def report(**values: object) -> None:
    """In a Python role: the result."""
    print(json.dumps(values), flush=True)


def rate(messages: int, start_ns: int, end_ns: int) -> float:
    """Messages per second."""
    if end_ns <= start_ns:
        raise Failed("it ended before it began")
    return messages * 1e9 / (end_ns - start_ns)


def throughput(
    messages: int, start_ns: int, end_ns: int, meter: Meter, *, receivers: int = 1
) -> dict[str, float]:
    """What a round of throughput reports: rates, and where the processor time went."""
    per_second = rate(messages, start_ns, end_ns)
    found = {"messages_per_s": per_second}
    if receivers > 1:
        found = {"deliveries_per_s": per_second * receivers} | found
    return found | meter.per_message(messages)


def percentiles(round_trips_ns: list[int]) -> dict[str, float]:
    """The usual ones, in microseconds."""
    ordered = sorted(round_trips_ns)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e3

    return {"p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)}
