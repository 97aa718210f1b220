"""A result on the terminal: aligned tables, and percentiles as strips on a logarithmic axis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import click

from hermes.cli.figures import format_bytes, format_count, format_duration
from hermes.cli.output import print_table

Row = dict[str, Any]

TITLES = {
    "throughput": "Throughput",
    "latency": "Latency, one way, from when each message was due",
    "round_trip": "Round trip",
    "fanout": "Fan-out, deliveries to all subscribers",
}
STRIP = 56
"""Columns of a strip."""
WIDTH = 100
"""Columns of a paragraph."""


def show(result: dict[str, Any]) -> None:
    """All of it."""
    from hermes.bench.page import surroundings

    environment, rows = result["environment"], result["rows"]
    click.echo(surroundings(environment))
    for warning in environment["warnings"]:
        for number, line in enumerate(textwrap.wrap(warning, WIDTH - 2)):
            click.echo(("  " if number else "! ") + line)
    for measure, title in TITLES.items():
        mine = [row for row in rows if row["measure"] == measure]
        if mine:
            _measure(measure, title, mine)
    reasons = [row for row in rows if row["measure"] is None]
    if reasons:
        click.echo("\nNot measured")
        for row in reasons:
            click.echo(f"  {row['transport']}: {row['error']}")
    if any(row.get("disturbed") for row in rows):
        click.echo("\n* disturbed: other programs took over 10 % of all cores meanwhile")


def _measure(measure: str, title: str, rows: Sequence[Row]) -> None:
    apis = dict.fromkeys(row["api"] for row in rows if row["kind"] != "control")
    api = f"  ({'; '.join(apis)})" if apis else ""
    click.echo(f"\n{title}{api}")
    timed = measure in ("latency", "round_trip")
    columns = ["", ">size", *([">offered/s"] if measure == "latency" else [])]
    columns += [">p50", ">p99", ">p99.9", ">max"] if timed else [">messages/s", ">from", ">to"]
    columns += [">lost", "CPU s per million", ""]
    print_table(columns, [_cells(measure, row) for row in rows])
    if timed:
        for line in strips(rows):
            click.echo(line)


def _cells(measure: str, row: Row) -> list[str]:
    cells = [row["transport"], format_bytes(row["size"])]
    if measure == "latency":
        cells.append(f"{row['rate']:,.0f}")
    if measure in ("latency", "round_trip"):
        keys = ("p50_us", "p99_us", "p999_us", "max_us")
        cells += [format_duration(row[key] * 1e3) if key in row else "-" for key in keys]
    else:
        cells += [
            format_count(value) for value in (row["msgs_per_s"], *row["spread"]["msgs_per_s"])
        ]
    cpu = ", ".join(f"{kind} {value:.3g}" for kind, value in row["cpu_s_per_million"].items())
    return [*cells, f"{row['lost']:,}", cpu, "*" if row["disturbed"] else ""]


def strips(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each row: ``●`` median, ``━`` to p99, ``─`` to p99.9, ``·`` to the maximum."""
    rows = [row for row in rows if "p50_us" in row]
    if not rows:
        return
    low = 10 ** math.floor(math.log10(min(row["p50_us"] for row in rows)))
    high = 10 ** math.ceil(math.log10(max(row["max_us"] for row in rows) * 1.0001))
    names = [row["transport"] + (f" {row['rate']:,.0f}/s" if row["rate"] else "") for row in rows]
    wide = max(map(len, names))

    def column(us: float) -> int:
        share = math.log(max(us, low) / low) / math.log(high / low)
        return min(STRIP - 1, int(share * STRIP))

    for name, row in zip(names, rows, strict=True):
        cells = [" "] * STRIP
        ends = [column(row[key]) for key in ("p50_us", "p99_us", "p999_us", "max_us")]
        for mark, first, last in zip("━─·", ends[:-1], ends[1:], strict=True):
            for place in range(first + 1, last + 1):
                cells[place] = mark
        cells[ends[0]] = "●"
        yield f"  {name:<{wide}} |{''.join(cells).rstrip()}"
    axis = [" "] * (STRIP + 8)
    tick = low
    while tick <= high:
        place = column(tick) if tick < high else STRIP
        for offset, character in enumerate(_tick(tick)):
            if place + offset < len(axis):
                axis[place + offset] = character
        tick *= 10
    yield f"  {'':<{wide}} |{''.join(axis).rstrip()}"
    yield f"  {'':<{wide}}  ● median  ━ to p99  ─ to p99.9  · to the maximum"


def _tick(us: float) -> str:
    return format_duration(us * 1e3).replace(" ", "")
