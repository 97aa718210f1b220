"""Parts that the commands of ``hermes bench`` share: their options, and the way from these to a result
that is printed, written and drawn.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hermes.cli.exits import ExitCode
from hermes.cli.files import OutputFile
from hermes.cli.options import Bytes, Count, Duration, Rate, UrlText, json_option
from hermes.cli.output import say

if TYPE_CHECKING:
    from hermes.bench.contestant import Contestant, Job, Measure
    from hermes.bench.stage import Process

Function = TypeVar("Function", bound=Callable[..., Any])

EXITS = {
    ExitCode.OK: "everything was measured, or there is a reason why it cannot be here",
    ExitCode.FAILED: "a contestant failed, or lost messages; the others were measured",
    ExitCode.PLUGIN: "a transport is not installed",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); nothing is left behind",
}


class Listed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """``64,256,1KiB``: values with commas between them."""

    def __init__(self, one: click.ParamType, name: str) -> None:  # type: ignore[type-arg]
        self._one = one
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Return a tuple, duplicates removed."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(parts):
            self.fail(f"{value!r} has an empty part: write it as 64,256,1024", param, ctx)
        return tuple(dict.fromkeys(self._one.convert(part, param, ctx) for part in parts))


def sizes_option(function: Function) -> Function:
    """``--size``, as ``sizes``."""
    return click.option(
        "--size",
        "sizes",
        type=Listed(Bytes(), "bytes[,bytes]"),
        default=(),
        help="Bytes of a payload, or several with commas.  [default: 64,256,1KiB,16KiB for "
        "throughput, 256 for the rest]",
    )(function)


def rates_option(function: Function) -> Function:
    """``--rate``, as ``rates``."""
    return click.option(
        "--rate",
        "rates",
        type=Listed(Rate(), "rate[,rate]"),
        default=(),
        help="Messages a second that are offered when latency is measured, or several with commas.  "
        "[default: 1000,5000,20000,50000,100000]",
    )(function)


def subscribers_option(function: Function) -> Function:
    """``--subscribers``."""
    return click.option(
        "--subscribers",
        type=click.IntRange(1, 1000),
        metavar="N",
        help="Subscribers of everything, each a process.  [default: 4 for fan-out, else 1]",
    )(function)


def common_options(function: Function) -> Function:
    """Add the options of every command."""
    for option in reversed(
        [
            click.option(
                "--duration",
                "duration_ns",
                type=Duration(),
                help="How long each measured pass lasts.  [default: 2s]",
            ),
            click.option(
                "--messages",
                type=Count(),
                metavar="N",
                help="Messages of each measured pass, instead of a duration.",
            ),
            click.option(
                "--publishers",
                type=click.IntRange(1, 1000),
                default=1,
                show_default=True,
                metavar="N",
                help="Publishers that share the messages, each a process.",
            ),
            click.option(
                "--storage",
                type=UrlText(),
                default="mmap",
                show_default=True,
                metavar="SPEC",
                help="Where brokers keep their logs: mmap (in a temporary directory), memory, or "
                "another storage's URL.",
            ),
            click.option(
                "--idle",
                type=click.Choice(["block", "adaptive", "spin"]),
                default="adaptive",
                show_default=True,
                help="How brokers, controls and (with spin) clients wait.",
            ),
            click.option(
                "--repeat",
                type=click.IntRange(1, 1000),
                metavar="N",
                help="Rounds, in which all contestants have a turn.  [default: 3, with --quick 1]",
            ),
            click.option(
                "--pin",
                is_flag=True,
                help="Pin the broker to one core and its users to others.",
            ),
            click.option(
                "--directory",
                type=click.Path(path_type=Path, file_okay=False, exists=True),
                help="Directory for the logs of the run: on the file system to be measured.  "
                "[default: the temporary directory]",
            ),
            click.option(
                "--no-controls",
                is_flag=True,
                help="Leave out the controls, which show what the machine itself can do.",
            ),
            click.option(
                "--output",
                type=click.Path(path_type=Path, dir_okay=False),
                metavar="FILE.json",
                help="Write the result here: rows, environment, method.",
            ),
            click.option(
                "--html",
                type=click.Path(path_type=Path, dir_okay=False),
                metavar="FILE",
                help="Write a page with plots here: one file, which needs no network.",
            ),
            click.option(
                "--hgrm",
                type=click.Path(path_type=Path, file_okay=False),
                metavar="DIR",
                help="Write an HdrHistogram percentile distribution per latency row here.",
            ),
            json_option,
        ]
    ):
        function = option(function)
    return function


def check_places(folder: Path | None, **files: Path | None) -> None:
    """Find out before minutes of measuring whether what is asked for can be written."""
    for name, file in files.items():
        if file is not None:
            OutputFile(file, f"--{name}")
    if folder is not None and not folder.parent.is_dir():
        raise click.BadParameter(
            f"{folder} cannot be written: {folder.parent} is no directory", param_hint="--hgrm"
        )


def check_sizes(sizes: Sequence[int], measures: Sequence[Measure]) -> None:
    """Refuse a payload that has no room for what it must carry."""
    from hermes.bench.parts import SIZE_MIN

    least = SIZE_MIN if {"latency", "round_trip"} & set(measures) else 1
    for size in sizes:
        if size < least:
            why = ": the time of sending travels in it" if least == SIZE_MIN else ""
            raise click.BadParameter(f"must be at least {least} bytes{why}", param_hint="--size")


def run(
    names: Sequence[str],
    *,
    duration_ns: int | None,
    no_controls: bool,
    output: Path | None,
    html: Path | None,
    hgrm: Path | None,
    as_json: bool,
    others: Sequence[Contestant] = (),
    **wishes: Any,
) -> None:
    """Measure, and show: the whole of a command, which hands on what its options say.

    ``others``: contestants beside the named transports.  ``wishes``: fields of
    :class:`~hermes.bench.plan.Wishes`.
    """
    from hermes.bench import machine, rounds
    from hermes.bench import plan as planning
    from hermes.bench import result as results
    from hermes.bench.controls import CONTROLS
    from hermes.bench.own import contestants
    from hermes.cli.output import Progress

    check_places(hgrm, output=output, html=html)
    seconds = None if duration_ns is None else duration_ns / 1e9
    asked = planning.Wishes(duration_s=seconds, **wishes)
    check_sizes(asked.sizes, asked.measures)
    found = [*contestants(names), *others, *(() if no_controls else CONTROLS)]
    plan = planning.plan(asked)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left behind
    with Progress(enabled=not as_json) as progress:
        progress.show("looking at the machine ...")
        assert plan.directory is not None
        environment = machine.environment(plan.directory)
        played = rounds.play(found, plan, Shown(progress))
    result = results.result(played, plan, environment)
    keep(result, output=output, html=html, hgrm=hgrm)
    if as_json:
        from hermes.cli.output import print_json

        print_json(result)
    else:
        from hermes.cli.bench_table import show

        show(result)
        for path in (output, html, hgrm):
            if path is not None:
                say(f"written: {path}")
    problems = complaints(result["rows"])
    if problems:
        sys.stderr.write("".join(f"hermes: {problem}\n" for problem in problems))
        raise SystemExit(int(ExitCode.FAILED))


def keep(
    result: dict[str, Any], *, output: Path | None, html: Path | None, hgrm: Path | None
) -> None:
    """Write the files that were asked for."""
    if output is not None:
        OutputFile(output, "--output").write(json.dumps(result, indent=1) + "\n")
    if html is not None:
        from hermes.bench.page import page

        OutputFile(html, "--html").write(page(result))
    if hgrm is not None:
        from hermes.bench.result import write_histograms

        write_histograms(result["rows"], hgrm)


def complaints(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Reasons for which a run fails: contestants that did, and messages of ours that were lost."""
    said = []
    for row in rows:
        if row.get("failed"):
            said.append(f"{row['transport']} failed: {row['error']}")
        elif row["kind"] == "hermes" and row.get("lost"):
            said.append(
                f"{row['transport']} lost {row['lost']:,} of "
                f"{row['sent'] * row['subscribers']:,} messages ({row['measure']}, "
                f"{row['size']} B)"
            )
    return said


class Shown:
    """A run as a line on the terminal."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress

    def visit(self, text: str, done: int, of: int) -> None:
        """How far it is."""
        percent = 100 * done // max(1, of)
        self._progress.show(f"{percent:3} %  {text}")

    def going(self, contestant: Contestant, job: Job, processes: Sequence[Process]) -> None:
        """Nothing to add: printing now would disturb what is measured."""
