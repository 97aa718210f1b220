"""The command group: finds commands by name, and imports only the one that is run.

Commands of other distributions come through the entry-point group ``hermes.commands``: the entry
point's name is the command's, its value a module with a click command called ``command`` (as ours
are), or the click command itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from hermes.cli.group import LazyGroup
from hermes.cli.options import no_plugin_option

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "hermes.commands"

COMMANDS: dict[str, str] = {
    "serve": "Run a broker.",
    "pub": "Publish messages.",
    "sub": "Subscribe, and write messages to stdout.",
    "streams": "List the broker's streams.",
    "topics": "List the broker's topics.",
    "stats": "Show the broker's counters.",
    "durables": "List and forget durable names.",
    "log": "Look into a data directory: inspect, verify, dump.",
    "plugins": "List, examine, write and test plugins.",
    "tune": "Find what costs latency on this machine; change it, and back.",
    "bench": "Measure transports, side by side and honestly.",
    "demo": "Measure a broker on this machine, with nothing set up.",
    "version": "Show versions.",
}
"""The built-in commands, in the order in which ``hermes --help`` shows them."""


SHIPPED: dict[str, tuple[str, str]] = {
    "bridge": ("hermes_zmq.commands", "Pass messages between a broker and ZeroMQ programs."),
    "keys": ("hermes_zmq.commands", "Make keys for encrypted transports."),
}
"""Commands that a package of this distribution announces: its module, and the line in ``--help``."""


class Commands(LazyGroup):
    """Built-in commands first, then those that plugins bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, imports nothing."""
        return [*super().list_commands(ctx), *sorted(plugin_commands())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, or return None if there is none of that name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        entries = plugin_commands().get(cmd_name)
        return None if entries is None else load(entries)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a plugin's errors become a sentence and an exit code too."""
        from hermes.cli.exits import reported

        with reported(as_json=False):
            return super().invoke(ctx)
        return None

    def rows(self) -> list[tuple[str, str]]:
        """Rows of all commands.  Commands of plugins say where they come from: their modules are not imported."""
        brought = [
            (name, summary(name, found)) for name, found in sorted(plugin_commands().items())
        ]
        return [*super().rows(), *brought]


def plugin_commands() -> dict[str, list[EntryPoint]]:
    """The commands that other distributions announce and that may be used, by name; one that hides
    a built-in is left out."""
    from importlib.metadata import entry_points

    from hermes.plugins.selection import VARIABLE, Selection

    selection = Selection.parse(os.environ.get(VARIABLE))
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in COMMANDS or selection.objection(entry.name, built_in=False):
            continue
        found.setdefault(entry.name, []).append(entry)
    return found


def summary(name: str, entries: list[EntryPoint]) -> str:
    """Return the line of ``--help`` for a plugin's command."""
    module, line = SHIPPED.get(name, ("", ""))
    if all(entry.module == module for entry in entries):
        return line
    return f"Brought by the package {entries[0].module.partition('.')[0]}."


def load(entries: list[EntryPoint]) -> click.Command:
    """Import a plugin's command; one that cannot be imported says so when it is run."""
    entry = entries[0]
    if len({other.value for other in entries}) > 1:
        makers = " and ".join(sorted(origin(other) for other in entries))
        return broken(entry, f"it is offered by {makers}: uninstall all but one")
    try:
        found = entry.load()
        if not isinstance(found, click.Command):  # a group has a method of that name
            found = getattr(found, "command", found)
        if isinstance(found, click.Command):
            return found
        cause = f"{entry.value} is not a click command and has none called 'command'"
    except (
        Exception,
        SystemExit,
    ) as error:  # a plugin may fail in any way; it must not take the others with it
        cause = f"{type(error).__name__}: {error}"
    return broken(entry, cause)


def broken(entry: EntryPoint, cause: str) -> click.Command:
    """A command that reports why the plugin could not be loaded."""
    from hermes.cli.command import Command
    from hermes.cli.exits import ExitCode

    @click.command(
        entry.name,
        cls=Command,
        help=f"Could not be loaded: {cause}",
        exits=[ExitCode.PLUGIN],
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def report(arguments: tuple[str, ...]) -> None:
        from hermes.errors import PluginFailed

        maker = origin(entry)
        raise PluginFailed(
            f"the command {entry.name!r} of {maker} could not be loaded: {cause}\n"
            f"Upgrade or remove it: pip install -U {maker}, or pip uninstall {maker}"
        )

    return report


def origin(entry: EntryPoint) -> str:
    """The distribution an entry point comes from."""
    return entry.dist.name if entry.dist is not None else entry.value


def show_version(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """``--version``: the number alone."""
    if value and not ctx.resilient_parsing:
        from hermes.cli.version import distribution_version

        click.echo(distribution_version())
        ctx.exit()


@click.group(
    cls=Commands,
    summaries=COMMANDS,
    module="hermes.cli.",
    help="Hermes, an ultra-low-latency message broker.",
    epilog="Start with: hermes demo.  Help on one command: hermes COMMAND --help.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version and exit.",
)
@no_plugin_option
def app() -> None:
    """The root of all commands."""
