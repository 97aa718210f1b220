"""``hermes bench``: the group of commands that measure, transports of Hermes and others.

One command per file, ``bench_NAME.py``, imported when it is run.
"""

from __future__ import annotations

import click

from hermes.cli.group import LazyGroup

SUBCOMMANDS: dict[str, str] = {
    "compare": "Transports side by side: throughput, latency, round trip, fan-out.",
    "latency": "One transport's latency, at one or several offered loads.",
    "throughput": "One transport's throughput, at one or several sizes.",
    "fanout": "One publisher, many subscribers.",
    "rivals": "Other messaging systems beside Hermes, doing the same work.",
}
"""The commands, in the order in which ``hermes bench --help`` shows them."""


@click.group(
    "bench",
    cls=LazyGroup,
    summaries=SUBCOMMANDS,
    module="hermes.cli.bench_",
    short_help="Measure transports, side by side and honestly.",
    epilog="Start with: hermes bench compare --quick.  Help on one: hermes bench COMMAND --help.",
)
def command() -> None:
    """Measure transports of this machine, beside controls that only move bytes.

    Broker, publishers and subscribers are processes of their own; latency counts from the time at
    which a message was due; contestants take turns, round by round; loss is counted. How, and what
    it does not show, is in docs/benchmarks.md.
    """
