"""A broker's configuration: the TOML file's schema, which is also what flags and keyword arguments
fill.

Knows no file format but TOML and opens nothing: what a URL in it means is checked when the broker
starts.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from hermes.base import checks
from hermes.errors import InvalidConfig, InvalidTopic, InvalidUrl, UsageError
from hermes.native.patterns import check_given_pattern, check_given_topic
from hermes.spi import units
from hermes.spi.units import ByteSize, Duration
from hermes.spi.url import parse_url

Idle = Literal["block", "adaptive", "spin"]

DEFAULT_LISTENER = "tcp://127.0.0.1:7601"
DEFAULT_STREAM = "default"
STREAMS_MAX = 64
"""Streams of a broker: a set of them is one 64-bit word."""

GIB = 2**30
MIB = 2**20
NS_PER_S = 1_000_000_000
RETENTION_MIN = 64 * 1024
"""Bytes of the smallest segment: a lower bound means nothing."""
COMPLAINT = re.compile(r"(?P<problem>.+) - at `\$\.?(?P<key>[^`]+)`\Z", re.DOTALL)
"""A message of msgspec's about the value of a key."""

Count = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
StreamName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Retention:
    """How much of a stream is kept: bytes, and at most how old.  Written ``10GiB`` or
    ``10GiB,7d``."""

    __slots__ = ("age_ns", "size")

    def __init__(self, size: int, age_ns: int = 0) -> None:
        self.size = ByteSize(size)
        """Bytes of frames; 0: no bound."""
        self.age_ns = Duration(age_ns)
        """Nanoseconds since the broker appended them; 0: no bound."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Retention) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"Retention({str(self)!r})"

    def __str__(self) -> str:
        return f"{self.size},{self.age_ns}" if self.age_ns else str(self.size)

    @classmethod
    def parse(cls, text: str | int | Retention) -> Retention:
        """Read ``BYTES[,AGE]``.

        Raises:
            ValueError: it is not of that form.
        """
        if isinstance(text, Retention):
            return text
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise ValueError(f"{checks.shown(text)} is not BYTES[,AGE], as in 10GiB or 10GiB,7d")
        size, _, age = str(text).partition(",")
        found = cls(units.byte_size(size.strip()), units.duration(age.strip()) if age else 0)
        if 0 < found.size < RETENTION_MIN:
            meant = f"; did you mean {size.strip()}GiB?" if size.strip().isdigit() else ""
            raise ValueError(
                f"{checks.shown(text)} keeps less than the smallest segment, "
                f"{ByteSize(RETENTION_MIN)}: retention removes whole segments{meant}"
            )
        return found


PLAIN = (bool, int, float, bytes, date, Retention)
"""Types of values that are held to a setting's own type as they are, beside texts, tables and lists."""
RETENTION = Retention(10 * GIB)
"""Retention of a stream for which neither the configuration nor the storage names one."""


class StreamConfig(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One ``[[streams]]`` table: a log of its own for the topics that its patterns cover."""

    name: StreamName
    """Names the stream to subscribers and its directory in the storage."""
    patterns: list[str] = []
    """Topics that go here; the stream ``default`` takes what no other claims."""
    retention: Retention | None = None
    """Replaces the broker's, size and age together."""
    segment: ByteSize | None = None
    """Overrides the broker's."""
    topics: Count | None = None
    """Most topics it may have; overrides ``limits.topics``."""
    create_topics: bool = True
    """False: only the topics in ``declare`` and those already in the log exist."""
    declare: list[str] = []
    """Topics that exist from the start."""


class Limits(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The ``[limits]`` table: what the broker grants its clients."""

    connections: Count = 10_000
    """Connections at a time, over all listeners."""
    message: ByteSize = ByteSize(16 * MIB)
    """Bytes of one payload; lowered where a segment holds less, and to 512 MiB."""
    publishers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1024
    """Open publishers of one connection."""
    subscriptions: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 4096
    """Subscriptions of one connection."""
    topics: Count = 4_000_000
    """Topics of one stream; each costs under 200 bytes."""
    durables: Count = 65_536
    """Names under which subscriptions may keep their positions; an identity may have as many as it
    leaves to others."""
    hello: Duration = Duration(10 * NS_PER_S)
    """How long a new connection may take to say who it is."""
    stop: Duration = Duration(5 * NS_PER_S)
    """How long a stopping broker waits for its clients to take their output."""


class Config(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A broker's whole configuration, with the defaults that hold where it says nothing."""

    listeners: list[str] = msgspec.field(default_factory=lambda: [DEFAULT_LISTENER])
    """URLs, or names of transports, in the order in which they are reported."""
    storage: str = "mmap:"
    """URL or name of the storage; ``mmap:`` alone means the platform's data directory."""
    idle: Idle = "adaptive"
    """Behaviour of the loop when there is nothing to do: block, spin briefly and block, or spin."""
    spin: Duration = Duration(50_000)
    """How long ``adaptive`` spins after work."""
    retention: Retention | None = None
    """For streams that do not say; None: 10GiB, or less in a storage that keeps less unless told."""
    segment: ByteSize = ByteSize(32 * MIB)
    """Size of a segment file, for streams that do not say."""
    streams: list[StreamConfig] = []
    """Streams beside ``default``, or ``default`` itself with settings of its own."""
    limits: Limits = msgspec.field(default_factory=Limits)
    plugins: dict[str, dict[str, Any]] = {}
    """Plugins to activate, each with its options, in the order in which they are asked."""
    metrics: Duration = Duration(10 * NS_PER_S)
    """How often plugins that want the broker's counters get them."""

    def __post_init__(self) -> None:
        _check_streams(self.streams)
        if not self.listeners:
            raise ValueError("listeners: a broker needs at least one listener")
        if self.metrics <= 0:
            raise ValueError("metrics is a time over 0")
        if self.limits.hello <= 0:
            raise ValueError("limits.hello is a time over 0: with 0 nobody could say who it is")

    def all_streams(self) -> list[StreamConfig]:
        """Every stream, ``default`` first."""
        named = {stream.name: stream for stream in self.streams}
        default = named.pop(DEFAULT_STREAM, None) or StreamConfig(name=DEFAULT_STREAM)
        return [default, *named.values()]


def load(path: str | Path) -> Config:
    """Read a TOML file.

    Raises:
        InvalidConfig: it cannot be read, is not TOML, or says something that cannot be.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        if not isinstance(error, tomllib.TOMLDecodeError | UnicodeDecodeError):
            raise InvalidConfig(f"{str(path)!r} is no file's name: {error}") from error
        raise InvalidConfig(f"{path} is not TOML: {error}") from error
    return from_values(values, source=str(path))


def from_values(values: dict[str, Any], *, source: str = "the configuration") -> Config:
    """A configuration from plain values, as a TOML file has them.

    Raises:
        InvalidConfig: a key is unknown (the closest is suggested) or a value is impossible.
    """
    values = _plain(values, source, "")
    _refuse_unknown_keys(values, Config, source, "")
    try:
        config = msgspec.convert(values, Config, dec_hook=_decode)
    except (ValueError, RecursionError) as error:  # msgspec's is a ValueError too
        raise InvalidConfig(f"{source}: {_blame(str(error))}") from error
    _check_urls(config, source)
    return config


def _plain(value: Any, source: str, where: str) -> Any:
    """``value`` with what is NumPy's in it as Python's own, and every text in UTF-8."""
    if isinstance(value, dict):
        place = f"{where}." if where else ""
        for key in value:
            if not isinstance(key, str):
                raise InvalidConfig(f"{source}: {where}: {checks.shown(key)} is no key: a str is")
        return {key: _plain(item, source, f"{place}{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, source, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, str):
        try:
            return checks.text(value, where)
        except UsageError as error:
            raise InvalidConfig(f"{source}: {error}") from error
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        found = value.tolist()
        return _plain(found, source, where) if isinstance(found, list) else found
    if isinstance(value, msgspec.Struct):
        return to_values(value)
    if value is not None and not isinstance(value, PLAIN) and not where.startswith("plugins."):
        raise InvalidConfig(f"{source}: {where} is not {checks.shown(value)}")
    return value


def _check_urls(config: Config, source: str) -> None:
    for key, texts in (("listeners", config.listeners), ("storage", [config.storage])):
        for text in texts:
            try:
                parse_url(checks.text(text, "a URL"))
            except InvalidUrl as error:
                raise InvalidUrl(f"{source}: {key}: {error}") from error
            except UsageError as error:
                raise InvalidConfig(f"{source}: {key}: {error}") from error


def _blame(text: str) -> str:
    """msgspec's complaint about a value, behind the key that it is the value of."""
    match = COMPLAINT.match(text)
    return text if match is None else f"{match['key']}: {match['problem']}"


def to_values(config: msgspec.Struct) -> dict[str, Any]:
    """The configuration as plain values, defaults included: what ``from_values`` reads."""

    def encode(value: Any) -> Any:
        return str(value) if isinstance(value, Retention) else units.encode(value)

    def spell(value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            return {
                field.name: spell(_typed(field.type, getattr(value, field.name)))
                for field in msgspec.structs.fields(value)
                if getattr(value, field.name) is not None
            }
        if isinstance(value, list):
            return [spell(item) for item in value]
        if isinstance(value, dict):
            return {key: spell(item) for key, item in value.items()}
        return encode(value) if isinstance(value, Retention | ByteSize | Duration) else value

    spelled: dict[str, Any] = spell(config)
    return spelled


def _typed(kind: Any, value: Any) -> Any:
    """A plain integer in a struct that a program has made, as the duration that it stands for."""
    return Duration(value) if kind is Duration and type(value) is int else value


def checked(config: Config) -> Config:
    """``config``, which a program has made, held to its types: msgspec does that to what it reads only.

    Raises:
        InvalidConfig: a field has a wrong type or an impossible value.
    """
    try:
        values = to_values(config)
    except (TypeError, ValueError) as error:
        raise InvalidConfig(f"config: {error}") from error
    return from_values(values, source="config")


def _decode(kind: type, value: Any) -> Any:
    return Retention.parse(value) if kind is Retention else units.decode(kind, value)


def _check_streams(streams: list[StreamConfig]) -> None:
    seen: set[str] = set()
    for stream in streams:
        if stream.name in seen:
            raise ValueError(f"the stream {stream.name!r} is there twice")
        if not stream.patterns and stream.name != DEFAULT_STREAM:
            raise ValueError(
                f"the stream {stream.name!r} has no patterns: nothing would ever go there"
            )
        try:
            for pattern in stream.patterns:
                check_given_pattern(pattern)
            for topic in stream.declare:
                check_given_topic(topic)
        except InvalidTopic as error:
            raise ValueError(f"the stream {stream.name!r}: {error}") from error
        if stream.patterns and stream.name == DEFAULT_STREAM:
            raise ValueError("the stream 'default' takes no patterns: it gets what no other claims")
        seen.add(stream.name)
    if len(seen | {DEFAULT_STREAM}) > STREAMS_MAX:
        raise ValueError(
            f"{len(seen | {DEFAULT_STREAM})} streams are over the limit of {STREAMS_MAX}"
        )


def _refuse_unknown_keys(values: Any, kind: Any, source: str, where: str) -> None:
    """Descend into the tables that are structs; a key that no field has is an error with a
    suggestion."""
    if isinstance(values, list):
        item = typing.get_args(kind)[0] if typing.get_origin(kind) is list else None
        for index, value in enumerate(values):
            _refuse_unknown_keys(value, item, source, f"{where}[{index}]")
    if (
        not isinstance(values, dict)
        or not isinstance(kind, type)
        or not issubclass(kind, msgspec.Struct)
    ):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in values.items():
        place = f"{where}.{key}" if where else key
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InvalidConfig(
                f"{source}: {place} is unknown: {hint}Known here: {', '.join(fields)}"
            )
        _refuse_unknown_keys(value, fields[key], source, place)
