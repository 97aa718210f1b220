"""Looks into plugins from a distance.

That means importing, and a plugin may do anything then: each is tried in a process of its own, with
a deadline.  :mod:`hermes.cli.examiner` starts these processes, and :mod:`hermes.cli.plugin_facts` is
what runs in them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hermes.plugins.discovery import Installed

DEADLINE_NS = 10_000_000_000
"""For one plugin, unless told: a slow disk is no fault, and nobody waits longer."""
REASON_MAX = 1000
"""Characters of what a plugin has to say about its failure."""
PROGRAM = "from hermes.cli.examiner import main; main()"


def row_of(plugin: Installed) -> dict[str, Any]:
    """A plugin's metadata, for ``--json``."""
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "module": plugin.module,
        "distribution": plugin.distribution,
        "version": plugin.version,
    }


def examine(plugins: list[Installed], *, deadline_ns: int = DEADLINE_NS) -> list[dict[str, Any]]:
    """Rows of the plugins with what each is found to be: ``state``, ``reason`` and, where it works, its facts."""
    if not plugins:
        return []
    request = {
        "plugins": [(one.kind, one.name, one.distribution) for one in plugins],
        "deadline_s": deadline_ns / 1e9,
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(request)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C comes here, and the examiner ends what it has started
    ) as examiner:
        try:
            output, _ = examiner.communicate()
        finally:
            examiner.terminate()
            examiner.wait()
    answers = json.loads(output.splitlines()[-1])
    return [
        judge(plugin, answer, deadline_ns) for plugin, answer in zip(plugins, answers, strict=True)
    ]


def judge(plugin: Installed, answer: dict[str, Any], deadline_ns: int) -> dict[str, Any]:
    """The findings of a process, or how it ended."""
    if answer["late"]:
        return failed(
            f"{plugin} was not ready after {deadline_ns / 1e9:g} s: it hangs while it is imported, "
            f"started or asked whether it works here. To go on: upgrade {plugin.distribution}, or "
            f"do without it (--no-plugin {plugin.name})"
        )
    try:
        found = json.loads(answer["output"].splitlines()[-1])
        return {**found, "state": str(found["state"]), "reason": str(found["reason"])[:REASON_MAX]}
    except (IndexError, ValueError, KeyError, TypeError):
        said = answer["errors"].strip().splitlines()
        return failed(
            f"{plugin} ended the process that looked into it, with code {answer['code']}: "
            f"{said[-1] if said else 'it said nothing'}"
        )


def failed(reason: str) -> dict[str, Any]:
    """A child that brought no answer."""
    return {"state": "failed", "reason": reason[:REASON_MAX]}
