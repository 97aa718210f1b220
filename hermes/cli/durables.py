"""``hermes durables``: the group of commands about the names under which positions are kept.

One command per file, ``durables_NAME.py``, imported when it is run.
"""

from __future__ import annotations

import click

from hermes.cli.group import LazyGroup

SUBCOMMANDS: dict[str, str] = {
    "list": "List the durable names, and how far each has come.",
    "forget": "Delete a durable name and its positions.",
}
"""The commands, in the order in which ``hermes durables --help`` shows them."""


@click.group(
    "durables",
    cls=LazyGroup,
    summaries=SUBCOMMANDS,
    module="hermes.cli.durables_",
    default="list",
    short_help="List and forget durable names.",
    epilog="Without a command: hermes durables list.  Help on one: hermes durables COMMAND --help.",
)
def command() -> None:
    """List and forget durable names.

    Under a durable name the broker keeps how far a subscription has come (`hermes sub --durable`),
    until the name is forgotten.
    """
