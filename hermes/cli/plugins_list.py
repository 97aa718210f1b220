"""``hermes plugins list``: what is installed, and whether each works here.

Looking inside means importing, and a plugin may do anything then: each is tried in a child
process, with a deadline.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import click

from hermes.cli.command import Command
from hermes.cli.options import json_option

DEADLINE_S = 10.0
"""For all plugins together: one that hangs is reported as such."""
DETAIL_MAX = 500
"""Characters of what a plugin has to say about its failure."""

PROBE = """
import json, sys
from hermes.errors import HermesError
from hermes.plugins import default_plugins
kind, name = sys.argv[1:]
plugins = default_plugins()
try:
    if kind == "transport":
        plugins.transport(name)
    elif kind == "storage":
        plugins.storage(name)
    else:
        plugins.load(kind, name)
    found = {"works": True, "detail": ""}
except HermesError as error:
    found = {"works": False, "detail": str(error)}
print("\\n" + json.dumps(found))
"""
"""Run in the child; a plugin may print on import, so the answer is the last line."""


@click.command(
    "list",
    cls=Command,
    short_help="List what is installed, and whether it works here.",
    examples=[
        ("Everything that is installed", "hermes plugins list"),
        ("Names only, without importing anything", "hermes plugins list --no-check"),
        (
            "Transports that work here, for a script",
            'hermes plugins list --json | jq -r \'.[] | select(.kind == "transport" and .works) | '
            ".name'",
        ),
    ],
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Load each in a child process and ask whether it works on this machine.",
)
@json_option
def command(check: bool, as_json: bool) -> None:
    """List the installed transports, storages, commands and other plugins."""
    from hermes.plugins import listing

    rows: list[dict[str, Any]] = [
        {
            "kind": plugin.kind,
            "name": plugin.name,
            "module": plugin.module,
            "distribution": plugin.distribution,
            "version": plugin.version,
        }
        for plugin in listing()
    ]
    if check:
        for row, found in zip(rows, examine([(r["kind"], r["name"]) for r in rows]), strict=True):
            row.update(found)
    if as_json:
        from hermes.cli.output import print_json

        print_json(rows)
    else:
        show(rows, checked=check)


def examine(plugins: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Try each in a process of its own, all at once; returns ``works`` and ``detail`` for each."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROBE, kind, name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for kind, name in plugins
    ]
    deadline = time.monotonic() + DEADLINE_S
    return [verdict(child, deadline) for child in children]


def verdict(child: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    """What a child found out, or how it ended."""
    try:
        output, errors = child.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return {"works": False, "detail": f"it was still loading after {DEADLINE_S:g} s"}
    try:
        found = json.loads(output.splitlines()[-1])
        return {"works": bool(found["works"]), "detail": str(found["detail"])[:DETAIL_MAX]}
    except (IndexError, ValueError, KeyError, TypeError):
        said = errors.decode(errors="replace").strip().splitlines()
        return {
            "works": False,
            "detail": f"its process ended with code {child.returncode}: "
            f"{said[-1][:DETAIL_MAX] if said else 'it said nothing'}",
        }


def show(rows: list[dict[str, Any]], *, checked: bool) -> None:
    """One row per plugin; causes of failure below, where there is room for them."""
    from hermes.cli.output import print_table

    columns = ["kind", "name", "module", "from"] + (["works here"] if checked else [])
    lines = []
    for row in rows:
        line = [row["kind"], row["name"], row["module"], f"{row['distribution']} {row['version']}"]
        lines.append(line + ([("yes" if row["works"] else "no")] if checked else []))
    print_table(columns, lines)
    for row in rows:
        if checked and not row["works"]:
            click.echo(f"{row['kind']} {row['name']}: {row['detail']}")
