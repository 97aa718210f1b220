"""``hermes durables forget``: have the broker forget a durable name."""

from __future__ import annotations

import click

from hermes.cli.command import Command
from hermes.cli.options import Name, client_options, json_option
from hermes.cli.output import say
from hermes.cli.query import EXITS


@click.command(
    "forget",
    cls=Command,
    short_help="Delete a durable name and its positions.",
    examples=[
        ("A program that is gone for good", "hermes durables forget billing"),
        ("The name of one identity", "hermes durables forget billing --identity alice"),
    ],
    exits=EXITS,
)
@click.argument("name", type=Name())
@click.option(
    "--identity",
    type=Name(least=0),
    metavar="IDENTITY",
    help="The identity whose name it is, where the broker authenticates its clients; '' for a name "
    "that belongs to none.  Needed if several have it.",
)
@client_options
@json_option
def command(name: str, identity: str | None, url: str, timeout_ns: int, as_json: bool) -> None:
    """Delete the durable name NAME and its positions: a program that subscribes under it then
    begins as if it were new.  Refused while a subscription uses it.
    """
    import hermes
    from hermes.errors import Refused

    with hermes.connect(url, timeout=timeout_ns / 1e9, name="hermes durables") as client:
        if not client.forget_durable(name, identity=identity):
            raise Refused(
                f"the broker keeps no durable name {name!r}: see `hermes durables list`",
                code="unknown_durable",
            )
    if as_json:
        from hermes.cli.output import print_json

        print_json({"forgotten": name})
    else:
        say(f"forgot {name}")
