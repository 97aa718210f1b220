"""``hermes stats``: the broker's counters."""

from __future__ import annotations

import time
from typing import Any

import click

from hermes.cli.command import Command
from hermes.cli.options import Duration, client_options, json_option
from hermes.cli.output import say
from hermes.cli.query import EXITS, flatten, show_rows

CLIENTS_SHOWN = 20
"""Connections in the table."""
CLIENT_FIELDS = {
    "client": "client",
    "address": "address",
    "pubs": "publishers",
    "subs": "subscriptions",
    "in": "messages_in",
    "batches out": "batches_out",
    "waiting": "waiting_bytes",
}
"""Heads of the table, and the fields of a connection that they show."""
COLUMNS_SHOWN = 4
"""Streams or listeners beside one another."""
ALWAYS_SHOWN = frozenset(
    {
        "connections",
        "accepted",
        "refused",
        "connections_lost",
        "connections.open",
        "messages",
        "gaps",
    }
)
"""Counters that are shown even if they are 0; some transports have dozens of others."""
NOTHING = frozenset({"0", "0 B", "-"})
"""How a counter reads that has nothing to say."""


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
        ("With every counter that is 0", "hermes stats --all"),
        ("Connections now, for a script", "hermes stats --json | jq .connections.open"),
    ],
    exits=EXITS,
)
@click.option(
    "--every", "every_ns", type=Duration(), help="Ask again after so long, until interrupted."
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Show counters that are 0 too, and every client.  JSON always has them.",
)
@client_options
@json_option
def command(
    every_ns: int | None, everything: bool, url: str, timeout_ns: int, as_json: bool
) -> None:
    """Show the broker's counters: connections, bytes, messages, batches, gaps, segments, syncs,
    loop passes.

    Counts are since the broker started; those that are 0 are left out.  Asking costs it next to
    nothing.
    """
    import hermes

    with hermes.connect(url, timeout=timeout_ns / 1e9, name="hermes stats") as client:
        show(client.stats(), everything=everything, as_json=as_json)
        due_ns = time.monotonic_ns()
        while every_ns:
            due_ns += every_ns
            time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            show(client.stats(), everything=everything, as_json=as_json)


def show(counters: dict[str, Any], *, everything: bool, as_json: bool) -> None:
    """One answer."""
    from hermes.cli.figures import plural
    from hermes.cli.output import print_json

    if as_json:
        print_json(counters)
        return
    parts = dict(counters)
    listeners, streams = parts.pop("listeners"), parts.pop("streams")
    clients: list[dict[str, Any]] = parts.pop("clients")
    show_side_by_side("broker", {"": parts}, everything=everything)
    kinds: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for listener in listeners:
        url = listener.pop("url")
        kinds.setdefault(tuple(flatten(listener)), {})[url] = listener
    for alike in kinds.values():
        show_side_by_side("listeners", alike, everything=everything)
    show_side_by_side("streams", streams, everything=everything)
    if clients:
        say()
        shown = clients if everything else clients[:CLIENTS_SHOWN]
        rest = len(clients) - len(shown)
        show_rows(shown, CLIENT_FIELDS, "")
        if rest > 0:
            say(f"and {plural(rest, 'client')} more: --all shows them")


def show_side_by_side(what: str, columns: dict[str, dict[str, Any]], *, everything: bool) -> None:
    """One row per counter, one column for each of several things that have the same counters.

    Unless ``everything`` is wanted, those that are 0 in every column are only counted.
    """
    from hermes.cli.figures import plural
    from hermes.cli.output import print_table

    names = list(columns)
    for first in range(0, len(names), COLUMNS_SHOWN):
        part = {name: flatten(columns[name]) for name in names[first : first + COLUMNS_SHOWN]}
        counters = dict.fromkeys(counter for values in part.values() for counter in values)
        rows = [
            [label(counter), *(values.get(counter, "-") for values in part.values())]
            for counter in counters
            if everything
            or counter in ALWAYS_SHOWN
            or not NOTHING.issuperset(values.get(counter, "-") for values in part.values())
        ]
        say()
        print_table([what, *(f">{name}" for name in part)], rows)
        if len(rows) < len(counters):
            say(f"and {plural(len(counters) - len(rows), 'counter')} at 0: --all shows them")


def label(counter: str) -> str:
    """Its name in a table, whose cells have the unit."""
    return counter.removesuffix("_ns").replace("_", " ")
