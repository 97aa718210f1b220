"""``hermes version``: what a bug report should begin with."""

from __future__ import annotations

import click

from hermes.cli.command import Command
from hermes.cli.options import json_option

DISTRIBUTION = "hermes-broker"


def distribution_version() -> str:
    """The installed version, or ``unknown`` in a tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


@click.command(
    "version",
    cls=Command,
    logs=False,
    short_help="Show versions.",
    examples=[
        ("Paste this into a bug report", "hermes version"),
        ("The number alone", "hermes --version"),
        ("For a script", "hermes version --json"),
    ],
)
@json_option
def command(as_json: bool) -> None:
    """Show the versions of Hermes, its formats, Python and the machine."""
    import platform

    from hermes.native._core import ffi, lib

    facts = {
        "hermes": distribution_version(),
        "frame": lib.HM_FRAME_VERSION,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "crc32c": ffi.string(lib.hm_crc32c_variant()).decode(),
    }
    if as_json:
        from hermes.cli.output import print_json

        print_json(facts)
        return
    click.echo(f"hermes {facts['hermes']}")
    click.echo(f"frame format {facts['frame']}, CRC-32C by {facts['crc32c']}")
    click.echo(
        f"{facts['implementation']} {facts['python']}, {facts['system']} {facts['release']} "
        f"{facts['machine']}"
    )
