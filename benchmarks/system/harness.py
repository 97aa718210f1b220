"""The parts of every question, and a round, which is a stage of ``hermes.bench``.

Actors of ``hermes.bench`` play what the engine can measure (:meth:`Round.measure`).  A *role* is
another program of a question: it prints one line of JSON when it is ready, waits for a line on its
standard input, does its work and prints one JSON object.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hermes.base.platform import usable_cores
from hermes.bench.actor import say
from hermes.bench.contestant import Cast, Job
from hermes.bench.load import Watch
from hermes.bench.measuring import IDLE_S, WARM_S, Length, Sample, measure, processor_ns
from hermes.bench.own import start_broker
from hermes.bench.stage import Failed, Process, Stage

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INCLUDE = ROOT / "hermes" / "native" / "include"
SOURCES = ROOT / "hermes" / "native" / "src"

RESULT_TIMEOUT_S = 900.0
PATIENCE_S = 30.0
"""Silence after which what is missing counts as lost, where nothing should be."""
TCP = "tcp://127.0.0.1:0"
MESSAGE_BYTES = 256
"""Payload of a message wherever the question does not vary it."""

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work a round does."""

    quick: bool
    """Small volumes: does everything still run?  The figures mean little."""
    directory: Path
    """Directory of the brokers' logs, on the file system that is to be measured."""

    def pick(self, full: int, quick: int) -> int:
        """One number or the other."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row: a name, and how to play one round."""

    name: str
    run: Callable[[Round], Metrics]
    note: str = ""
    pinned: bool = False
    """Whether the broker has one core and the client another."""


@dataclass(frozen=True, slots=True)
class Target:
    """The value that a figure must reach, relative to the best of some others, or in absolute terms."""

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
    """A question, its rows, and what would be good."""

    name: str
    asks: str
    contestants: tuple[Contestant, ...]
    targets: tuple[Target, ...] = ()
    rounds: int | None = None
    """Rounds this question needs, if not as many as the others."""
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker."""

    process: Process
    where: dict[str, Any]
    """The address, and all else that its users need to find it."""

    @property
    def port(self) -> int:
        """The port of its TCP listener."""
        return int(self.where["url"].rsplit(":", 1)[1])

    def anonymous_bytes(self) -> int:
        """Resident memory that is not a file's: what it really takes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return int(fields["RssAnon"].split()[0]) * 1024


class Round(Stage):
    """One round of one contestant: its processes, and whether other programs disturbed them."""

    def __init__(self, scale: Scale, *, pinned: bool = False) -> None:
        cores = usable_cores() if pinned else None
        super().__init__(directory=scale.directory, cores=cores, sessions=False)
        self.scale = scale
        self.disturbed = False

    def python(self, module: str, *arguments: str | int | Path, core: int | None = None) -> Process:
        """Start ``benchmarks.system.<module>`` as a process."""
        command = (sys.executable, "-m", f"benchmarks.system.{module}", *map(str, arguments))
        return self.start(module, *command, core=core, mercy_s=0)

    def broker(self, *listeners: str, **config: str) -> Broker:
        """Start a broker with a new log, on a free TCP port unless ``listeners`` say otherwise."""
        places = {
            "listeners": listeners or [TCP],
            "storage": f"mmap:{self.place}/data-{len(self.processes)}",
        }
        return Broker(*start_broker(self, places | config))

    def measure(self, cast: Cast, job: Job, messages: int, *, lossy: bool = False) -> Sample:
        """Have the engine measure one pass.

        Raises:
            Failed: messages were lost, unless it is ``lossy``; or as the engine's.
        """
        idle_s = IDLE_S if lossy else PATIENCE_S
        sample = measure(cast, job, Length(WARM_S, messages, idle_s))
        self.disturbed |= sample.disturbed
        if sample.lost and not lossy:
            raise Failed(f"of {sample.expected:,} messages {sample.lost:,} did not come")
        return sample


class Meter:
    """Processor time of the roles of a round, from when it is made: it says where the bottleneck is.

    On a machine with fewer cores than parts, the sum over the cores bounds the rate.
    """

    def __init__(self, stage: Round, **parts: Sequence[Process]) -> None:
        self._stage = stage
        self._parts = parts
        self._before = processor_ns(parts)
        self._watch = Watch(process.pid for part in parts.values() for process in part)

    def per_message(self, messages: int) -> dict[str, float]:
        """Nanoseconds of each part, a published message."""
        self._stage.disturbed |= self._watch.stop().disturbed
        after = processor_ns(self._parts)
        return {
            f"{name}_cpu_ns": (after[name] - before) / messages
            for name, before in self._before.items()
        }


@cache
def compiled(source: Path) -> Path:
    """A C program, compiled with the core beside it, once per run."""
    objects = core() if "hm_" in source.read_text() else []
    return compile_c(source, *objects, "-lpthread", "-lm", name=source.stem)


@cache
def core() -> list[Path]:
    """The objects of the native core, compiled once per run, on all processors."""
    outputs()  # before there are threads
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = sorted(SOURCES.rglob("*.c"))
        return list(pool.map(lambda file: compile_c(file, "-c", name=f"{file.stem}.o"), sources))


@cache
def outputs() -> Path:
    """A directory for what the compiler makes, removed when this process ends."""
    place = Path(tempfile.mkdtemp(prefix="hermes-bench-bin-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def compile_c(*arguments: str | Path, name: str) -> Path:
    """The output of the C compiler.

    Raises:
        SystemExit: there is none.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("these benchmarks need a C compiler: install gcc")
    target = Path(tempfile.mkdtemp(dir=outputs())) / name
    flags = ("-std=c11", "-D_GNU_SOURCE", "-O3", f"-I{INCLUDE}")
    subprocess.run([compiler, *flags, *arguments, "-o", target], check=True)
    return target


@contextlib.contextmanager
def role_body() -> Iterator[None]:
    """In a Python role: say that it is ready, and wait for the word to begin."""
    say({})
    sys.stdin.readline()
    yield


def begin(*roles: Process) -> None:
    """Let roles begin that are ready."""
    for role in roles:
        role.tell({})


def rate(messages: int, start_ns: int, end_ns: int) -> float:
    """Messages per second."""
    if end_ns <= start_ns:
        raise Failed("it ended before it began")
    return messages * 1e9 / (end_ns - start_ns)


def throughput(per_second: float, cpu_ns: Mapping[str, float], *, receivers: int = 1) -> Metrics:
    """Figures of a round of throughput: published messages a second, deliveries to several, and
    where the processor time went."""
    found = {"messages_per_s": per_second}
    if receivers > 1:
        found = {"deliveries_per_s": per_second * receivers} | found
    return found | cpu_ns


def cpu_ns(sample: Sample, *parts: str) -> dict[str, float]:
    """Nanoseconds of each kind of process, a published message."""
    wanted = parts or ("broker", "publisher", "subscriber")
    return {f"{part}_cpu_ns": sample.cpu_s_per_million[part] * 1e3 for part in wanted}


def rates(sample: Sample) -> Metrics:
    """A sample of throughput as :func:`throughput` reports it."""
    receivers = sample.expected // sample.sent
    return throughput(sample.msgs_per_s / receivers, cpu_ns(sample), receivers=receivers)


def percentiles(found: Mapping[str, float]) -> dict[str, float]:
    """The usual ones of a summary, in microseconds."""
    return {name: found[name] for name in ("p50_us", "p99_us", "p999_us")}
