"""``hermes stats``: the broker's counters."""

from __future__ import annotations

import time
from typing import Any

import click

from hermes.cli.command import Command
from hermes.cli.options import Duration, client_options, json_option
from hermes.cli.query import EXITS, flatten


@click.command(
    "stats",
    cls=Command,
    short_help="Show the broker's counters.",
    examples=[
        ("Everything it counts, since it started", "hermes stats"),
        (
            "Again every second, until Ctrl-C; one JSON object a line",
            "hermes stats --every 1 --json",
        ),
        ("Connections now, for a script", "hermes stats --json | jq .connections.open"),
    ],
    exits=EXITS,
)
@click.option(
    "--every", "every_ns", type=Duration(), help="Ask again after so long, until interrupted."
)
@client_options
@json_option
def command(every_ns: int | None, url: str, timeout_ns: int, as_json: bool) -> None:
    """Show the broker's counters: connections, bytes, messages, batches, gaps, segments, syncs,
    loop passes.

    Counts are since the broker started.  Asking costs it next to nothing.
    """
    import hermes

    with hermes.connect(url, timeout=timeout_ns / 1e9, name="hermes stats") as client:
        show(client.stats(), as_json=as_json)
        due_ns = time.monotonic_ns()
        while every_ns:
            due_ns += every_ns
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            show(client.stats(), as_json=as_json)


def show(counters: dict[str, Any], *, as_json: bool) -> None:
    """One answer."""
    from hermes.cli.output import print_json, print_table

    if as_json:
        print_json(counters)
    else:
        print_table(["counter", ">value"], flatten(counters))
