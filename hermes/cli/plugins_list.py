"""``hermes plugins list``: what is installed, and whether it works here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hermes.cli.command import Command
from hermes.cli.options import Duration, json_option, no_plugin_option
from hermes.cli.output import say

if TYPE_CHECKING:
    from hermes.plugins.discovery import Plugins


@click.command(
    "list",
    cls=Command,
    short_help="List what is installed, and whether it works here.",
    examples=[
        ("Everything that is installed", "hermes plugins list"),
        ("Names only, without importing anything", "hermes plugins list --no-check"),
        (
            "Transports that work here, for a script",
            'hermes plugins list --json | jq -r \'.[] | select(.kind == "transport" and '
            '.state == "loaded") | .name\'',
        ),
    ],
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Load each in a child process and ask whether it works on this machine.",
)
@click.option(
    "--deadline",
    "deadline_ns",
    type=Duration(),
    default="10s",
    show_default=True,
    help="Give a plugin up that has not answered after this long.",
)
@no_plugin_option
@json_option
def command(check: bool, deadline_ns: int, as_json: bool) -> None:
    """List the installed transports, storages, commands and other plugins.

    States: discovered (installed, not looked into), loaded (it works here), failed (it does not;
    the reason stands below), disabled (by HERMES_PLUGINS or --no-plugin).
    """
    from hermes.plugins.discovery import default_plugins

    plugins = default_plugins()
    rows = rows_of(plugins, check=check, deadline_ns=deadline_ns)
    if as_json:
        from hermes.cli.output import print_json

        print_json(rows)
    else:
        show(rows)
        for sentence in plugins.strangers():
            say(sentence)


def rows_of(plugins: Plugins, *, check: bool, deadline_ns: int) -> list[dict[str, Any]]:
    """One object per plugin; with ``check`` those of which only metadata is known are tried."""
    from hermes.cli.app import COMMANDS
    from hermes.cli.examination import examine, row_of

    listing = plugins.listing()
    rows = []
    for plugin in listing:
        status = plugins.status(plugin)
        rows.append({**row_of(plugin), "state": status.state, "reason": status.reason})
        if plugin.kind == "command" and plugin.name in COMMANDS:
            reason = f"hermes {plugin.name} is a command of Hermes itself: choose another name"
            rows[-1].update(state="failed", reason=reason)
    if check:
        unknown = [i for i, row in enumerate(rows) if row["state"] == "discovered"]
        found = examine([listing[i] for i in unknown], deadline_ns=deadline_ns)
        for i, one in zip(unknown, found, strict=True):
            rows[i].update(state=one["state"], reason=one["reason"])
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """One row per plugin; reasons below, where there is room for them."""
    from hermes.cli.output import print_table

    lines = [
        [
            row["kind"],
            row["name"],
            row["module"],
            f"{row['distribution']} {row['version']}".rstrip(),
            row["state"],
        ]
        for row in rows
    ]
    print_table(["kind", "name", "module", "from", "state"], lines)
    for row in rows:
        if row["reason"]:
            say(f"{row['kind']} {row['name']} {row['state']}: {row['reason']}")
