"""``hermes plugins info``: all there is to know of one plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hermes.cli.command import Command, closest
from hermes.cli.exits import ExitCode
from hermes.cli.options import Duration, json_option
from hermes.cli.output import say

if TYPE_CHECKING:
    from hermes.plugins.discovery import Installed, Plugins

UNKNOWN: dict[str, Any] = {
    "api_version": None,
    "announces": [],
    "capabilities": None,
    "options": [],
    "hooks": None,
}
"""Facts of a plugin that could not be looked into."""


@click.command(
    "info",
    cls=Command,
    short_help="All there is to know of one plugin.",
    examples=[
        ("A transport", "hermes plugins info tcp"),
        (
            "Where a transport and a command have the same name",
            "hermes plugins info --kind command x",
        ),
        (
            "Its options, for a script",
            "hermes plugins info tcp --json | jq -r '.options[].name'",
        ),
    ],
    exits=[ExitCode.PLUGIN],
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["transport", "storage", "plugin", "command"]),
    help="Which, where several kinds have one of that name.",
)
@click.option(
    "--deadline",
    "deadline_ns",
    type=Duration(),
    default="10s",
    show_default=True,
    help="Give the plugin up if it has not answered after this long.",
)
@json_option
def command(name: str, kind: str | None, deadline_ns: int, as_json: bool) -> None:
    """Show what the plugin NAME is, whether it works here, what it can do, and its options."""
    from hermes.cli.examination import examine, row_of
    from hermes.plugins.discovery import default_plugins

    plugin = choose(default_plugins(), name, kind)
    (found,) = examine([plugin], deadline_ns=deadline_ns)
    known = {**row_of(plugin), "state": found["state"], "reason": found["reason"]}
    known |= {key: found.get(key, value) for key, value in UNKNOWN.items()}
    if as_json:
        from hermes.cli.output import print_json

        print_json(known)
    else:
        show(known)


def choose(plugins: Plugins, name: str, kind: str | None) -> Installed:
    """The installed plugin that is meant.

    Raises:
        PluginNotFound: there is none; the message names the closest.
        UsageError: there are several.
    """
    from hermes.errors import PluginNotFound, UsageError

    listing = plugins.listing()
    rows = [row for row in listing if row.name == name and kind in (None, row.kind)]
    if not rows:
        names = sorted({row.name for row in listing if kind in (None, row.kind)})
        raise PluginNotFound(
            f"no {kind or 'plugin'} is called {name!r}.{closest(name, names)}  Installed: "
            f"{', '.join(names) or 'none'}"
        )
    kinds = sorted({row.kind for row in rows})
    if len(kinds) > 1:
        raise UsageError(f"{name!r} is a {' and a '.join(kinds)}: choose with --kind {kinds[0]}")
    used = [row for row in rows if plugins.status(row).state != "failed"]
    return (used or rows)[0]


def show(known: dict[str, Any]) -> None:
    """The facts, one a line, then tables."""
    from hermes.cli.output import print_table

    version = known["api_version"]
    facts = {
        "kind": known["kind"],
        "name": known["name"],
        "module": known["module"],
        "from": f"{known['distribution']} {known['version']}".rstrip(),
        "state": known["state"],
        "reason": known["reason"],
        "interface": "" if version is None else f"version {version}",
        "announces": ", ".join(f"{one['kind']} {one['name']}" for one in known["announces"]),
        "hooks": ", ".join(known["hooks"] or []),
        "can do": ", ".join(name for name, can in (known["capabilities"] or {}).items() if can),
    }
    for label, text in facts.items():
        if text:
            say(f"{label:<10} {text}")
    if known["options"]:
        say("")
        print_table(
            ["option", "value", "default", "where", "meaning"],
            [
                [
                    option["name"],
                    option["values"],
                    "must be given" if option["default"] is None else option["default"],
                    ", ".join(option["ends"]),
                    option["text"],
                ]
                for option in known["options"]
            ],
        )
