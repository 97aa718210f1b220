"""Python programs as processes of their own: ``hermes`` itself, and texts that use it.

Most of the time that a short program takes is the start of an interpreter and its imports.  Programs
are therefore forked from one process for each test process (:mod:`tests.forker`), which made both
before.  They are processes like any other: what they are given, print, how they end and which signals
they get is the same.  A program that is asked for in a way the fork could not give (options of the
interpreter, a variable that an interpreter reads when it starts, a function to call before) gets an
interpreter of its own; with ``HERMES_TESTS_FRESH=1``, as `make test-long` sets it, each program does.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.forker import LENGTH, NUMBER

FRESH = "HERMES_TESTS_FRESH"
READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "TZ", "ASAN", "TSAN", "UBSAN")
"""Beginnings of names of variables that an interpreter or a library reads when it starts."""
FORKABLE = frozenset({"stdin", "stdout", "stderr", "cwd", "env", "start_new_session"})
"""Options of a process that a forked program can be given; others that only concern this side are
passed to :class:`subprocess.Popen`."""
OURS = frozenset({"bufsize", "text", "encoding", "errors", "universal_newlines"})


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[Any]:
    """Start ``python ARGUMENTS``, with the options of :class:`subprocess.Popen`."""
    words = [str(one) for one in arguments]
    if _forkable(words, options):
        return _Forked(words, **options)
    return subprocess.Popen([sys.executable, *words], **options)


def run(
    *arguments: str | Path,
    input: bytes | str | None = None,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run ``python ARGUMENTS`` to its end, with the options of :func:`subprocess.run`."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    with start(*arguments, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _forkable(words: list[str], options: dict[str, Any]) -> bool:
    if os.environ.get(FRESH) or not options.keys() <= FORKABLE | OURS:
        return False
    if words[0].startswith("-") and words[0] not in {"-m", "-c"}:
        return False
    env = options.get("env")
    return _read_at_start(os.environ if env is None else env) == _AT_START


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_AT_START)}


_AT_START = _read_at_start(os.environ)


class _Forked(subprocess.Popen[Any]):
    """A program that :mod:`tests.forker` forks, and whose status that process sends."""

    _status: socket.socket | None = None

    def __init__(
        self, words: list[str], *, start_new_session: bool = False, **options: Any
    ) -> None:
        self._words = words
        self._session = start_new_session
        super().__init__([sys.executable, *words], **options)

    def _execute_child(  # type: ignore[override]
        self,
        args: Any,
        executable: Any,
        preexec_fn: Any,
        close_fds: Any,
        pass_fds: Any,
        cwd: Any,
        env: Any,
        startupinfo: Any,
        creationflags: Any,
        shell: Any,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        *_: Any,
    ) -> None:
        request = {
            "program": (self._words[0], self._words[1:]),
            "environment": dict(os.environ if env is None else env),
            "directory": str(Path.cwd() / (cwd or ".")),
            "session": self._session,
        }
        standard = [
            given if given != -1 else number
            for number, given in enumerate((p2cread, c2pwrite, errwrite))
        ]
        self._status, theirs = socket.socketpair()
        with theirs:
            _forker().request(request, [*standard, theirs.fileno()])
        self.pid = self._number()
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)

    def _number(self) -> int:
        assert self._status is not None
        told = self._status.recv(NUMBER.size, socket.MSG_WAITALL)
        assert told, "the process that forks programs has ended"
        return int(NUMBER.unpack(told)[0])

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """The process and its status, once it has ended; (0, 0) before, if asked not to wait."""
        assert self._status is not None
        if wait_flags & os.WNOHANG:
            self._status.setblocking(False)
        try:
            status = self._number()
        except BlockingIOError:
            return 0, 0
        finally:
            self._status.setblocking(True)
        self._status.close()
        return self.pid, status

    def _internal_poll(self, _deadstate: Any = None, *_: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid == self.pid:
                        self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


class _Forker:
    """The process that forks, seen from here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("forker.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[1],
            )
        self._owner = os.getpid()
        atexit.register(self.close)

    def request(self, document: dict[str, Any], descriptors: list[int]) -> None:
        data = json.dumps(document).encode()
        with self._lock:
            socket.send_fds(self._control, [LENGTH.pack(len(data))], descriptors)
            self._control.sendall(data)

    def close(self) -> None:
        if self._owner == os.getpid():  # else a test's fork ends, which has a copy of the socket
            self._control.shutdown(socket.SHUT_RDWR)
            self._control.close()
            self._process.wait()


@cache
def _forker() -> _Forker:
    return _Forker()
