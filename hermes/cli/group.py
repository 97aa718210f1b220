"""Groups of commands: found by name, imported when they are run, with a suggestion for a name that
is misspelt.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from hermes.cli.command import SETTINGS, closest


class Group(click.Group):
    """A click group that suggests a name where there is none of that spelling."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"No such command {name!r}.{closest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """Imports only the command that is run.

    ``summaries``: each command's name and its line in ``--help``, in the order in which they are
    shown.  ``module``: the start of a command's module, which its name completes; the click command
    in it is called ``command``.  ``default``: what the group alone means, if it means anything.
    """

    def __init__(
        self,
        *args: Any,
        summaries: Mapping[str, str],
        module: str,
        default: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("context_settings", SETTINGS)
        super().__init__(*args, **kwargs)
        self._summaries = summaries
        self._module = module
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command where none is named."""
        asks_for_help = bool(args) and args[0] in SETTINGS["help_option_names"]
        if self._default and (not args or (args[0].startswith("-") and not asks_for_help)):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name; imports nothing."""
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, or return None if there is none of that name."""
        if cmd_name not in self._summaries:
            return None
        command: click.Command = import_module(f"{self._module}{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List names and one line each, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """Rows that ``--help`` lists."""
        return list(self._summaries.items())
