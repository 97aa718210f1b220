"""Parts that several drivers need: ports, programs, and what is missing to run one."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hermes.bench.stage import READY_S, Failed, Process

DRAIN_MAX = 1000
"""Messages counted per call, where a system hands them out one by one."""
NS_PER_S = 1_000_000_000


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> str | None:
    """Where a program is: in this environment, or on the path, sbin included."""
    beside = str(Path(sys.executable).parent)
    return (
        shutil.which(name, path=beside) or shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    )


def missing(modules: Sequence[str], programs: Sequence[str] = ()) -> str | None:
    """Name what has to be installed first; None: nothing."""
    lacking = [module for module in modules if not _there(module)]
    if lacking:
        return f"the module {lacking[0]} is not installed: make rivals installs it"
    lacking = [name for name in programs if program(name) is None]
    return f"{lacking[0]} is not installed: make rivals says how" if lacking else None


def _there(module: str) -> bool:
    """Whether it can be imported; one of a package that is not there cannot."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def await_listener(port: int, process: Process) -> None:
    """Wait until ``process`` accepts connections.

    Raises:
        Failed: it ended, or took too long.
    """
    deadline = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=READY_S).close()
            return
        except ConnectionRefusedError:
            if not process.alive:
                raise process.failure() from None
            if time.monotonic() > deadline:
                raise Failed(f"{process.name} did not listen within {READY_S:g} s") from None
            time.sleep(0.005)  # a port that opens once: nothing to wait on
