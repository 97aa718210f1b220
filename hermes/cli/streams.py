"""``hermes streams``: the broker's streams, and what each holds."""

from __future__ import annotations

import click

from hermes.cli.command import Command
from hermes.cli.options import client_options, json_option
from hermes.cli.query import EXITS, show_rows

COLUMNS = {
    "stream": "name",
    "patterns": "patterns",
    "first": "first_sequence",
    "last": "last_sequence",
    "messages": "messages",
    "bytes": "bytes",
    "topics": "topics",
    "segments": "segments",
    "keeps bytes": "retention_bytes",
    "keeps time": "retention_ns",
}
"""Heads of the table, and the fields they show; --json has every field."""


@click.command(
    "streams",
    cls=Command,
    short_help="List the broker's streams.",
    examples=[
        ("A table", "hermes streams"),
        (
            "The last sequence of each, for a script",
            "hermes streams --json | jq -r '.[] | \"\\(.name) \\(.last_sequence)\"'",
        ),
    ],
    exits=EXITS,
)
@client_options
@json_option
def command(url: str, timeout_ns: int, as_json: bool) -> None:
    """List the streams: which topics each takes, which sequences it holds, how much, and what it
    keeps.
    """
    import hermes

    with hermes.connect(url, timeout=timeout_ns / 1e9, name="hermes streams") as client:
        rows = client.streams()
    if as_json:
        from hermes.cli.output import print_json

        print_json(rows)
    else:
        show_rows(rows, COLUMNS, "The broker has no streams.")
