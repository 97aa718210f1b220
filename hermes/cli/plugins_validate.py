"""``hermes plugins validate``: quick checks of a plugin, installed or still a project.

Each plugin is imported in a process of its own, with a deadline: it may hang or crash there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.cli.command import Command
from hermes.cli.exits import ExitCode
from hermes.cli.options import json_option
from hermes.cli.output import say

if TYPE_CHECKING:
    from hermes.testing.validation import Finding, Target

DEADLINE_S = 20.0
"""For one plugin: what takes longer hangs."""
SAID_MAX = 500
"""Characters of a crashed child's last words."""
Row = dict[str, Any]
MARKS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM"}


@click.command(
    "validate",
    cls=Command,
    short_help="Check a plugin quickly; each finding says what to do.",
    examples=[
        ("The project in this folder", "hermes plugins validate ."),
        ("What is installed under a name", "hermes plugins validate tcp"),
        (
            "Everything that is wrong, for a script",
            "hermes plugins validate . --json | jq -r '.[].findings[] | "
            'select(.level != "ok") | .text\'',
        ),
    ],
    exits={
        ExitCode.OK: "no problem was found; there may be warnings",
        ExitCode.FAILED: "problems were found; stdout has them",
        ExitCode.PLUGIN: "nothing installed goes by that name",
    },
)
@click.argument("target", metavar="{PATH|NAME}")
@json_option
def command(target: str, as_json: bool) -> None:
    """Look for what is wrong with a plugin, without opening it.

    PATH is the folder of a project with a pyproject.toml, which need not be installed; NAME is what
    `hermes plugins list` shows.  Looked at are the entry point, the import and its side effects,
    the version of the interface, capabilities, options and their docstrings, and what it imports.
    `hermes plugins test` does the rest.
    """
    reports = of_project(Path(target)) if is_path(target) else of_installed(target)
    if as_json:
        from hermes.cli.output import print_json

        print_json(reports)
    else:
        for report in reports:
            show(report)
    if any(finding["level"] == "problem" for report in reports for finding in report["findings"]):
        raise SystemExit(int(ExitCode.FAILED))


def is_path(target: str) -> bool:
    """True if ``target`` is meant as a folder: what could be both is a name."""
    from hermes.plugins.discovery import listing

    if os.sep in target or target.startswith("."):
        return True
    return Path(target).is_dir() and all(plugin.name != target for plugin in listing())


def of_project(folder: Path) -> list[Row]:
    """Reports on a project and on every plugin in it."""
    from hermes.testing.projects import Project

    project = Project(folder)
    alone: Row = {
        "kind": "project",
        "name": project.name,
        "module": str(folder.absolute()),
        "findings": [as_row(finding) for finding in project.findings()],
    }
    return [alone, *map(report_on, project.targets())]


def of_installed(name: str) -> list[Row]:
    """Reports on the plugins of that name, whatever their kind.

    Raises:
        PluginNotFound: there is none.
    """
    from hermes.cli.command import closest
    from hermes.errors import PluginNotFound
    from hermes.plugins.discovery import listing
    from hermes.testing.validation import Target

    installed = listing()
    found = [
        Target(kind=plugin.kind, name=plugin.name, module=plugin.module)
        for plugin in installed
        if plugin.name == name
    ]
    if not found:
        raise PluginNotFound(
            f"no plugin is called {name!r}.{closest(name, [plugin.name for plugin in installed])}  "
            "`hermes plugins list` shows those that are installed; a project's folder is written "
            f"with a slash: ./{name}"
        )
    return [report_on(target) for target in found]


def report_on(target: Target) -> Row:
    """Return what a child found out about one plugin; it looks twice if only Python's own compiling of
    the plugin was slow."""
    findings = examine(target)
    if any(row["check"] == "import" and row["level"] != "ok" for row in findings):
        findings = examine(target)
    return {
        "kind": target.kind,
        "name": target.name,
        "module": target.module,
        "findings": findings,
    }


def examine(target: Target) -> list[Row]:
    """Have a child look at it."""
    import msgspec

    from hermes.testing.validation import END

    encoded = msgspec.json.encode(target).decode()
    with tempfile.TemporaryDirectory(prefix="hermes-validate-") as place:
        report, said = Path(place, "report"), Path(place, "said")
        report.touch()
        with said.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "hermes.testing.validation", encoded, str(report)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                ending = f"its process ended with code {child.wait(DEADLINE_S)}"
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                ending = f"it was still busy after {DEADLINE_S:g} s"
        lines = report.read_text(encoding="utf-8").splitlines()
        words = said.read_text(errors="replace").strip()[-SAID_MAX:].splitlines()
    complete = lines[-1:] == [END]
    findings: list[Row] = [json.loads(line) for line in lines if line != END]
    if not complete:
        findings.append(
            {
                "check": "process",
                "level": "problem",
                "text": f"{ending}{': ' + words[-1] if words else ''}",
                "cure": "see what it does when it is imported, made and asked to probe: nothing of "
                "that may end a process or wait",
            }
        )
    return findings


def as_row(finding: Finding) -> Row:
    """For --json."""
    from dataclasses import asdict

    return asdict(finding)


def show(report: Row) -> None:
    """Print one report: a line per finding, what to do below it."""
    say(f"{report['kind']} {report['name']} ({report['module']})")
    for finding in report["findings"]:
        say(f"  {MARKS[finding['level']]:8} {finding['check']:15} {finding['text']}")
        if finding["cure"]:
            say(f"  {'':8} {'':15} -> {finding['cure']}")
