"""Exit codes, and how an error becomes one: a sentence on stderr, never a traceback for what is
not our fault.

``docs/cli.md`` has the table; ``--help`` of each command lists those it uses.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

from hermes.base.shown import printable_lines, redacted_prose

if TYPE_CHECKING:
    from hermes.errors import HermesError


class ExitCode(IntEnum):
    """Exit codes of commands.  Numbers are never reused."""

    OK = 0
    FAILED = 1
    USAGE = 2
    TIMED_OUT = 3
    GAP = 4
    UNREACHABLE = 5
    REFUSED = 6
    STORAGE = 7
    PLUGIN = 8
    INTERRUPTED = 130
    PIPE_CLOSED = 141


NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors with which a write is refused when a disk, a share of it, or a file is full."""

MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "it failed; stderr says why",
    ExitCode.USAGE: "an option, URL or configuration that cannot work",
    ExitCode.TIMED_OUT: "the time ran out first",
    ExitCode.GAP: "messages are missing; stderr says which",
    ExitCode.UNREACHABLE: "no broker answers there, the connection was lost, or the address is "
    "taken",
    ExitCode.REFUSED: "the broker said no, or does not speak the protocol",
    ExitCode.STORAGE: "the storage is full, damaged, failing or locked",
    ExitCode.PLUGIN: "a plugin is not installed, or failed",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.PIPE_CLOSED: "whoever read the output has gone",
}


def exit_code(error: HermesError) -> ExitCode:
    """The code for ``error``, by whose fault it is."""
    from hermes import errors

    by_kind: list[tuple[type[HermesError] | tuple[type[HermesError], ...], ExitCode]] = [
        (errors.UsageError, ExitCode.USAGE),
        (errors.Timeout, ExitCode.TIMED_OUT),
        (errors.GapDetected, ExitCode.GAP),
        (errors.PeerError, ExitCode.REFUSED),
        (
            (errors.ConnectFailed, errors.ConnectionLost, errors.AddressInUse),
            ExitCode.UNREACHABLE,
        ),
        (errors.SystemFault, ExitCode.STORAGE),
        (errors.PluginError, ExitCode.PLUGIN),
    ]
    for kind, code in by_kind:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED


def explain(error: HermesError) -> str:
    """Say what happened and, where there is a usual remedy, what to do."""
    from hermes import errors

    text = str(error)
    if isinstance(error, errors.ConnectFailed) and "inproc://" in text:
        text += (
            "\nA command is a process of its own, which no inproc broker is in: take one of the "
            "broker's other listeners, as in --url tcp://HOST:PORT."
        )
    elif isinstance(error, errors.ConnectFailed) and "hermes serve" not in text:
        text += (
            "\nIs a broker running?  Start one with: hermes serve"
            "\nTo reach one elsewhere: --url tcp://HOST:PORT, or set HERMES_URL."
        )
    elif isinstance(error, errors.AddressInUse) and "--transport" not in text:
        text += (
            "\nAnother program, perhaps another broker, listens there."
            "\nChoose another address with --transport URL (port 0 lets the system choose)."
        )
    elif isinstance(error, errors.AuthenticationFailed) and "[authentication_failed]" in text:
        text += (
            "\nThis broker asks who you are: --url tcp://USER:TOKEN@HOST:PORT, or set HERMES_URL, "
            "which no other user sees."
        )
    elif isinstance(error, errors.StorageFull):
        text += (
            "\nIt is the broker's: make room on the disk of its data directory, or let it keep less: "
            "hermes serve --retention SIZE"
        )
    elif isinstance(error, errors.DirectoryLocked) and "--storage" not in text:
        text += "\nStop that broker, or give this one its own place: --storage mmap:DIR"
    return text


def explain_fault(error: OSError) -> str:
    """Say the system's error, and of what: without a file's name it is nearly always the output."""
    if error.filename is None and error.errno == errno.EBADF:
        return "standard input or output is closed: redirect it, as in >/dev/null"
    if error.filename is None and error.errno in NO_SPACE:
        return (
            f"the output could not be written: {error.strerror}; if it goes to a file, make room "
            "on its disk, or write to another"
        )
    from hermes.base.rlimits import behind

    return f"{error}{behind(error)}"


def complain(text: str, *, kind: str, code: int, as_json: bool) -> None:
    """Write an error to stderr: a sentence, or with ``as_json`` one JSON object on a line."""
    if as_json:
        import json

        text = json.dumps({"error": kind, "message": redacted_prose(text), "exit_code": int(code)})
    else:
        text = f"hermes: {printable_lines(redacted_prose(text))}"
    with contextlib.suppress(OSError):  # nobody reads: the exit code says it as well
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def discard_output() -> None:
    """Point stdout at nothing, so that the interpreter's last flush of a closed pipe is silent."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        return  # stdout is no descriptor (a test's buffer): there is nothing to silence


@contextmanager
def reported(*, as_json: bool) -> Iterator[None]:
    """Turn what goes wrong inside into a message and :exc:`SystemExit` with its code."""
    from hermes.errors import HermesError

    try:
        yield
        sys.stdout.flush()
    except HermesError as error:
        code = exit_code(error)
        complain(explain(error), kind=type(error).__name__, code=code, as_json=as_json)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        discard_output()
        code = ExitCode.PIPE_CLOSED
    except (MemoryError, ImportError) as error:  # a library that cannot be mapped is the latter
        from hermes.base.rlimits import limited, memory_limits

        if isinstance(error, ImportError) and not limited("RLIMIT_AS"):
            raise
        code = ExitCode.FAILED
        said = str(error) or "out of memory"
        said = said if "RLIMIT" in said else f"{said} ({memory_limits()})"
        complain(said, kind=type(error).__name__, code=code, as_json=as_json)
    except OSError as error:
        code = ExitCode.FAILED
        complain(explain_fault(error), kind=type(error).__name__, code=code, as_json=as_json)
        if error.errno in NO_SPACE or error.errno == errno.EBADF:
            discard_output()  # or the interpreter complains of the same when it ends
    else:
        return
    raise SystemExit(int(code))
