"""``hermes plugins``: the group of commands about what is installed, and about writing more of it.

One command per file, ``plugins_NAME.py``, imported when it is run.
"""

from __future__ import annotations

import click

from hermes.cli.group import LazyGroup

SUBCOMMANDS: dict[str, str] = {
    "list": "List what is installed, and whether it works here.",
    "info": "All there is to know of one plugin.",
    "new": "Write a project for a plugin of your own.",
    "validate": "Check a plugin quickly; each finding says what to do.",
    "test": "Run the contract's suite on an installed plugin.",
    "reference": "Capabilities and options of plugins, as Markdown.",
}
"""The commands, in the order in which ``hermes plugins --help`` shows them."""


@click.group(
    "plugins",
    cls=LazyGroup,
    summaries=SUBCOMMANDS,
    module="hermes.cli.plugins_",
    default="list",
    short_help="List, examine, write and test plugins.",
    epilog="Without a command: hermes plugins list.  Help on one: hermes plugins COMMAND --help.",
)
def command() -> None:
    """List, examine, write and test plugins.

    A plugin is a Python distribution with an entry point in one of the groups hermes.transports,
    hermes.storages, hermes.plugins and hermes.commands; pip install is all it takes.

    To write one, begin with `hermes plugins new`; docs/writing-plugins.md explains the rest.
    """
