"""Users with tokens, from a file: ``hermes serve --plugin 'tokens?file=users.toml'``."""

from __future__ import annotations

from hermes.spi.hooks import Plugin, RegisterPlugin, hookimpl


@hookimpl
def hermes_register_plugins(register: RegisterPlugin) -> None:
    """Announce the plugin."""
    register("tokens", _tokens)


def _tokens() -> Plugin:
    from hermes_tokens.engine import Tokens  # deferred: costs nothing until a broker names it

    return Tokens()
