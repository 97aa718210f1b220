"""``hermes plugins new``: a project to start from, which installs and passes its tests as it is."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path

import click

from hermes.cli.command import Command
from hermes.cli.options import json_option
from hermes.cli.output import say

KINDS = ["transport", "storage"]


@click.command(
    "new",
    cls=Command,
    short_help="Write a project for a plugin of your own.",
    examples=[
        ("A transport, in ./hermes-transport-unixsock", "hermes plugins new transport unixsock"),
        (
            "For a medium that is no stream socket: every part is there, to be replaced",
            "hermes plugins new transport pipes --medium packets",
        ),
        ("A storage, elsewhere", "hermes plugins new storage ledger --directory ~/src/ledger"),
    ],
)
@click.argument("kind", type=click.Choice(KINDS), metavar="{transport|storage}")
@click.argument("name", metavar="NAME")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Directory of the project; must be empty if it exists.  [default: ./hermes-KIND-NAME]",
)
@click.option(
    "--medium",
    type=click.Choice(["stream", "packets"]),
    help="Kind of socket of the example transport: a stream, which Hermes reads and writes; or "
    "packets, with every method of both ends written out.  [default: stream]",
)
@json_option
def command(
    kind: str, name: str, directory: Path | None, medium: str | None, as_json: bool
) -> None:
    """Write a complete project for a transport or storage called NAME, its URL scheme.

    It can be installed as it is, works, and passes its tests: a transport carries messages over a
    Unix socket, a storage keeps them in memory.  From there on it is yours.
    """
    from hermes.cli.version import distribution_version
    from hermes.errors import UsageError
    from hermes.testing.template import Names, project

    if medium is not None and kind != "transport":
        raise UsageError(f"--medium is for transports: a {kind} carries nothing; leave it out")
    names = Names(kind, name)
    check_free(kind, names.scheme, names.package)
    directory = directory or Path(names.distribution)
    check_empty(directory)
    texts = project(kind, names, hermes_version=distribution_version(), medium=medium or "stream")
    for path, text in texts.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    commands = [
        f"cd {shlex.quote(str(directory))}",
        "pip install -e '.[test]'",
        "pytest",
        "hermes plugins validate .",
    ]
    if as_json:
        from hermes.cli.output import print_json

        print_json(
            {
                "kind": kind,
                "name": names.scheme,
                "directory": str(directory.absolute()),
                "files": list(texts),
                "next": commands,
            }
        )
        return
    say(f"wrote {kind} {names.scheme} into {directory}:")
    for path in texts:
        say(f"  {path}")
    say("next:")
    for line in commands:
        say(f"  {line}")


def check_free(kind: str, scheme: str, package: str) -> None:
    """Refuse a name that is taken here.

    Raises:
        UsageError: a plugin or a package has it.
    """
    from hermes.errors import UsageError
    from hermes.plugins.discovery import listing

    for plugin in listing():
        if (plugin.kind, plugin.name) == (kind, scheme):
            raise UsageError(
                f"{kind} {scheme!r} is installed already, from {plugin.distribution}, and one name "
                "cannot mean two: choose another name, or uninstall that first"
            )
    if find_spec(package) is not None:
        raise UsageError(
            f"a package called {package} is installed already: choose another name, or uninstall it"
        )


def check_empty(directory: Path) -> None:
    """Refuse to write among somebody's files.

    Raises:
        UsageError: there are some.
    """
    from hermes.errors import UsageError

    if directory.exists() and any(directory.iterdir()):
        raise UsageError(
            f"{directory} is not empty, and nothing is overwritten: name another place with "
            "--directory, or empty it"
        )
