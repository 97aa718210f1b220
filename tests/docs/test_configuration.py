"""docs/configuration.md names every key there is, and no other; its defaults are the code's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from hermes.broker.config import RETENTION, Config, Limits, StreamConfig, from_values, to_values

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def section(heading: str) -> str:
    """The text under a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    assert found, f"docs/configuration.md has no heading {heading!r}"
    return found[1]


def documented(heading: str) -> dict[str, str]:
    """Key to default, as the section's table has them."""
    return dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", section(heading), re.M))


@pytest.mark.parametrize(
    ("heading", "kind"),
    [("The broker", Config), ("`[[streams]]`", StreamConfig), ("`[limits]`", Limits)],
)
def test_every_key_is_documented(heading: str, kind: type[msgspec.Struct]) -> None:
    """A table's keys are the struct's fields, all of them and no other."""
    fields = {field.encode_name for field in msgspec.structs.fields(kind)}

    assert set(documented(heading)) == fields


@pytest.mark.parametrize(
    ("heading", "values"),
    [
        ("The broker", {"retention": str(RETENTION), **to_values(Config())}),
        ("`[limits]`", to_values(Config())["limits"]),
    ],
)
def test_documented_defaults_are_the_real_ones(heading: str, values: dict[str, object]) -> None:
    """A default in the page is the one that the code has."""
    for key, cell in documented(heading).items():
        if cell.strip():
            default = tomllib.loads(f"x = {cell.strip().strip('`')}")["x"]
            assert default == values[key], key


def test_the_example_is_a_valid_configuration() -> None:
    """The page's example is accepted as it stands."""
    example = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.S)
    assert example

    config = from_values(tomllib.loads(example[1]))

    assert [stream.name for stream in config.all_streams()] == ["default", "md"]
