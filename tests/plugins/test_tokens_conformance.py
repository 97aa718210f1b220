"""The plugin ``tokens`` passes the kit of plugins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.testing.plugin import PluginContract

TOKEN = "alice-has-a-long-token"
FILE = f"""
[users.alice]
token = "{TOKEN}"
publish = ["md.>"]

[users.nobody-known-yet]
proven = true
"""


class TestTokens(PluginContract):
    """A file of users for each broker."""

    name = "tokens"
    believed = ("alice", {"token": TOKEN})

    @classmethod
    def prepare(cls, place: Path) -> Mapping[str, Any]:
        """A file of users."""
        file = place / "users.toml"
        file.write_text(FILE)
        file.chmod(0o600)
        return {"file": str(file)}
