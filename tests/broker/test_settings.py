"""Every setting of a broker, with values of every kind: each is taken or refused by an error that names
it, before anything is opened.  The settings are found in the configuration's own structs.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

import hermes
from hermes import errors
from hermes.base.checks import FOR_EVER_NS
from hermes.broker.config import Config, Limits, Retention, StreamConfig
from hermes.spi.units import Duration
from tests.pool import POOL

TEXTS: dict[str, Any] = {
    "'64KiB'": "64KiB",
    "'10000000TiB'": "10000000TiB",
    "'1s'": "1s",
    "'-1s'": "-1s",
    "'nans'": "nans",
    "'0'": "0",
    "'0.5'": "0.5",
    "'inf'": "inf",
    "'9' * 400": "9" * 400,
    "'9' * 400 s": "9" * 400 + "s",
    "['inproc:']": ["inproc:"],
    "'memory'": "memory",
    "'spin'": "spin",
}
VALUES = {**POOL, **TEXTS}
NOTHING = {"None"}
COUNTS = {"1", "2**20", "int64"}
SIZES = {"0", "2**20", "2**40 + 1", "0-D", "'64KiB'", "'0'"}
SEGMENTS = {"1", "int64"} | SIZES
KEPT = NOTHING | SIZES
TIMES = {"None", "0", "inf", "0-D", "'1ms'", "'1s'", "'0'", "'inf'", "'9' * 400 s"}
ALWAYS = {"'a'", "'1ms'", "numpy str", "'64KiB'", "'10000000TiB'", "'1s'", "'nans'", "'0'"} | {
    "'inf'",
    "'memory'",
    "'spin'",
}

TAKEN: dict[tuple[str, ...], set[str]] = {
    ("listeners",): {"['a']", "['inproc:']"},  # no such transport is found when it is opened
    ("storage",): {"'a'", "'a..b'", "'x' * 129", "'x' * 5000", "numpy str", "'memory'", "'nans'"}
    | {"'inf'", "'spin'"},
    ("idle",): {"'spin'"},
    ("spin",): TIMES,
    ("retention",): KEPT,
    ("segment",): SEGMENTS,
    ("plugins",): {"{}"},
    ("metrics",): TIMES - {"0", "'0'", "0-D"},
    ("streams", "name"): ALWAYS,
    ("streams", "patterns"): {"['a']", "['inproc:']"},
    ("streams", "retention"): KEPT,
    ("streams", "segment"): SEGMENTS | NOTHING,
    ("streams", "topics"): COUNTS | NOTHING,
    ("streams", "create_topics"): {"True", "False", "numpy True", "numpy False"},
    ("streams", "declare"): {"[]", "['a']", "['inproc:']", "empty array"},
    ("limits", "connections"): COUNTS,
    ("limits", "message"): SEGMENTS,
    ("limits", "publishers"): {"1", "int64"},
    ("limits", "subscriptions"): {"1", "int64"},
    ("limits", "topics"): COUNTS,
    ("limits", "durables"): COUNTS,
    ("limits", "hello"): TIMES - {"0", "'0'", "0-D"},
    ("limits", "stop"): TIMES,
    ("streams",): {"[]", "empty array"},
    ("limits",): {"{}"},
}


def test_every_setting_has_an_entry() -> None:
    """One that is new has to say here what it takes."""
    tables = {(): Config, ("streams",): StreamConfig, ("limits",): Limits}
    found = {
        (*where, field.encode_name)
        for where, kind in tables.items()
        for field in msgspec.structs.fields(kind)
    }

    assert found == set(TAKEN)


def settings(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Keyword arguments of a broker of which one setting is ``value``."""
    given: dict[str, Any] = {"listeners": ["inproc:"], "storage": "memory"}
    match path:
        case ("streams", key):
            given["streams"] = [{"name": "trades", "patterns": ["md.>"], key: value}]
        case ("limits", key):
            given["limits"] = {key: value}
        case (key,):
            given[key] = value
    return given


@pytest.mark.parametrize("path", TAKEN, ids=".".join)
def test_a_setting_is_taken_or_refused_by_name(path: tuple[str, ...]) -> None:
    """Nothing is opened for it, and the error is one of ours."""
    wrong = []
    for label, value in VALUES.items():
        try:
            hermes.Broker(**settings(path, value))
        except errors.UsageError as error:
            if label in TAKEN[path]:
                wrong.append(f"{label}: {error}")
            elif path[-1] not in str(error):
                wrong.append(f"{label}: not named: {error}")
        else:
            if label not in TAKEN[path]:
                wrong.append(f"{label}: taken")

    assert not wrong, "\n".join(wrong)


def test_a_struct_of_settings_is_checked_too() -> None:
    """msgspec holds a struct to its types only when it is read."""
    for config, word in (
        (Config(idle="foo"), "idle"),  # type: ignore[arg-type]
        (Config(limits=Limits(publishers=0)), "publishers"),
        (Config(storage=5), "storage"),  # type: ignore[arg-type]
    ):
        with pytest.raises(errors.InvalidConfig, match=word):
            hermes.Broker(config)


def test_a_struct_of_settings_is_kept() -> None:
    """A right setting is the same behind the check, durations without a unit included."""
    config = Config(
        listeners=["inproc:"],
        storage="memory",
        spin=Duration(5),
        retention=Retention(1 << 20, 7),
        limits=Limits(stop=Duration(1500)),
        streams=[StreamConfig(name="trades", patterns=["md.>"])],
    )

    assert hermes.Broker(config).config == config


def test_for_ever_is_a_setting() -> None:
    """None, infinity and ``inf`` are for ever; NumPy's scalars are numbers."""
    for value in (None, math.inf, "inf", "1000000000d"):
        made = hermes.Broker(listeners=["inproc:"], storage="memory", limits={"stop": value})

        assert made.config.limits.stop == FOR_EVER_NS
    with (
        hermes.Broker(
            listeners=["inproc:"], storage="memory", spin="inf", limits={"publishers": np.int64(3)}
        ) as broker,
        hermes.connect(broker.url) as client,
    ):
        assert client.limits["publishers_max"] == 3
