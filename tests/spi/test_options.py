"""Descriptions of an option struct."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import msgspec
import pytest

from hermes.spi.options import Option, describe_options
from hermes.spi.units import ByteSize, Duration


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Base(msgspec.Struct):
    loud: bool = False
    """Say
    it loudly."""
    note: str = ""


class Options(Base):
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 3
    """How many."""
    some: Annotated[int, msgspec.Meta(ge=1)] = 3
    few: Annotated[float, msgspec.Meta(le=2)] = 1.5
    size: ByteSize = ByteSize(65536)
    wait: Duration = Duration(2_000_000)
    mode: Literal["a", "b"] = "a"
    colour: Colour = msgspec.field(default=Colour.RED, name="tint")
    maybe: str | None = None


def test_fields_are_described_in_order_with_those_of_the_base_first() -> None:
    """Names are the URL's, docstrings stand on one line, and what has none has an empty text."""
    described = describe_options(Options)

    assert described[:3] == [
        Option("loud", "yes or no", "no", "Say it loudly."),
        Option("note", "text", "", ""),
        Option("count", "integer, 1 to 9", "3", "How many."),
    ]
    assert [option.name for option in described][-2:] == ["tint", "maybe"]


@pytest.mark.parametrize(
    ("name", "values", "default"),
    [
        ("some", "integer, at least 1", "3"),
        ("few", "number, at most 2", "1.5"),
        ("size", "size", "64KiB"),
        ("wait", "duration", "2ms"),
        ("mode", "`a` or `b`", "a"),
        ("tint", "`red` or `blue`", "red"),
        ("maybe", "text", "none"),
    ],
)
def test_values_and_defaults_are_written_as_in_a_url(name: str, values: str, default: str) -> None:
    """Values and defaults are told as one would write them."""
    (option,) = (option for option in describe_options(Options) if option.name == name)

    assert (option.values, option.default) == (values, default)


def test_an_option_without_a_default_has_none() -> None:
    """Such an option must be given, and is told apart from an empty default."""

    class Strict(msgspec.Struct):
        key: str
        """The key."""

    assert describe_options(Strict) == [Option("key", "text", None, "The key.")]


def test_a_struct_without_source_is_described_without_texts() -> None:
    """One made at run time still has its names."""
    made = msgspec.defstruct("Made", [("depth", int, 1)])

    assert describe_options(made) == [Option("depth", "integer", "1", "")]
