"""``hermes bench latency``: one measure, at length."""

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
    "latency",
    cls=Command,
    short_help="One transport's latency, at one or several offered loads.",
    examples=[
        ("TCP, at the usual loads", "hermes bench latency tcp"),
        (
            "At one load, for ten seconds, with a file for HdrHistogram's plotters",
            "hermes bench latency tcp --rate 10000 --duration 10s --hgrm histograms",
        ),
    ],
    exits=EXITS,
)
@click.argument("transport", default="tcp", metavar="[TRANSPORT]")
@sizes_option
@rates_option
@subscribers_option
@common_options
def command(transport: str, **asked: Any) -> None:
    """Measure the latency of TRANSPORT, a name or URL (default: tcp).

    One way: messages are sent on a schedule that is fixed beforehand, and latency counts from the
    time at which each was due to the subscriber's hands. Then the round trip of one message, closed
    loop. With --html, percentiles and the curve over the offered load are drawn.
    """
    run([transport], measures=("latency", "round_trip"), **asked)
