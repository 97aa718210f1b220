"""One visit of a contestant: its processes, its directory, and the end of both whatever happens.

Knows what a process is and what it costs, not what it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from hermes.base.closing import Closable, undisturbed
from hermes.base.platform import pin
from hermes.errors import HermesError

READY_S = 60.0
"""How long a process may take to start, or to prepare for a pass."""
MERCY_S = 2.0
"""How long a process may take to end when it is asked to."""
SAID_BYTES = 2000
"""The end of what a process wrote to stderr, for the message that it has failed."""
READ_BYTES = 1 << 20
LOOK_S = 0.2
"""How often a wait for answers looks at other processes, and shows how far it is."""


class Failed(HermesError):
    """A contestant died, said nothing in time, or reported what cannot be."""


def cpu_ns(pid: int) -> int:
    """Processor time of all threads of a process so far, ns; 0 if it has gone."""
    total = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return total


class Process:
    """A program of a contestant.  Its stdin and stdout are ours, its stderr is a file.

    An *actor* (:mod:`hermes.bench.actor`) is told what to do, and answers, in lines of JSON.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        stderr: Path,
        core: int | None = None,
        environment: dict[str, str] | None = None,
        mercy_s: float = MERCY_S,
        session: bool = True,
    ) -> None:
        self.name = name
        self._stderr = stderr
        self._mercy_s = mercy_s
        self._pending = b""
        with stderr.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | (environment or {}),
                start_new_session=session,  # Ctrl-C reaches us alone; we end them in order
                process_group=None if session else 0,
            )
        if core is not None:
            with contextlib.suppress(ProcessLookupError):
                pin(self._process.pid, {core})

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def cpu_ns(self) -> int:
        """Processor time of all its threads so far."""
        return cpu_ns(self.pid)

    def tell(self, what: dict[str, Any]) -> None:
        """Write a line of JSON to it.

        Raises:
            Failed: it has gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failure() from None

    def hear(self, timeout_s: float = READY_S) -> dict[str, Any]:
        """The next line of JSON it says.

        Raises:
            Failed: it said nothing in time, has gone, or reports that something went wrong.
        """
        return hear_all([self], timeout_s)[0]

    def line(self, timeout_s: float = READY_S) -> str:
        """The next line it says, as it is.  Raises as :meth:`hear`."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"{self.name} said nothing for {timeout_s:g} s: {self._said()}")
            if select.select([self._stdout()], [], [], left)[0]:
                self._read()
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode(errors="replace")

    def failure(self) -> Failed:
        """The end of a process as an error, with its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(MERCY_S)
        code = self._process.poll()
        end = "is still there" if code is None else _ending(code)
        return Failed(f"{self.name} {end}: {self._said()}")

    def close(self) -> None:
        """End it, politely first; never leaves it running.  Idempotent."""
        if self.alive:
            self._process.send_signal(signal.SIGTERM if self._mercy_s else signal.SIGKILL)
            self._process.send_signal(signal.SIGCONT)  # one that was stopped could not end
            try:
                self._process.wait(self._mercy_s or MERCY_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _stdout(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def _read(self) -> None:
        chunk = os.read(self._stdout(), READ_BYTES)
        if not chunk:
            raise self.failure()
        self._pending += chunk

    def _answer(self) -> dict[str, Any] | None:
        """A whole line, if there is one."""
        if b"\n" not in self._pending:
            return None
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise Failed(f"{self.name} said {line[:200]!r}, which is no JSON object")
        if "error" in said:
            raise Failed(f"{self.name}: {said['error']}")
        return said

    def _said(self) -> str:
        try:
            text = self._stderr.read_bytes()[-SAID_BYTES:].decode(errors="replace").strip()
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.strip()]
        if lines and any(line.startswith("Traceback") for line in lines):
            return lines[-1]
        return "; ".join(lines) or "it said nothing"


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def hear_all(
    processes: Sequence[Process],
    timeout_s: float,
    *,
    beside: Iterable[Process] = (),
    meanwhile: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """One line of JSON from each; the end of another process (``beside``) ends the wait, too.
    ``meanwhile`` is called now and then.

    Raises:
        Failed: one said nothing in time, has gone, or reports that something went wrong.
    """
    watched = list(beside)
    answers: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + timeout_s
    waiting = dict(enumerate(processes))
    while waiting:
        for number, process in list(waiting.items()):
            answer = process._answer()
            if answer is not None:
                answers[number] = answer
                del waiting[number]
        if not waiting:
            break
        left = deadline - time.monotonic()
        if left <= 0:
            silent = ", ".join(process.name for process in waiting.values())
            raise Failed(f"nothing within {timeout_s:.3g} s from {silent}")
        for other in watched:
            if not other.alive:
                raise other.failure()
        meanwhile()
        by_fd = {process._stdout(): process for process in waiting.values()}
        for fd in select.select(list(by_fd), [], [], min(left, LOOK_S))[0]:
            by_fd[fd]._read()
    return [answers[number] for number in range(len(processes))]


class Stage(Closable):
    """Starts processes, and ends them all; has a directory that is removed.

    Leaving it, by whatever way, is the end of both.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        cores: Sequence[int] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        sessions: bool = True,
    ) -> None:
        """``meanwhile`` is called now and then while a pass lasts.  ``sessions``: whether each process
        has a session of its own, for which Linux schedules it as a group."""
        self._undo = contextlib.ExitStack()
        self._directory = directory
        self._cores = cores
        self.meanwhile = meanwhile
        self._sessions = sessions
        self._started = 0
        self.processes: list[Process] = []

    def __enter__(self) -> Self:
        with undisturbed():
            self.place = Path(tempfile.mkdtemp(prefix="hermes-bench-", dir=self._directory))
            self._undo.callback(shutil.rmtree, self.place, ignore_errors=True)
        return self

    def close(self) -> None:
        """End the processes and remove the place.  Idempotent."""
        self._undo.close()

    def start(
        self,
        name: str,
        *command: str | Path,
        core: int | None = None,
        environment: dict[str, str] | None = None,
        mercy_s: float = MERCY_S,
    ) -> Process:
        """Start a program; ``core``: the n-th of those to pin to, if processes are pinned at all."""
        cores = self._cores
        with undisturbed():
            process = Process(
                name,
                [*map(str, command)],
                stderr=self.place / f"stderr-{self._started}",
                core=None if core is None or not cores else cores[core % len(cores)],
                environment=environment,
                mercy_s=mercy_s,
                session=self._sessions,
            )
            self._undo.callback(process.close)
        self._started += 1
        self.processes.append(process)
        return process

    def at_end(self, call: Callable[[], object]) -> None:
        """Call this when the stage ends, after what was started later has."""
        self._undo.callback(call)

    def await_file(self, path: Path, process: Process, timeout_s: float = READY_S) -> str:
        """The content of a file that ``process`` writes when it is ready.

        Raises:
            Failed: it ended, or took too long.
        """
        deadline = time.monotonic() + timeout_s
        while not path.exists():
            if not process.alive:
                raise process.failure()
            if time.monotonic() > deadline:
                raise Failed(f"{process.name} was not ready within {timeout_s:g} s")
            time.sleep(0.005)  # a file that appears once: nothing to wait on that is portable
        return path.read_text()
