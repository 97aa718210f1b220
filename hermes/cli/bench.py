"""``hermes bench``: the group of commands that measure, transports of Hermes and others.

One command per file, ``bench_NAME.py``, imported when it is run.
"""

from __future__ import annotations

from importlib import import_module

import click

from hermes.cli.command import SETTINGS, closest

SUBCOMMANDS: dict[str, str] = {
    "compare": "Transports side by side: throughput, latency, round trip, fan-out.",
    "latency": "One transport's latency, at one or several offered loads.",
    "throughput": "One transport's throughput, at one or several sizes.",
    "fanout": "One publisher, many subscribers.",
    "rivals": "Other messaging systems beside Hermes, doing the same work.",
}
"""The commands, in the order in which ``hermes bench --help`` shows them."""


class BenchGroup(click.Group):
    """Finds a command's module by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name; imports nothing."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, or return None if there is none of that name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command: click.Command = import_module(f"hermes.cli.bench_{cmd_name}").command
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
    "bench",
    cls=BenchGroup,
    short_help="Measure transports, side by side and honestly.",
    context_settings=SETTINGS,
    epilog="Start with: hermes bench compare --quick.  Help on one: hermes bench COMMAND --help.",
)
def command() -> None:
    """Measure transports of this machine, beside controls that only move bytes.

    Broker, publishers and subscribers are processes of their own; latency counts from the time at
    which a message was due; contestants take turns, round by round; loss is counted. How, and what
    it does not show, is in docs/benchmarks.md.
    """
