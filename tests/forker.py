"""A process that has imported Hermes, and forks for every program that a test starts.

Run by :mod:`tests.processes` as ``python forker.py FD``; knows nothing of tests.  ``FD`` is a stream
socket.  A request on it is the length of a JSON document (4 bytes, little-endian), sent together with
four descriptors, then the document: the interpreter's arguments, the environment, the directory, and
whether to begin a session.  The descriptors are standard input, output and error of the program, and
a socket for its process id and then its status as ``waitpid`` gives it (4 bytes each).

The program is a process like any other, with its own memory, signals and exit: only the interpreter's
start and the imports have been made before.  The end of the socket ends this process; programs that
still run are left alone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import types
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("<I")
NUMBER = struct.Struct("<i")
DESCRIPTORS = 4
DESCRIPTORS_MAX = 1 << 20
"""Above any limit of open descriptors that a system has."""
IMPORTED = (
    *("hermes", "hermes.client", "hermes.broker", "hermes.cli.app", "hermes.cli.terminal"),
    *("hermes.cli.pub", "hermes.cli.sub", "hermes.cli.serve", "hermes.cli.query"),
    *("hermes_tcp.engine", "hermes_inproc.engine", "hermes_mmaplog.engine"),
    *("hermes_memlog.engine", "hermes_uring.engine", "hermes_udp.engine"),
    *("rich.console", "rich.table", "importlib.metadata", "subprocess", "tempfile"),
)
"""All that most programs import, without what starts a thread when it is imported."""


def program(control: socket.socket) -> dict[str, Any] | None:
    """Fork for every request; returns the request in the program's process, None at the end."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is the tests'
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}  # by pidfd: the process and the socket of its status
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in running:
                poll.unregister(descriptor)
                report(descriptor, *running.pop(descriptor))
                continue
            length, passed, _, _ = socket.recv_fds(control, LENGTH.size, DESCRIPTORS)
            if not length:
                return None
            request = json.loads(exactly(control, *LENGTH.unpack(length)))
            child = os.fork()
            if child == 0:
                control.detach()
                for number, one in enumerate(passed[:3]):
                    os.dup2(one, number)
                os.closerange(3, DESCRIPTORS_MAX)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return request  # type: ignore[no-any-return]
            *standard, status = passed
            for one in standard:
                os.close(one)
            tell(status, child)
            pidfd = os.pidfd_open(child)
            running[pidfd] = child, status
            poll.register(pidfd, select.POLLIN)


def report(pidfd: int, child: int, status: int) -> None:
    """Tell the status of a process that has ended."""
    _, ended = os.waitpid(child, 0)
    tell(status, ended)
    os.close(status)
    os.close(pidfd)


def tell(status: int, number: int) -> None:
    """Send a number, if anybody still wants it."""
    with contextlib.suppress(BrokenPipeError):
        os.write(status, NUMBER.pack(number))


def exactly(control: socket.socket, size: int) -> bytes:
    """The next ``size`` bytes."""
    document = b""
    while len(document) < size:
        document += control.recv(size - len(document))
    return document


def surround(request: dict[str, Any]) -> None:
    """Take the program's session, directory, environment and standard streams."""
    if request["session"]:
        os.setsid()
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    unbuffered = bool(request["environment"].get("PYTHONUNBUFFERED"))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, f"__{name}__")
        raw: Any = io.FileIO(number, "w" if number else "r", closefd=False)
        stream = io.TextIOWrapper(
            raw
            if number and unbuffered
            else (io.BufferedWriter if number else io.BufferedReader)(raw),
            encoding=old.encoding,
            errors=old.errors,
            line_buffering=not unbuffered and (number == 2 or raw.isatty()),
            write_through=number > 0 and unbuffered,
        )
        stream.mode = "w" if number else "r"  # type: ignore[attr-defined]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(kind: str, arguments: list[str]) -> None:
    """Do as an interpreter does with ``-m MODULE``, ``-c TEXT`` or the name of a file."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if kind == "-m":
        name, *rest = arguments
        sys.argv = ["-m", *rest]
        sys.path[0] = str(Path.cwd())
        runpy._run_module_as_main(name)  # type: ignore[attr-defined]
        return
    if kind == "-c":
        text, *rest = arguments
        sys.argv = ["-c", *rest]
        sys.path[0] = ""
        code = compile(text, "<string>", "exec")
    else:
        sys.argv = [kind, *arguments]
        sys.path[0] = str(Path(kind).resolve().parent)
        main.__file__ = kind
        code = compile(Path(kind).read_bytes(), kind, "exec")
    exec(code, main.__dict__)


def begin() -> dict[str, Any] | None:
    """Import all that programs need, then serve requests."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a program would copy every page
    with socket.socket(fileno=int(sys.argv[1])) as control:
        return program(control)


if __name__ == "__main__":
    _request = begin()
    if _request is not None:
        surround(_request)
        run(*_request["program"])
