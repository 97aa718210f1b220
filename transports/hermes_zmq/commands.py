"""``hermes bridge zmq`` and ``hermes keys new``: the commands that this plugin brings."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click

import hermes
from hermes.errors import PluginFailed, UsageError

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group("bridge", context_settings=SETTINGS, short_help="Connect to programs elsewhere.")
def bridge() -> None:
    """Pass messages between a broker and programs that stay where they are."""


@bridge.command("zmq", context_settings=SETTINGS)
@click.option("--sub", "feed", metavar="ENDPOINT", help="Record the PUB socket that is bound here.")
@click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    metavar="TEXT",
    help="Topic prefix to subscribe to at the feed; may be repeated.  [default: everything]",
)
@click.option(
    "--pub", "target", metavar="ENDPOINT", help="Publish to the XSUB (or SUB) bound here."
)
@click.option(
    "--pull", "source", metavar="ENDPOINT", help="Record the PUSH socket that is bound here."
)
@click.option("--push", "sink", metavar="ENDPOINT", help="Pass work to the PULL socket bound here.")
@click.option(
    "--work",
    default="",
    metavar="TOPIC",
    help="With --pull and --push: the topic of all work, which goes out without it.",
)
@click.option("--pattern", default=">", show_default=True, help="The topics to publish there.")
@click.option(
    "--from",
    "start",
    type=click.Choice(["latest", "earliest", "last"]),
    default="latest",
    show_default=True,
    help="Start of the subscription.",
)
@click.option("--durable", metavar="NAME", help="Go on where the bridge of this name has stopped.")
@click.option(
    "--curve", default="", metavar="FILE", help="Our key file, as `hermes keys new` makes."
)
@click.option(
    "--server", default="", metavar="KEY", help="The other side's public key, or its file."
)
@click.option(
    "--high-water",
    default=1000,
    show_default=True,
    type=click.IntRange(1, 2**31 - 1),
    help="Messages.",
)
@click.option("--url", envvar="HERMES_URL", default="tcp://127.0.0.1:7601", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def bridge_zmq(
    feed: str | None,
    prefixes: tuple[str, ...],
    target: str | None,
    source: str | None,
    sink: str | None,
    work: str,
    pattern: str,
    start: Any,
    durable: str | None,
    curve: str,
    server: str,
    high_water: int,
    url: str,
    as_json: bool,
) -> None:
    """Record what a ZeroMQ program sends (--sub, --pull), or send topics to one (--pub, --push).

    A message that the broker refuses, for its topic for instance, is counted and left out.  Runs
    until SIGTERM or SIGINT (Ctrl-C); then everything that has arrived is in the log.
    """
    ways = {"XSUB": feed, "XPUB": target, "PULL": source, "PUSH": sink}
    chosen = {name: place for name, place in ways.items() if place is not None}
    if len(chosen) != 1:
        raise click.UsageError(
            "give one of --sub and --pull ENDPOINT to record what is sent there, or one of --pub and "
            "--push ENDPOINT to send to it"
        )
    if work and source is None and sink is None:
        raise click.UsageError("--work goes with --pull or --push")
    if bool(curve) != bool(server):
        raise click.UsageError("--curve and --server go together")
    _need_pyzmq()
    import zmq

    from hermes_zmq.bridge import Passed, connected, record, replay

    passed = Passed()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_stopping())
        client = stack.enter_context(hermes.connect(url, name="hermes bridge zmq"))
        ((name, endpoint),) = chosen.items()
        socket, watch = stack.enter_context(
            connected(getattr(zmq, name), endpoint, high_water=high_water, key=curve, server=server)
        )
        _say(as_json, event="started", endpoint=endpoint, url=url)
        if name in ("XSUB", "PULL"):
            record(socket, watch, client, list(prefixes), stop, passed, topic=work)
        else:

            def gap(found: object) -> None:
                passed.gaps += 1
                click.echo(f"messages are missing: {found}", err=True)

            subscription = stack.enter_context(
                client.subscribe(work or pattern, start=start, durable=durable, on_gap=gap)
            )
            replay(
                socket,
                watch,
                subscription,
                stop,
                passed,
                commit=durable is not None,
                bare=bool(work),
            )
    _say(
        as_json,
        event="stopped",
        messages=passed.messages,
        oversized=passed.oversized,
        crowded=passed.crowded,
        refused=passed.refused,
        gaps=passed.gaps,
    )


@click.group("keys", context_settings=SETTINGS, short_help="Make keys for encrypted transports.")
def keys() -> None:
    """Make keys for encrypted transports."""


@keys.command("new", context_settings=SETTINGS)
@click.argument("name", type=click.Path())
@click.option(
    "--force", is_flag=True, help="Replace a pair that is there: its users are locked out."
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def keys_new(name: str, force: bool, as_json: bool) -> None:
    """Make a CURVE key pair: NAME.key, which only you can read, and NAME.pub for others.

    A listener takes the first with ?curve=NAME.key; clients need the second.
    """
    _need_pyzmq()
    from hermes_zmq.curve import write_keys

    try:
        secret, public, pair = write_keys(name, overwrite=force)
    except FileExistsError as error:
        raise UsageError(f"{error}: choose another name, or --force") from error
    except OSError as error:
        raise UsageError(f"the keys cannot be written: {error}") from error
    if as_json:
        click.echo(
            json.dumps({"secret": str(secret), "public": str(public), "key": pair.public.decode()})
        )
        return
    click.echo(f"{secret}  keep this to yourself")
    click.echo(f"{public}  for others: {pair.public.decode()}")


def _need_pyzmq() -> None:
    try:
        import zmq  # noqa: F401
    except ImportError as error:
        raise PluginFailed(
            f"this takes pyzmq, which cannot be used here ({error}): pip install 'hermes-broker[zmq]'"
        ) from error


def _say(as_json: bool, **values: Any) -> None:
    if as_json:
        text = json.dumps(values)
    else:
        event = values.pop("event")
        text = f"{event}: " + ", ".join(f"{value} {name}" for name, value in values.items())
    click.echo(text)
    sys.stdout.flush()


@contextlib.contextmanager
def _stopping() -> Iterator[Any]:
    """A function that tells whether a signal has asked to stop; the second one ends it at once."""
    asked = []

    def on_signal(number: int, frame: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            os._exit(130)

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
