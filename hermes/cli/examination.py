"""Looks into plugins from a distance.

That means importing, and a plugin may do anything then: each is tried in a process of its own, with
a deadline.  :mod:`hermes.cli.plugin_facts` is what runs there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes.plugins.discovery import Installed

DEADLINE_NS = 10_000_000_000
"""For one plugin, unless told: a slow disk is no fault, and nobody waits longer."""
AT_ONCE = 4
"""Children at a time: more would only be in each other's way."""
REASON_MAX = 1000
"""Characters of what a plugin has to say about its failure."""
PROGRAM = "from hermes.cli.plugin_facts import main; main()"


def row_of(plugin: Installed) -> dict[str, Any]:
    """What its metadata says, for ``--json``."""
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "module": plugin.module,
        "distribution": plugin.distribution,
        "version": plugin.version,
    }


def examine(plugins: list[Installed], *, deadline_ns: int = DEADLINE_NS) -> list[dict[str, Any]]:
    """What each is found to be: ``state``, ``reason`` and, where it works, its facts."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(lambda plugin: try_one(plugin, deadline_ns), plugins))


def try_one(plugin: Installed, deadline_ns: int) -> dict[str, Any]:
    """What a child process finds, or how it ended."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, plugin.kind, plugin.name, plugin.distribution],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = child.communicate(timeout=deadline_ns / 1e9)
    except subprocess.TimeoutExpired:
        return failed(
            f"{plugin} was not ready after {deadline_ns / 1e9:g} s: it hangs while it is imported, "
            f"started or asked whether it works here. To go on: upgrade {plugin.distribution}, or "
            f"do without it (--no-plugin {plugin.name})"
        )
    finally:
        end(child)
    try:
        found = json.loads(output.splitlines()[-1])
        return {**found, "state": str(found["state"]), "reason": str(found["reason"])[:REASON_MAX]}
    except (IndexError, ValueError, KeyError, TypeError):
        said = errors.decode(errors="replace").strip().splitlines()
        return failed(
            f"{plugin} ended the process that looked into it, with code {child.returncode}: "
            f"{said[-1] if said else 'it said nothing'}"
        )


def failed(reason: str) -> dict[str, Any]:
    """A child that brought no answer."""
    return {"state": "failed", "reason": reason[:REASON_MAX]}


def end(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing of it, nor of what it may have started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
