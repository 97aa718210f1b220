"""``hermes bench fanout``: one measure, at length."""

from __future__ import annotations

from pathlib import Path
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
def command(
    transport: str,
    duration_ns: int | None,
    no_controls: bool,
    output: Path | None,
    html: Path | None,
    hgrm: Path | None,
    as_json: bool,
    **wishes: Any,
) -> None:
    """Measure what many subscribers of everything receive together from TRANSPORT (default: tcp).

    The rate is of deliveries to all of them; each is a process.
    """
    from hermes.bench.plan import Wishes

    seconds = None if duration_ns is None else duration_ns / 1e9
    run(
        [transport],
        Wishes(measures=("fanout",), duration_s=seconds, **wishes),
        output=output,
        html=html,
        hgrm=hgrm,
        controls=not no_controls,
        as_json=as_json,
    )
