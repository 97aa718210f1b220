"""``hermes bench compare``: everything, side by side."""

from __future__ import annotations

from typing import Any

import click

from hermes.cli.bench_options import (
    EXITS,
    common_options,
    rates_option,
    run,
    sizes_option,
    subscribers_option,
)
from hermes.cli.command import Command


@click.command(
    "compare",
    cls=Command,
    short_help="Transports side by side: throughput, latency, round trip, fan-out.",
    examples=[
        ("Everything that can run here, in under 30 seconds", "hermes bench compare --quick"),
        (
            "Some minutes, three rounds, with pictures",
            "hermes bench compare tcp uring+tcp udp --output result.json --html result.html",
        ),
        (
            "A transport with an option, beside itself without",
            "hermes bench compare tcp 'tcp://127.0.0.1:0?nodelay=no' --size 64 --repeat 5",
        ),
    ],
    exits=EXITS,
)
@click.argument("transports", nargs=-1, metavar="[NAME-or-URL]...")
@click.option("--quick", is_flag=True, help="Under 30 seconds for the whole comparison.")
@sizes_option
@rates_option
@subscribers_option
@common_options
def command(transports: tuple[str, ...], **asked: Any) -> None:
    """Compare transports, those of other distributions included; without a name, all that are here.

    For each: throughput by message size, one-way latency at several offered loads, the round trip
    of a message, and the throughput of a fan-out. Beside them stand controls that only move bytes:
    a relay and an echo in C, and a ring in shared memory. A transport that cannot run here has a
    row that says why.
    """
    run(transports, **asked)
