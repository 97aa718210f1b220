"""Forked programs of :mod:`tests.processes`: the same as those with an interpreter of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import processes

DEADLINE_S = 60
SURROUNDINGS = """
import os, signal, sys, threading
streams = [sys.stdin, sys.stdout, sys.stderr]
print(sys.argv, sys.path, os.getcwd(), sys.flags, __name__)
print([(one.encoding, one.errors, one.line_buffering, one.mode) for one in streams])
print([signal.getsignal(one) for one in sorted(signal.valid_signals())], signal.pthread_sigmask(0, []))
print(threading.active_count(), sorted(os.listdir("/proc/self/fd")), sys.stdin.read())
print(dict(sorted(os.environ.items())), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())
"""
Run = Callable[..., "subprocess.CompletedProcess[Any]"]


def fresh(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:
    """The control: a program with an interpreter of its own."""
    return subprocess.run([sys.executable, *arguments], check=False, **options)


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(processes.FRESH, raising=False)


@pytest.mark.parametrize("session", [False, True])
def test_a_program_finds_the_same_surroundings(session: bool, tmp_path: Path) -> None:
    """Arguments, import path, directory, environment, streams, signals, descriptors, session."""
    program = tmp_path / "program.py"
    program.write_text(SURROUNDINGS)
    options: dict[str, Any] = {"input": b"in", "capture_output": True, "timeout": DEADLINE_S}
    options |= {"cwd": tmp_path, "env": os.environ | {"A": "\xe4"}, "start_new_session": session}

    for arguments in (["-c", SURROUNDINGS, "a", ""], [program, "b"], ["-m", "program", "c"]):
        ours, theirs = (run(*arguments, **options) for run in (processes.run, fresh))

        assert ours.stdout.decode() == theirs.stdout.decode()
        assert (ours.stderr, theirs.stderr) == (b"", b"")


@pytest.mark.parametrize(
    "program",
    [
        "",
        "raise SystemExit(7)",
        "raise SystemExit('no')",
        "import os; os.kill(os.getpid(), 9)",
        "raise KeyboardInterrupt",
        "1 / 0",
        "import atexit; atexit.register(print, 'end'); print('begin')",
        "import threading; threading.Timer(0.01, print, ['late']).start()",
        "import os; os._exit(3)",
    ],
)
def test_a_program_ends_in_the_same_way(program: str) -> None:
    """The status and the output are those of an interpreter's own end."""
    ours, theirs = (
        run("-c", program, capture_output=True, timeout=DEADLINE_S)
        for run in (processes.run, fresh)
    )

    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert ours.stderr.splitlines()[-1:] == theirs.stderr.splitlines()[-1:]


def test_a_program_is_stopped_and_awaited() -> None:
    """A running program has no status; a signal ends it, and its status names the signal."""
    with processes.start("-c", "input()", stdin=subprocess.PIPE) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)

        process.send_signal(signal.SIGTERM)

        assert process.wait(DEADLINE_S) == -signal.SIGTERM
        assert process.poll() == -signal.SIGTERM
    assert not Path(f"/proc/{process.pid}").exists()


def test_programs_run_beside_one_another() -> None:
    """Each has pipes and an end of its own, in any order."""
    program = "import sys; print(sys.argv[1], sys.stdin.read())"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [processes.start("-c", program, str(number), **pipes) for number in range(4)]

    found = [
        one.communicate(f"for {n}", DEADLINE_S)[0] for n, one in reversed([*enumerate(started)])
    ]

    assert found == [f"{number} for {number}\n" for number in (3, 2, 1, 0)]
    assert [one.returncode for one in started] == [0] * 4


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["-W", "error", "-c", ""], {}),
        (["-c", ""], {"env": {**os.environ, "PYTHONHASHSEED": "1"}}),
        (["-c", ""], {"env": {"PATH": os.defpath, "LC_ALL": "C"}}),
        (["-c", ""], {"preexec_fn": os.getpid}),
        (["-c", ""], {"pass_fds": (2,)}),
    ],
)
def test_what_a_fork_cannot_give_has_an_interpreter_of_its_own(
    arguments: list[str], options: dict[str, Any]
) -> None:
    """Options of the interpreter, what it reads when it starts, and calls before it are honoured."""
    with processes.start(*arguments, **options) as process:
        assert type(process) is subprocess.Popen
        assert process.wait(DEADLINE_S) == 0


def test_every_program_may_have_an_interpreter_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that `make test-long` sets turns forking off."""
    monkeypatch.setenv(processes.FRESH, "1")

    with processes.start("-c", "") as process:
        assert type(process) is subprocess.Popen
