"""``hermes plugins reference``: what transports and storages can do, and their options, as
Markdown.

It is what the plugins' own code says; ``docs/plugin-reference.md`` is made by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import click

from hermes.cli.command import Command
from hermes.cli.exits import ExitCode
from hermes.cli.options import json_option

TITLE = """\
# Transports and storages: what each can do, and its options

Made by `hermes plugins reference`; what stands here is what the plugins' own code says of itself.

Options stand in the URL, as in `tcp://127.0.0.1:7601?nodelay=no&send_buffer=64KiB`. Sizes are bytes or have a unit
(`64KiB`, `2GB`), durations have one (`250ms`, `30s`); yes and no may also be written true and false. An option that is
not there is an error that names the closest one.
"""


@click.command(
    "reference",
    cls=Command,
    short_help="Capabilities and options of plugins, as Markdown.",
    examples=[
        ("Of all that is installed", "hermes plugins reference"),
        ("For your plugin's own documentation", "hermes plugins reference unixsock > OPTIONS.md"),
    ],
    exits=[ExitCode.PLUGIN],
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--distribution",
    metavar="DIST",
    help="Only the plugins of this distribution, e.g. hermes-broker.",
)
@json_option
def command(names: tuple[str, ...], distribution: str | None, as_json: bool) -> None:
    """Write what transports and storages claim to be able to do, and all their options.

    Plugins are imported, but neither asked whether they work here nor opened.
    """
    from hermes.errors import PluginNotFound
    from hermes.plugins.discovery import listing

    chosen = [
        plugin
        for plugin in listing()
        if plugin.kind in ("transport", "storage")
        and (not names or plugin.name in names)
        and distribution in (None, plugin.distribution)
    ]
    missing = sorted(set(names) - {plugin.name for plugin in chosen})
    if missing:
        raise PluginNotFound(
            f"no transport or storage is called {missing[0]!r}; `hermes plugins list` shows those "
            "that are installed"
        )
    found = [
        (plugin.kind, plugin.name, made(plugin.kind, plugin.name, plugin.module))
        for plugin in sorted(chosen, key=lambda plugin: (plugin.kind != "transport", plugin.name))
    ]
    if as_json:
        from hermes.cli.output import print_json

        print_json([describe(*each) for each in found])
    else:
        click.echo("\n".join(page([describe(*each) for each in found])), nl=False)


def made(kind: str, name: str, module: str) -> Any:
    """A transport or storage backend, not asked whether it works here.

    Raises:
        PluginFailed: it cannot be made.
    """
    from hermes.errors import HermesError, PluginFailed
    from hermes.plugins.discovery import default_plugins

    announced: dict[str, Any] = {}
    try:
        plugin = default_plugins().load(kind, name)
        getattr(plugin, f"hermes_register_{kind}s")(register=announced.__setitem__)
        return announced[name]()
    except HermesError:
        raise
    except Exception as error:
        raise PluginFailed(
            f"{kind} {name!r} ({module}) could not be made: {type(error).__name__}: {error}.  "
            f"`hermes plugins validate {name}` says more"
        ) from error


def describe(kind: str, name: str, plugin: Any) -> dict[str, Any]:
    """A plugin's own description."""
    from hermes.spi.options import describe_options

    claims = {
        field.name: getattr(plugin.capabilities, field.name)
        for field in fields(plugin.capabilities)
    }
    found: dict[str, Any] = {"kind": kind, "name": name, "capabilities": claims}
    if kind == "transport":
        options = {"listen": plugin.listen_options, "dial": plugin.dial_options}
    else:
        options = {"open": plugin.options}
    rows: dict[str, dict[str, Any]] = {}
    for end, struct in options.items():
        for option in describe_options(struct):
            row = rows.setdefault(
                option.name,
                {
                    "name": option.name,
                    "ends": [],
                    "values": option.values,
                    "default": option.default,
                    "text": option.text,
                },
            )
            row["ends"].append(end)
    found["options"] = list(rows.values())
    return found


def page(plugins: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the page."""
    yield TITLE
    for kind in ("transport", "storage"):
        of_kind = [plugin for plugin in plugins if plugin["kind"] == kind]
        if of_kind:
            yield f"## Capabilities of {kind}s\n"
            yield from capabilities(kind, of_kind)
    for plugin in plugins:
        yield f"## {plugin['kind'].capitalize()} `{plugin['name']}`\n"
        yield from table(plugin)


def capabilities(kind: str, plugins: list[dict[str, Any]]) -> Iterator[str]:
    """A row per capability, a column per plugin."""
    from hermes.spi import storage, transport
    from hermes.spi.options import field_docstrings

    claims = transport.Capabilities if kind == "transport" else storage.Capabilities
    names = [f"`{plugin['name']}`" for plugin in plugins]
    yield f"| capability | {' | '.join(names)} | meaning |"
    yield f"| --- |{' :-: |' * len(plugins)} --- |"
    for name, text in field_docstrings(claims).items():
        marks = " | ".join("yes" if plugin["capabilities"][name] else "" for plugin in plugins)
        yield f"| `{name}` | {marks} | {cell(text)} |"
    yield ""


def table(plugin: dict[str, Any]) -> Iterator[str]:
    """A row per option."""
    if not plugin["options"]:
        yield "It has no options.\n"
        return
    transport = plugin["kind"] == "transport"
    yield f"| option | value | default |{' where |' if transport else ''} meaning |"
    yield f"| --- | --- | --- |{' --- |' if transport else ''} --- |"
    for option in plugin["options"]:
        default = option["default"]
        default = "must be given" if default is None else f"`{default}`" if default else "empty"
        where = f" {place(option['ends'])} |" if transport else ""
        yield (
            f"| `{option['name']}` | {cell(option['values'])} | {default} |{where} "
            f"{cell(option['text'])} |"
        )
    yield ""


def place(ends: list[str]) -> str:
    """Which of a transport's two ends takes an option."""
    if len(ends) > 1:
        return "both"
    return "listening" if ends == ["listen"] else "connecting"


def cell(text: str) -> str:
    """Text for a table of Markdown: the quoting of docstrings becomes that of Markdown."""
    text = re.sub(r":\w+:`~?\.?([\w.]+)`", r"`\1`", text).replace("``", "`")
    return text.replace("|", "\\|")
