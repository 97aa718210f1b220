"""``hermes plugins``: the group of commands about what is installed, and about writing more of it.

One command per file, ``plugins_NAME.py``, imported when it is run.
"""

from __future__ import annotations

from importlib import import_module

import click

from hermes.cli.command import SETTINGS, closest

SUBCOMMANDS: dict[str, str] = {
    "list": "List what is installed, and whether it works here.",
    "info": "All there is to know of one plugin.",
    "new": "Write a project for a plugin of your own.",
    "validate": "Check a plugin quickly; each finding has its cure.",
    "test": "Run the contract's suite on an installed plugin.",
    "reference": "Capabilities and options of plugins, as Markdown.",
}
"""The commands, in the order in which ``hermes plugins --help`` shows them."""
DEFAULT = "list"
"""What ``hermes plugins`` alone means."""


class PluginsGroup(click.Group):
    """Finds a command's module by name; without a name it is the list."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command where none is named."""
        asks_for_help = bool(args) and args[0] in SETTINGS["help_option_names"]
        if not args or (args[0].startswith("-") and not asks_for_help):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name; imports nothing."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, or return None if there is none of that name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command: click.Command = import_module(f"hermes.cli.plugins_{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion."""
        if not args[0].startswith("-") and args[0] not in SUBCOMMANDS:
            ctx.fail(f"No such command {args[0]!r}.{closest(args[0], list(SUBCOMMANDS))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List names and one line each, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))


@click.group(
    "plugins",
    cls=PluginsGroup,
    short_help="List, examine, write and test plugins.",
    context_settings=SETTINGS,
    epilog="Without a command: hermes plugins list.  Help on one: hermes plugins COMMAND --help.",
)
def command() -> None:
    """List, examine, write and test plugins.

    A plugin is a Python distribution with an entry point in one of the groups hermes.transports,
    hermes.storages, hermes.plugins and hermes.commands; pip install is all it takes.

    To write one, begin with `hermes plugins new`; docs/writing-plugins.md explains the rest.
    """
