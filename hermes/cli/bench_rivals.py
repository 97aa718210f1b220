"""``hermes bench rivals``: other systems beside Hermes, doing the same work."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hermes.cli.bench_options import (
    EXITS,
    common_options,
    rates_option,
    run,
    sizes_option,
    subscribers_option,
)
from hermes.cli.command import Command, closest

if TYPE_CHECKING:
    from hermes.bench.contestant import Contestant

DRIVERS = "benchmarks.rivals"
"""The package that has them: part of the repository, not of what is installed."""
RATES = (1_000.0, 10_000.0)
"""Messages a second that are offered unless told otherwise: what all of them can take."""
SIZE = 256


@click.command(
    "rivals",
    cls=Command,
    short_help="Other messaging systems beside Hermes, doing the same work.",
    examples=[
        ("All that are installed (make rivals installs them)", "hermes bench rivals"),
        ("Two of them, quickly", "hermes bench rivals 'nats core' redis --quick"),
        (
            "A result to publish, with pictures",
            "hermes bench rivals --output rivals.json --html rivals.html",
        ),
    ],
    exits=EXITS,
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--transport",
    "transports",
    multiple=True,
    default=("tcp",),
    show_default=True,
    metavar="NAME-or-URL",
    help="Transport of Hermes that they are compared with; may be repeated.",
)
@click.option(
    "--drivers",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="A checkout of Hermes, whose benchmarks/rivals is used.  [default: the current "
    "directory, or where Hermes is installed from]",
)
@click.option("--quick", is_flag=True, help="One short round.")
@sizes_option
@rates_option
@subscribers_option
@common_options
def command(
    names: tuple[str, ...],
    transports: tuple[str, ...],
    drivers: Path | None,
    sizes: tuple[int, ...],
    rates: tuple[float, ...],
    **asked: Any,
) -> None:
    """Measure other messaging systems, each at its documented best from Python, beside Hermes.

    NAME is a rival's name or how it begins, such as redis. One that is not installed has a row that
    says so. A rival that drops messages with its defaults stands twice: as it comes, and set up to
    lose nothing.
    """
    found = chosen(names, load(drivers))
    run(transports, others=found, sizes=sizes or (SIZE,), rates=rates or RATES, **asked)


def load(checkout: Path | None) -> list[Contestant]:
    """Every rival there is a driver for, installed or not."""
    from hermes.bench.actors import Driven

    root = checkout_of_drivers(checkout)
    for path in (sys.path, search_path := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        path.insert(0, str(root))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, search_path))  # for their processes
    found: list[Contestant] = []
    for reference in import_module(DRIVERS).references():
        module, _, attribute = reference.partition(":")
        found.append(Driven(getattr(import_module(module), attribute), reference))
    return found


def checkout_of_drivers(given: Path | None) -> Path:
    """The directory that has the drivers' package."""
    import hermes

    folder = Path(*DRIVERS.split("."))
    places = [given] if given else [Path.cwd(), Path(hermes.__file__).parents[1]]
    for place in places:
        if (place / folder / "__init__.py").is_file():
            return place.absolute()
    raise click.UsageError(
        f"{folder} is not in {' nor '.join(map(str, places))}: the rivals' drivers come with the "
        "repository, not with the package.  Run this in a checkout of Hermes, or name one with "
        "--drivers"
    )


def chosen(names: tuple[str, ...], rivals: list[Contestant]) -> list[Contestant]:
    """Rivals whose name begins with one of ``names``; all if there are none."""
    known = [rival.name for rival in rivals]
    for name in names:
        if not any(rival.startswith(name) for rival in known):
            raise click.BadParameter(
                f"no rival is called {name!r}.{closest(name, known)}  There are: "
                f"{', '.join(known)}",
                param_hint="NAME",
            )
    return [rival for rival in rivals if not names or rival.name.startswith(names)]
