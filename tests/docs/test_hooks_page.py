"""docs/hooks.md has every hook with every argument, every option of the built-in plugins, and an
example that works."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hermes
from hermes.plugins.discovery import default_plugins
from hermes.spi import hooks as hookspecs

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()
HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if name.startswith("hermes_") and inspect.isfunction(function)
}


def section(heading: str) -> str:
    """The text under a heading, up to the next."""
    found = re.search(rf"^###? `{heading}`\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert found, f"docs/hooks.md has no heading for {heading}"
    return found[1]


def rows(text: str) -> set[str]:
    """The first cells of a table, where they are code."""
    return set(re.findall(r"^\| `(\w+)` \|", text, re.M))


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_and_argument_is_documented(name: str) -> None:
    """Each hook has a section, with a row for each of its arguments and no other."""
    assert rows(section(name)) == set(inspect.signature(HOOKS[name]).parameters)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_explains_itself(name: str) -> None:
    """The docstring says what an exception does, or who gets it, where it does not register."""
    text = inspect.getdoc(HOOKS[name]) or ""

    assert text
    if not name.startswith("hermes_register_"):
        assert "exception" in text or "raises" in text


def test_no_hook_is_documented_that_does_not_exist() -> None:
    """Every hook on the page can be implemented."""
    documented = set(re.findall(r"^### `(hermes_\w+)`", PAGE, re.M))

    assert documented == set(HOOKS)


@pytest.mark.parametrize(
    "name",
    [
        plugin.name
        for plugin in default_plugins().listing()
        if plugin.kind == "plugin" and plugin.distribution == "hermes-broker"
    ],
)
def test_every_option_of_a_built_in_plugin_is_documented(name: str) -> None:
    """Its section has a row for each option, and no other."""
    options = default_plugins().plugin(name).options

    documented = rows(section(name))
    assert documented == {field.encode_name for field in msgspec.structs.fields(options)}


def test_the_example_counts_clients(capsys: pytest.CaptureFixture[str]) -> None:
    """The plugin that the page builds from nothing does what it says."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.S)
    assert code
    module: dict[str, Any] = {"__name__": "hermes_headcount"}
    exec(compile(code[1], "docs/hooks.md", "exec"), module)

    with (
        hermes.register_plugin("headcount", module["Headcount"]),
        hermes.Broker(
            listeners=["inproc:"], storage="memory:", plugins={"headcount": {"warn_at": 2}}
        ) as broker,
        hermes.connect(broker.url, name="one"),
        hermes.connect(broker.url, name="two"),
    ):
        pass

    assert re.fullmatch(r"2 clients, now .*two.* at .*\n", capsys.readouterr().out)


def test_the_example_of_users_is_valid(tmp_path: Path) -> None:
    """The file of users has the keys that the plugin takes."""
    from hermes_tokens.users import Entry

    example = re.findall(r"```toml\n(.*?)```", PAGE, re.S)[-1]

    for name, user in tomllib.loads(example)["users"].items():
        assert set(user) <= {field.encode_name for field in msgspec.structs.fields(Entry)}, name
