"""``hermes serve``: a broker in the foreground.  Flags and a TOML file fill the same
configuration.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from hermes.cli.command import Command
from hermes.cli.exits import ExitCode
from hermes.cli.files import OutputFile
from hermes.cli.options import (
    Bytes,
    Retained,
    UrlText,
    intercept_option,
    intercepted,
    json_option,
    no_plugin_option,
)

if TYPE_CHECKING:
    from hermes.broker.broker import Broker
    from hermes.broker.config import Config
    from hermes.broker.signals import Signals

LOG = logging.getLogger("hermes.broker")


@click.command(
    "serve",
    cls=Command,
    short_help="Run a broker.",
    examples=[
        ("On tcp://127.0.0.1:7601, with its log in the platform's data directory", "hermes serve"),
        (
            "With its data beside you, and a stream of its own for market data",
            "hermes serve --storage mmap:./data --stream md='md.>'",
        ),
        (
            "In memory only, two gigabytes a stream and no older than an hour",
            "hermes serve --storage memory --retention 2GiB,1h",
        ),
        (
            "On a port the system chooses, telling a script which one",
            "hermes serve --transport tcp://127.0.0.1:0 --ready-file ready.json",
        ),
        ("From a file; flags win over it", "hermes serve --config broker.toml --idle spin"),
    ],
    exits={
        ExitCode.OK: "stopped in order by a signal: everything taken is in the log, "
        "on disk where that was promised",
        ExitCode.UNREACHABLE: "an address is taken",
        ExitCode.STORAGE: "the storage cannot be opened, is locked by another broker, or "
        "failed on the way down",
        ExitCode.PLUGIN: "a transport or storage is not installed, or failed",
        ExitCode.INTERRUPTED: "a second signal forced it",
    },
)
@click.option(
    "--transport",
    "transports",
    type=UrlText(),
    multiple=True,
    metavar="NAME-or-URL",
    help="URL or transport to listen on; may be repeated.  [default: tcp://127.0.0.1:7601]",
)
@click.option(
    "--storage",
    type=UrlText(),
    metavar="SPEC",
    help="Where logs are kept: mmap:DIR, memory, or another plugin's URL.  [default: mmap: in "
    "the platform's data directory]",
)
@click.option(
    "--stream",
    "streams",
    multiple=True,
    metavar="NAME=PATTERN[,PATTERN]",
    help="A log of its own for the topics under these patterns; may be repeated.",
)
@click.option(
    "--idle",
    type=click.Choice(["block", "adaptive", "spin"]),
    help="Idle strategy: sleep, spin briefly and then sleep, or spin (a core of its own, the "
    "lowest latency).  [default: adaptive]",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Read the configuration from here first (docs/configuration.md); flags win.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write process id and bound URLs here, as JSON, once every listener is bound.",
)
@click.option(
    "--retention",
    type=Retained(),
    metavar="BYTES[,AGE]",
    help="Bytes and age kept of each stream; 0 bytes: no bound.  [default: 10GiB]",
)
@click.option(
    "--segment",
    type=Bytes(),
    metavar="BYTES",
    help="Size of a segment file: retention removes whole ones.  [default: 32MiB]",
)
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="NAME[?OPTION=VALUE]",
    help="Activate a plugin; may be repeated.  `hermes plugins list` has those there are.",
)
@no_plugin_option
@intercept_option
@json_option
def command(
    transports: tuple[str, ...],
    storage: str | None,
    streams: tuple[str, ...],
    idle: str | None,
    config_file: Path | None,
    ready_file: Path | None,
    retention: str | None,
    segment: int | None,
    plugins: tuple[str, ...],
    intercept: str | None,
    as_json: bool,
) -> None:
    """Run a broker until SIGTERM, SIGINT (Ctrl-C), SIGQUIT or SIGHUP.

    The first signal stops it in order: no new connections, everything it took is appended and
    synced, clients are told. A second signal ends it at once; what was acknowledged is in the log
    all the same.
    """
    from hermes.base.shown import redacted
    from hermes.errors import UsageError
    from hermes.spi.url import parse_url

    ready = None
    if ready_file is not None:
        ready = OutputFile(ready_file, "--ready-file")
        ready.remove()  # one from an earlier run would mislead a program that waits for it
    config = configure(
        config_file,
        {
            "listeners": list(transports) or None,
            "storage": storage,
            "idle": idle,
            "retention": retention,
            "segment": segment,
        },
        [parse_stream(text) for text in streams],
        dict(parse_plugin(text) for text in plugins),
    )
    for text in config.listeners:
        if parse_url(text).scheme == "inproc":
            raise UsageError(
                f"{redacted(text)}: inproc reaches clients in the broker's own process, and this one "
                "has none: take tcp, or start the broker in your program (hermes.broker.Broker)"
            )
    config.listeners = [intercepted(url, intercept) for url in config.listeners]
    serve(config, ready, as_json=as_json)


def parse_stream(text: str) -> dict[str, Any]:
    """``NAME=PATTERN[,PATTERN]`` as one ``[[streams]]`` table."""
    name, equals, patterns = text.partition("=")
    listed = [pattern.strip() for pattern in patterns.split(",")]
    if not equals or not name.strip() or not all(listed):
        raise click.BadParameter(
            f"{text!r} is not NAME=PATTERN[,PATTERN], as in md='md.>' (quoted, because of the "
            "shell)",
            param_hint="--stream",
        )
    return {"name": name.strip(), "patterns": listed}


def parse_plugin(text: str) -> tuple[str, dict[str, str]]:
    """``NAME[?OPTION=VALUE&...]`` as one ``[plugins.NAME]`` table."""
    from hermes.base.shown import redacted
    from hermes.errors import InvalidUrl
    from hermes.spi.url import parse_url

    shown = redacted(text.partition("?")[0])  # a value may be a secret
    try:
        url = parse_url(text if "?" not in text else text.replace("?", ":?", 1))
    except InvalidUrl as error:
        raise click.BadParameter(
            f"{shown!r} is not NAME[?OPTION=VALUE], as in 'tokens?file=users.toml' (quoted, because "
            "of the shell)",
            param_hint="--plugin",
        ) from error
    if url.path or url.scheme_has_authority:
        raise click.BadParameter(
            f"{shown!r} is not NAME[?OPTION=VALUE]: options stand behind a '?'",
            param_hint="--plugin",
        )
    return url.scheme, url.query


def configure(
    file: Path | None,
    flags: dict[str, Any],
    streams: list[dict[str, Any]],
    plugins: Mapping[str, dict[str, str]] = MappingProxyType({}),
) -> Config:
    """The file's configuration, flags laid over it; a ``--stream`` replaces the patterns of one
    in the file, a ``--plugin`` the options of one.

    Raises:
        InvalidConfig: the file or a flag says something that cannot be.
    """
    from hermes.broker import config as configuration

    if file is None and not streams and not plugins:
        values: dict[str, Any] = {}
    else:
        loaded = configuration.load(file) if file is not None else configuration.Config()
        values = configuration.to_values(loaded)
    values |= {key: value for key, value in flags.items() if value is not None}
    tables: list[dict[str, Any]] = values.get("streams", [])
    if len({stream["name"] for stream in streams}) != len(streams):
        raise click.BadParameter(
            "the same stream is given twice: list its patterns with commas", param_hint="--stream"
        )
    by_name = {table["name"]: table for table in tables}
    for stream in streams:
        if stream["name"] in by_name:
            by_name[stream["name"]]["patterns"] = stream["patterns"]
        else:
            tables.append(stream)
    values["streams"] = tables
    values["plugins"] = {**values.get("plugins", {}), **plugins}
    return configuration.from_values(
        values, source="the command line" if file is None else f"{file} and the command line"
    )


def serve(config: Config, ready_file: OutputFile | None, *, as_json: bool) -> None:
    """Open the broker, say where it is, and run it until a signal stops it."""
    from hermes.broker.broker import Broker
    from hermes.broker.signals import Signals, quiet_collector
    from hermes.cli.figures import format_bytes
    from hermes.cli.output import Progress

    with Progress() as progress:

        def verifying(stream: str, done: int, total: int) -> None:
            progress.show(
                f"verifying stream {stream}: {format_bytes(done)} of {format_bytes(total)}"
            )

        broker = Broker(config, progress=verifying)
        signals = Signals(broker, opened=False)
        with signals.handled():
            try:
                broker.open()
                progress.close()
                announce(broker, ready_file, signals, as_json=as_json)
                quiet_collector()
                broker.run(signals=False)
            finally:
                broker.close()
                if ready_file is not None:
                    forget_ready(ready_file)
    if signals.count > 1:
        raise SystemExit(int(ExitCode.INTERRUPTED))


def announce(
    broker: Broker, ready_file: OutputFile | None, signals: Signals, *, as_json: bool
) -> None:
    """Say where the broker is, in the ready file and on the standard output.

    A signal from now on stops it in order, for a program that knows where it is may stop it at once;
    one that comes while a FIFO waits for its reader ends the waiting as well.
    """
    from hermes.cli.terminal import offer

    ready = describe(broker)
    announced = announcement(broker, ready, as_json=as_json)
    try:
        if ready_file is not None:
            ready_file.write(json.dumps(ready) + "\n")
        signals.opened = True
    except KeyboardInterrupt:
        signals.opened = True
        broker.stop()
    if not offer(announced):
        LOG.warning("nobody reads the standard output: serving all the same")


def describe(broker: Broker) -> dict[str, Any]:
    """Content of the ready file: process id and listeners, in the order of the flags."""
    return {
        "pid": os.getpid(),
        "listeners": [
            {
                "transport": listener.transport,
                "url": listener.url,
                **({"doors": listener.doors} if listener.doors else {}),
            }
            for listener in broker.listeners
        ],
    }


def announcement(broker: Broker, ready: dict[str, Any], *, as_json: bool) -> str:
    """Return the broker's listeners, storage and retention as lines, or as one line of JSON."""
    from hermes.base.shown import printable
    from hermes.spi.units import ByteSize, Duration

    streams = broker.streams()
    if as_json:
        kept = [
            {key: stream[key] for key in ("name", "patterns", "retention_bytes", "retention_ns")}
            for stream in streams
        ]
        facts = {
            **ready,
            "storage": broker.storage_url,
            "streams": kept,
            "message_max": broker.message_max,
            "plugins": broker.plugins,
        }
        return json.dumps(facts) + "\n"
    lines = []
    for listener in ready["listeners"]:
        lines.append(f"listening on {listener['url']}")
        for role, address in listener.get("doors", {}).items():
            lines.append(f"             {address} ({role})")
    lines.append(f"storing in   {broker.storage_url}")
    if broker.plugins:
        lines.append(f"plugins      {', '.join(broker.plugins)}")
    for stream in streams:
        size, age_ns = stream["retention_bytes"], stream["retention_ns"]
        bounds = [str(ByteSize(size))] if size else []
        bounds += [str(Duration(age_ns))] if age_ns else []
        patterns = f" ({', '.join(stream['patterns'])})" if stream["patterns"] else ""
        kept_of = " and ".join(bounds) or "all"
        lines.append(f"stream       {stream['name']}{patterns} keeps {kept_of}")
    lowered = broker.message_max < broker.config.limits.message
    why = f", for the sake of segments (limits.message is {broker.config.limits.message})"
    lines.append(f"messages     up to {ByteSize(broker.message_max)}{why if lowered else ''}")
    return "".join(f"{printable(line)}\n" for line in lines)


def forget_ready(file: OutputFile) -> None:
    """Remove the file that says we are ready, if it is ours."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, click.BadParameter):
        if json.loads(file.read())["pid"] == os.getpid():
            file.remove()
