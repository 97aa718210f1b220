"""``hermes tune``: what of this machine's settings costs latency; changes them, and back."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.cli.command import Command, closest
from hermes.cli.exits import ExitCode
from hermes.cli.options import json_option

if TYPE_CHECKING:
    from hermes.tuning import Check, Finding, Outcome

MARKS = {"good": "ok", "better": "better", "advice": "advice", "absent": "-"}
"""How a finding's status is shown."""


@click.command(
    "tune",
    cls=Command,
    short_help="Find what costs latency on this machine; change it, and back.",
    examples=[
        ("What could be better here; changes nothing", "hermes tune"),
        ("Change what can be changed, as root", "sudo hermes tune --apply"),
        ("Put everything back as it was", "sudo hermes tune --revert"),
        (
            "Let waiting reads poll the network card, which costs processor time",
            "sudo hermes tune --apply --only busy_poll",
        ),
    ],
    exits={
        ExitCode.OK: "done; without --apply and --revert whatever was found",
        ExitCode.FAILED: "a setting could not be changed, or not without root",
    },
)
@click.option("--apply", "applying", is_flag=True, help="Make the changes; needs root.")
@click.option(
    "--revert", "reverting", is_flag=True, help="Undo what --apply did since the machine started."
)
@click.option(
    "--only", "names", multiple=True, metavar="CHECK", help="This check only; may be repeated."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File in which --apply stores the former settings.  [default: /run/hermes-tune.json]",
)
@json_option
def command(
    applying: bool,
    reverting: bool,
    names: tuple[str, ...],
    state: Path | None,
    as_json: bool,
) -> None:
    """Look at the settings of this machine that cost latency, and say what would be better.

    With --apply it prints the plan and makes the changes, none of which survives a restart of the
    machine; --revert takes them back. Checks with a price elsewhere (busy_poll) are applied only
    when named with --only.
    """
    from hermes.tuning import Machine, Store, apply, revert
    from hermes.tuning.changes import STATE_FILE

    if applying and reverting:
        raise click.UsageError("--apply and --revert exclude each other")
    machine, store = Machine(), Store(state or STATE_FILE)
    if reverting:
        require_root("--revert")
        report([], revert(machine, store), as_json=as_json, reverted=True)
        return
    checks = choose(names)
    found = [(check, check.look(machine)) for check in checks]
    if not applying:
        report(found, [], as_json=as_json)
        return
    changes = [
        change for check, finding in found for change in finding.changes if names or not check.asked
    ]
    if changes:
        require_root("--apply")
    if not as_json:
        for change in changes:
            click.echo(f"{change.path}: {change.before} -> {change.after}")
    report(found, apply(machine, changes, store), as_json=as_json, applied=True)


def choose(names: tuple[str, ...]) -> list[Check]:
    """The checks of these names; all if there are none."""
    from hermes.tuning import CHECKS

    known = {check.name: check for check in CHECKS}
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"no check is called {name!r}.{closest(name, list(known))}  "
                f"There are: {', '.join(known)}",
                param_hint="--only",
            )
    return [known[name] for name in dict.fromkeys(names)] or list(CHECKS)


def require_root(flag: str) -> None:
    """Settings are root's to change."""
    if hasattr(os, "geteuid") and os.geteuid():
        raise PermissionError(
            f"{flag} needs root: run it with sudo.  `hermes tune` alone says what would be changed"
        )


def report(
    found: list[tuple[Check, Finding]],
    outcomes: list[Outcome],
    *,
    as_json: bool,
    applied: bool = False,
    reverted: bool = False,
) -> None:
    """Show findings, or what became of changes; exits with 1 if one was refused."""
    if as_json:
        from hermes.cli.output import print_json

        print_json(
            {
                "checks": [as_values(*one) for one in found],
                "changes": [dataclasses.asdict(outcome) for outcome in outcomes],
            }
        )
    elif applied or reverted:
        show_outcomes(outcomes, reverted=reverted)
    else:
        show_findings(found)
    if any(outcome.result == "refused" for outcome in outcomes):
        raise SystemExit(int(ExitCode.FAILED))


def as_values(check: Check, finding: Finding) -> dict[str, Any]:
    """A finding for machines."""
    return {
        "name": check.name,
        "status": finding.status,
        "current": finding.current,
        "cure": finding.cure,
        "why": check.why,
        "only_if_named": check.asked,
        "changes": [dataclasses.asdict(change) for change in finding.changes],
    }


def show_findings(found: list[tuple[Check, Finding]]) -> None:
    """A table, then what to do about what is not good."""
    from hermes.cli.output import print_table

    print_table(
        ["check", "", "now"],
        [(check.name, MARKS[finding.status], finding.current) for check, finding in found],
    )
    open_ones = [(check, finding) for check, finding in found if finding.cure]
    for check, finding in open_ones:
        click.echo(f"\n{check.name}: {check.why}\n  {finding.cure}")
    if any(finding.changes and not check.asked for check, finding in open_ones):
        click.echo("\nhermes tune --apply (as root) makes these changes; --revert undoes them.")
    elif not open_ones:
        click.echo("\nNothing to improve.")


def show_outcomes(outcomes: list[Outcome], *, reverted: bool) -> None:
    """One line per change."""
    from hermes.cli.output import print_table

    if not outcomes:
        click.echo("Nothing was changed, nothing to undo." if reverted else "Nothing to change.")
        return
    rows = [
        (outcome.change.path, outcome.change.after, outcome.result, outcome.detail)
        for outcome in outcomes
    ]
    print_table(["setting", "to", "result", ""], rows)
    if not reverted:
        click.echo("hermes tune --revert undoes this; a restart of the machine does too.")
