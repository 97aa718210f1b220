"""``hermes topics``: the topics the broker has seen."""

from __future__ import annotations

import click

from hermes.cli.command import Command
from hermes.cli.options import client_options, json_option
from hermes.cli.query import EXITS, show_rows


@click.command(
    "topics",
    cls=Command,
    short_help="List the broker's topics.",
    examples=[
        ("All of them", "hermes topics"),
        ("Those of one family", "hermes topics 'md.xnas.*'"),
        ("Names only, for a script", "hermes topics --json | jq -r '.[].topic'"),
    ],
    exits=EXITS,
)
@click.argument("pattern", default=">")
@client_options
@json_option
def command(pattern: str, url: str, timeout_ns: int, as_json: bool) -> None:
    """List the topics that PATTERN covers (all, if it is left out), and the last sequence of
    each.
    """
    from hermes.native.patterns import check_given_pattern

    check_given_pattern(pattern)
    import hermes

    with hermes.connect(url, timeout=timeout_ns / 1e9, name="hermes topics") as client:
        rows = client.topics(pattern)
    if as_json:
        from hermes.cli.output import print_json

        print_json(rows)
    else:
        show_rows(
            rows,
            {
                "topic": "topic",
                "stream": "stream",
                "last": "last_sequence",
                "messages since start": "messages",
            },
            f"No topic matches {pattern!r} yet.",
        )
