"""Configuration: what a file may say, and how it is told when it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hermes.native._core import lib

from hermes.broker.config import (
    RETENTION,
    Config,
    Limits,
    Retention,
    from_values,
    load,
    to_values,
)
from hermes.broker.streams import FRAME_OVERHEAD, message_max
from hermes.errors import InvalidConfig
from hermes.spi.units import ByteSize

FULL = """
listeners = ["tcp://127.0.0.1:0", "inproc://a"]
storage = "mmap:./data?sync=always"
idle = "spin"
retention = "2GiB,7d"
segment = "64MiB"

[limits]
connections = 5
message = "1MiB"

[[streams]]
name = "md"
patterns = ["md.>", "ref.*"]
retention = "1GiB"
topics = 100

[[streams]]
name = "default"
create_topics = false
declare = ["a.b"]
"""


def test_file_says_everything(tmp_path: Path) -> None:
    """Each key of a file arrives, sizes and durations as numbers."""
    path = tmp_path / "hermes.toml"
    path.write_text(FULL)

    config = load(path)

    assert config.listeners == ["tcp://127.0.0.1:0", "inproc://a"]
    assert (config.idle, config.segment, config.limits.message) == ("spin", 64 << 20, 1 << 20)
    assert (config.retention.size, config.retention.age_ns) == (2 << 30, 7 * 86400 * 10**9)
    assert [stream.name for stream in config.all_streams()] == ["default", "md"]
    assert config.all_streams()[0].declare == ["a.b"]
    assert config.streams[0].retention == Retention(1 << 30)


def test_nothing_said_means_the_documented_defaults() -> None:
    """The defaults are the ones that the documentation states."""
    config = from_values({})

    assert config.listeners == ["tcp://127.0.0.1:7601"]
    assert config.storage == "mmap:"
    assert (config.idle, config.retention, str(config.segment)) == ("adaptive", None, "32MiB")
    assert str(RETENTION) == "10GiB"
    assert str(config.limits.message) == "16MiB"


def test_values_come_back() -> None:
    """A configuration written out and read again is the same."""
    config = from_values(
        {"streams": [{"name": "md", "patterns": ["md.>"], "retention": "1GiB,1d"}]}
    )

    assert from_values(to_values(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"listener": []}, r"listener is unknown: did you mean 'listeners'\?"),
        (
            {"limits": {"conections": 1}},
            r"limits.conections is unknown: did you mean 'connections'\?",
        ),
        ({"streams": [{"name": "a", "pattern": []}]}, r"streams\[0\].pattern is unknown"),
        ({"retention": "10 parsecs"}, "is not a size"),
        ({"retention": "1GiB,7"}, "is not a duration"),
        ({"idle": "sleep"}, "sleep"),
        ({"limits": {"connections": 0}}, "connections"),
        ({"limits": {"hello": 0}}, "limits.hello is a time over 0"),
        ({"streams": [{"name": "a"}]}, "no patterns"),
        ({"streams": [{"name": "a/b", "patterns": ["x"]}]}, "name"),
        (
            {"streams": [{"name": "a", "patterns": ["x"]}, {"name": "a", "patterns": ["y"]}]},
            "twice",
        ),
        ({"streams": [{"name": "default", "patterns": ["x"]}]}, "takes no patterns"),
        (
            {"streams": [{"name": f"s{i}", "patterns": [f"s{i}"]} for i in range(64)]},
            "over the limit of 64",
        ),
        ({"listeners": []}, "at least one listener"),
        ({"storage": 5}, "storage"),
    ],
)
def test_impossible_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    """Each impossible value is refused by name."""
    with pytest.raises(InvalidConfig, match=message):
        from_values(values)


def test_unreadable_and_broken_files_say_so(tmp_path: Path) -> None:
    """A file that is not there, and one that is not TOML, are named."""
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(InvalidConfig, match="is not TOML"):
        load(tmp_path / "bad.toml")


def test_keyword_arguments_are_checked_too() -> None:
    """A configuration made in a program obeys the same rules."""
    with pytest.raises(ValueError, match="at least one listener"):
        Config(listeners=[])


def test_no_configuration_outgrows_one_append() -> None:
    """However large segments and messages may be by configuration, the native core can append any
    message that is accepted."""
    config = Config(segment=ByteSize(4 << 30), limits=Limits(message=ByteSize(3 << 30)))

    assert message_max(config) + FRAME_OVERHEAD < lib.HM_APPEND_MAX
