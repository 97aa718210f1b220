"""``hermes bench fanout``: one measure, at length."""

from __future__ import annotations

from typing import Any

import click

from hermes.cli.bench_options import (
    EXITS,
    common_options,
    run,
    sizes_option,
    subscribers_option,
)
from hermes.cli.command import Command


@click.command(
    "fanout",
    cls=Command,
    short_help="One publisher, many subscribers.",
    examples=[
        ("Four subscribers over TCP", "hermes bench fanout tcp"),
        ("Sixteen, of messages of 1 KiB", "hermes bench fanout tcp --subscribers 16 --size 1KiB"),
    ],
    exits=EXITS,
)
@click.argument("transport", default="tcp", metavar="[TRANSPORT]")
@sizes_option
@subscribers_option
@common_options
def command(transport: str, **asked: Any) -> None:
    """Measure what many subscribers of everything receive together from TRANSPORT (default: tcp).

    The rate is of deliveries to all of them; each is a process.
    """
    run([transport], measures=("fanout",), **asked)
