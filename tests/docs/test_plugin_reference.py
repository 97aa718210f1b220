"""docs/plugin-reference.md is what the plugins say of themselves, and they say it of everything."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes.cli.plugins_reference import command, made
from hermes.plugins.discovery import Installed, listing
from hermes.spi import storage, transport
from hermes.spi.options import describe_options, field_docstrings

PAGE = Path(__file__).parents[2] / "docs" / "plugin-reference.md"
OURS = [
    plugin
    for plugin in listing()
    if plugin.distribution == "hermes-broker" and plugin.kind in ("transport", "storage")
]


def test_the_page_is_current() -> None:
    """The page is what `hermes plugins reference` writes for the plugins that come with Hermes."""
    done = CliRunner().invoke(command, ["--distribution", "hermes-broker"])

    assert done.exit_code == 0, done.output
    assert PAGE.read_text() == done.stdout, (
        "make it anew: hermes plugins reference --distribution hermes-broker "
        "> docs/plugin-reference.md"
    )


@pytest.mark.parametrize("plugin", OURS, ids=lambda plugin: f"{plugin.kind}-{plugin.name}")
def test_every_option_is_documented(plugin: Installed) -> None:
    """Each option of a plugin of ours has a docstring and a default."""
    instance = made(plugin.kind, plugin.name, plugin.module)
    ends = ("options",) if plugin.kind == "storage" else ("listen_options", "dial_options")

    for end in ends:
        for option in describe_options(getattr(instance, end)):
            assert option.text, option.name
            assert option.default is not None, option.name


@pytest.mark.parametrize("claims", [transport.Capabilities, storage.Capabilities])
def test_every_capability_is_documented(claims: type) -> None:
    """Each capability that a plugin may claim has a docstring."""
    assert list(field_docstrings(claims)) == [field.name for field in dataclasses.fields(claims)]
