"""``hermes durables list``: the durable names, and how far each has come."""

from __future__ import annotations

import click

from hermes.cli.command import Command
from hermes.cli.options import client_options, json_option
from hermes.cli.query import EXITS, show_rows


@click.command(
    "list",
    cls=Command,
    short_help="List the durable names, and how far each has come.",
    examples=[
        ("A table", "hermes durables list"),
        (
            "The names that nobody uses now",
            "hermes durables list --json | jq -r '.[] | select(.in_use | not) | .name'",
        ),
    ],
    exits=EXITS,
)
@client_options
@json_option
def command(url: str, timeout_ns: int, as_json: bool) -> None:
    """List the names under which the broker keeps positions: the identity whose name it is, the
    last sequence committed in each stream, and whether a subscription uses the name now.
    """
    import hermes

    with hermes.connect(url, timeout=timeout_ns / 1e9, name="hermes durables") as client:
        rows = client.durables()
    if as_json:
        from hermes.cli.output import print_json

        print_json(rows)
        return
    shown = [
        {
            **row,
            "positions": [f"{stream} {last:,}" for stream, last in row["positions"].items()],
        }
        for row in rows
    ]
    columns = {"name": "name", "identity": "identity", "in use": "in_use", "committed": "positions"}
    show_rows(shown, columns, "The broker keeps no durable names.")
