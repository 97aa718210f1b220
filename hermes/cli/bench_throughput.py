"""``hermes bench throughput``: one measure, at length."""

from __future__ import annotations

from typing import Any

import click

from hermes.cli.bench_options import (
    EXITS,
    common_options,
    run,
    sizes_option,
)
from hermes.cli.command import Command


@click.command(
    "throughput",
    cls=Command,
    short_help="One transport's throughput, at one or several sizes.",
    examples=[
        ("TCP, at the usual sizes", "hermes bench throughput tcp"),
        (
            "Four publishers of large messages, logs in memory",
            "hermes bench throughput tcp --publishers 4 --size 64KiB --storage memory",
        ),
    ],
    exits=EXITS,
)
@click.argument("transport", default="tcp", metavar="[TRANSPORT]")
@sizes_option
@common_options
def command(transport: str, **asked: Any) -> None:
    """Measure how many messages a second TRANSPORT moves, a name or URL (default: tcp).

    From the first send to the last receipt, with batches at both ends.
    """
    run([transport], measures=("throughput",), **asked)
