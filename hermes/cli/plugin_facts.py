"""Facts that one plugin states of itself: run in a child process, because it means importing it.

Prints one line of JSON, the last of its output, whatever the plugin prints; see
:mod:`hermes.cli.examination` for the other end.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import typing
from typing import Any

from hermes.errors import HermesError
from hermes.plugins.discovery import API_VERSIONS, Installed, Plugins, default_plugins
from hermes.spi import hooks as hookspecs


def main() -> None:
    """Answer for the plugin that ``sys.argv`` names: kind, name, distribution."""
    kind, name, distribution = sys.argv[1:]
    answer = json.dumps(look(default_plugins(), kind, name, distribution))
    sys.stdout.write(f"\n{answer}\n")
    sys.stdout.flush()
    os._exit(0)  # threads that the plugin may have started are not waited for


def look(plugins: Plugins, kind: str, name: str, distribution: str) -> dict[str, Any]:
    """State and reason, and where it works what there is to know."""
    rows = [plugin for plugin in plugins.listing() if (plugin.kind, plugin.name) == (kind, name)]
    row = next((plugin for plugin in rows if plugin.distribution == distribution), None)
    if row is None:
        return {"state": "failed", "reason": f"{distribution} has no {kind} {name!r} any more"}
    status = plugins.status(row)
    if status.state in ("disabled", "failed"):
        return {"state": status.state, "reason": status.reason}
    try:
        made = plugins.make(kind, name) if kind in API_VERSIONS else command(plugins, name)
    except HermesError as error:
        return {"state": "failed", "reason": str(error)}
    try:
        return {"state": "loaded", "reason": "", **facts(plugins, row, made)}
    except Exception as error:  # a plugin's description of itself can be anything
        reason = (
            f"{row} does not describe itself as the interface says: {type(error).__name__}: "
            f"{error}. `hermes plugins validate {name}` says more"
        )
        return {"state": "failed", "reason": reason}


def command(plugins: Plugins, name: str) -> Any:
    """A command's module or click command, which it has to be."""
    import click

    from hermes.errors import PluginFailed

    loaded = plugins.load("command", name)
    made = loaded if isinstance(loaded, click.Command) else getattr(loaded, "command", loaded)
    if not isinstance(made, click.Command):
        raise PluginFailed(
            f"command {name!r} is not a click command, and has none called 'command'"
        )
    return loaded


def facts(plugins: Plugins, row: Installed, made: Any) -> dict[str, Any]:
    """The facts that ``hermes plugins info`` shows of a plugin that works."""
    from hermes.spi.options import describe_options

    options: list[dict[str, Any]] = []
    capabilities = None
    if row.kind in ("transport", "storage"):
        from hermes.cli.plugins_reference import describe

        described = describe(row.kind, row.name, made)
        options, capabilities = described["options"], described["capabilities"]
    elif row.kind == "plugin":
        options = [
            {
                "name": option.name,
                "ends": ["activate"],
                "values": option.values,
                "default": option.default,
                "text": option.text,
            }
            for option in describe_options(made.options)
        ]
    return {
        "api_version": getattr(made, "api_version", None),
        "announces": [
            {"kind": other.kind, "name": other.name}
            for other in plugins.listing()
            if (other.module, other.distribution) == (row.module, row.distribution)
        ],
        "capabilities": capabilities,
        "options": options,
        "hooks": hooks(row.kind, made),
    }


def hooks(kind: str, made: Any) -> list[str] | None:
    """The hooks it implements; None if that shows only when it is active."""
    if kind != "plugin":
        return [f"hermes_register_{kind}s"] if kind in API_VERSIONS else []
    try:
        active = typing.get_type_hints(made.activate).get("return")
    except Exception:  # annotations can be anything
        return None
    if not inspect.isclass(active) or active is object:
        return None
    own = {name for name in dir(active) if hasattr(getattr(active, name), "hermes_impl")}
    specified = [name for name in vars(hookspecs) if name.startswith("hermes_")]
    return ["hermes_register_plugins", *(name for name in specified if name in own)]
