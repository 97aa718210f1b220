"""The order of a run, and what happens to it when a contestant cannot go on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hermes.bench import machine, result, rounds
from hermes.bench.actors import Driven
from hermes.bench.contestant import Conditions, Job, Measure
from hermes.bench.controls import CONTROLS, RELAY
from hermes.bench.measuring import Length
from hermes.bench.own import contestants
from hermes.bench.stage import Failed, Process, Stage, hear_all
from hermes.cli.bench_options import complaints
from tests.bench.conftest import DEADLINE_S, command, processes_with, wait_for

if TYPE_CHECKING:
    from tests.bench.conftest import Bench

SHORT = Length(0.05, messages=200, idle_s=30.0)
"""Where nothing is lost: nobody waits for so long, but a busy machine may keep still for a while."""
IMPATIENT = replace(SHORT, idle_s=1.0)
"""For passes whose last messages may not come."""
THROUGHPUT, LATENCY = Job("throughput", 64), Job("latency", 64, 2_000.0)


class Datagrams:
    """A rival in a few lines: datagrams from process to process, of which some are dropped."""

    name = "datagrams"
    note = "no broker"
    apis: Mapping[Measure, str] = {"throughput": "send; recv", "latency": "send; recv"}

    def __init__(self, keep_of: int = 1_000_000, crash: bool = False) -> None:
        self._keep_of = keep_of
        self._crash = crash

    def obstacle(self) -> str | None:
        """None: it always can run."""
        return None

    def serve(self, stage: Stage, conditions: Conditions) -> dict[str, Any]:
        """An address is all there is."""
        return {"place": str(stage.place / "door"), "keep_of": self._keep_of, "crash": self._crash}

    def publisher(self, where: dict[str, Any], topic: str) -> Sender:
        """The side that sends."""
        return Sender(where)

    def subscriber(self, where: dict[str, Any], topic: str) -> Receiver:
        """The side that receives."""
        return Receiver(where)


class Sender:
    """See :class:`hermes.bench.contestant.Publisher`."""

    def __init__(self, where: dict[str, Any]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(where["place"])
        self._keep_of = where["keep_of"]
        self._crash = where["crash"]
        self._number = 0

    def send(self, payload: bytes) -> None:
        """Send, or forget."""
        if self._crash:
            raise RuntimeError("the rival has had enough")
        self._number += 1
        if self._number % self._keep_of:
            self._socket.send(payload)

    def burst(self, payload: bytes, count: int) -> None:
        """One by one."""
        for _ in range(count):
            self.send(payload)

    def flush(self) -> None:
        """Do nothing: datagrams cannot be confirmed."""

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Receiver:
    """See :class:`hermes.bench.contestant.Subscriber`."""

    def __init__(self, where: dict[str, Any]) -> None:
        self._place = Path(where["place"])
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(where["place"])

    def receive(self, timeout_s: float) -> bytes | None:
        """The next."""
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.recv(65536)
        except TimeoutError:
            return None

    def drain(self, timeout_s: float) -> int:
        """One."""
        return 0 if self.receive(timeout_s) is None else 1

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        self._place.unlink()


SOUND, LOSSY, CRASHING = Datagrams(), Datagrams(keep_of=10), Datagrams(crash=True)


def driven(name: str) -> Driven:
    """One of the above, which the processes of its users find in this very file."""
    return Driven(globals()[name], f"tests.bench.test_rounds:{name}")


@pytest.fixture(autouse=True)
def _root_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def play(tmp_path: Path, *contestants: Any, length: Length = SHORT, repeat: int = 2) -> Any:
    """A short run; its rows."""
    plan = rounds.Plan(((THROUGHPUT, LATENCY),), length, repeat=repeat, directory=tmp_path)
    found = rounds.play(contestants, plan)
    return result.result(found, plan, machine.environment(tmp_path))["rows"]


def test_a_driver_is_all_that_another_system_needs(tmp_path: Path) -> None:
    """A driver of a few lines is measured by the engine's own loops."""
    throughput, latency = play(tmp_path, driven("SOUND"))

    assert (throughput["sent"], throughput["delivered"], throughput["lost"]) == (400, 400, 0)
    assert latency["delivered"] == 400
    assert latency["p50_us"] > 0
    assert latency["kind"] == "rival"
    assert set(latency["cpu_s_per_million"]) == {"publisher", "subscriber"}


def test_loss_is_counted(tmp_path: Path) -> None:
    """A tenth that is dropped is lost in the row, whatever the measure."""
    throughput, latency = play(tmp_path, driven("LOSSY"), length=IMPATIENT, repeat=1)

    assert throughput["lost"] == throughput["sent"] - throughput["delivered"]
    assert 0.08 <= throughput["lost"] / throughput["sent"] <= 0.12
    assert 0.08 <= latency["lost"] / latency["sent"] <= 0.12


def test_one_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    """Its row has the reason, the other contestant all its rows; and it is no success."""
    relay = next(control for control in CONTROLS if control.name == RELAY)

    rows = play(tmp_path, driven("CRASHING"), relay)

    failed, *others = rows
    assert failed["measure"] is None
    assert "has had enough" in failed["error"]
    assert [row["measure"] for row in others] == ["throughput", "latency"]
    assert all(row["transport"] == RELAY and row["lost"] == 0 for row in others)
    assert len(complaints(rows)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_cannot_listen_is_a_reason(bench: Bench, tmp_path: Path) -> None:
    """A URL that is taken: a row that says so, the controls measured, exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = bench("throughput", url, "--size", "64", "--messages", "100", "--repeat", "1")

    assert done.returncode == 1
    assert "taken by another process" in done.stdout
    assert f"{url} failed" in done.stderr
    assert RELAY in done.stdout


def test_an_unknown_transport_is_suggested(bench: Bench) -> None:
    """Exit code 8 at once, and the name that was meant."""
    done = bench("compare", "tpc")

    assert done.returncode == 8
    assert "did you mean 'tcp'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["latency", "--size", "8"], "at least 16 bytes"),
        (["compare", "--size", "64,,1"], "empty part"),
        (["compare", "--output", "/nowhere/out.json"], "is no directory"),
        (["fast"], "No such command 'fast'"),
        (["latancy"], "Did you mean 'latency'"),
    ],
)
def test_what_cannot_work_is_refused_at_once(bench: Bench, arguments: list[str], said: str) -> None:
    """Exit code 2, before anything is started."""
    done = bench(*arguments)

    assert done.returncode == 2
    assert said in done.stderr


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """Exit code 130; processes and directories are gone."""
    running = subprocess.Popen(
        command("latency", "tcp", "--duration", "60", "--directory", tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: len(processes_with(str(tmp_path))) >= 2, "the broker")

    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=DEADLINE_S)

    assert running.returncode == 130, said
    wait_for(lambda: processes_with(str(tmp_path)) == [], "the end of the broker")
    assert list(tmp_path.iterdir()) == []


def test_users_end_with_whoever_started_them(tmp_path: Path) -> None:
    """A bench that is killed takes its broker with it."""
    running = subprocess.Popen(
        command("latency", "tcp", "--duration", "60", "--directory", tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(processes_with(str(tmp_path))) >= 2, "the broker")

    running.kill()
    running.wait()

    wait_for(lambda: processes_with(str(tmp_path)) == [], "the end of the broker")


def test_a_process_that_dies_is_told_by_its_last_words(tmp_path: Path) -> None:
    """Not a silence until the deadline: its name, its exit code, and what it said."""
    with Stage(directory=tmp_path) as stage:
        waiting = stage.start("reader", sys.executable, "-c", "input()")
        dying = stage.start("writer", sys.executable, "-c", "raise SystemExit('out of ink')")

        with pytest.raises(Failed, match=r"writer ended with code 1: out of ink"):
            hear_all([waiting], 30, beside=[dying])


def test_a_stopped_process_ends_with_the_stage(tmp_path: Path) -> None:
    """One that was stopped by a signal does not outlive it either."""
    with Stage(directory=tmp_path) as stage:
        stopped: Process = stage.start("sleeper", sys.executable, "-c", "input()")
        stopped_pid = stopped.pid
        subprocess.run(["kill", "-STOP", str(stopped_pid)], check=True)

    assert not Path(f"/proc/{stopped_pid}/exe").exists()


def test_a_bare_name_is_tried_as_a_port_a_name_and_a_path(tmp_path: Path) -> None:
    """A transport that is named alone gets an address, whatever its addresses look like."""
    (contestant,) = contestants(["tcp:?nodelay=no"])

    with Stage(directory=tmp_path) as stage:
        addresses = contestant._addresses(stage)

        assert addresses == [
            "tcp://127.0.0.1:0?nodelay=no",
            "tcp:?nodelay=no",
            f"tcp://{stage.place}/door?nodelay=no",
        ]
