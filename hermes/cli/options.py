"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from hermes import units

DEFAULT_URL = "tcp://127.0.0.1:7601"
BARE_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")
TIMEOUT = "10s"
"""How long a client waits for an answer before it gives up."""

Function = TypeVar("Function", bound=Callable[..., Any])


class Bytes(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """``4096``, ``64KiB``, ``2GB``."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        try:
            return int(units.byte_size(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """``1.5``, ``500ms``, ``2m``; a bare number is seconds.  The value is ns."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return ns."""
        if isinstance(value, int):
            return value
        try:
            return int(units.duration(f"{value}s" if BARE_NUMBER.fullmatch(value) else value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class StartPoint(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """Where a subscription begins.  The value is a word, a sequence, or a time as an aware
    datetime."""

    name = "start"
    words = ("latest", "earliest", "last")

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int | datetime:
        """Return ``latest``, ``earliest``, ``last``, a sequence or a time."""
        if not isinstance(value, str) or value in self.words:
            start: str | int | datetime = value
            return start
        if re.fullmatch(r"[0-9]+", value):
            return int(value)
        try:
            return parse_time(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_time(text: str) -> datetime:
    """ISO 8601 (local time unless it has an offset) or ``@SECONDS`` since 1970.

    Raises:
        ValueError: it is neither.
    """
    try:
        if text.startswith("@"):
            return datetime.fromtimestamp(float(text[1:])).astimezone()
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"{text!r} is none of latest, earliest, last, a sequence (an integer), an ISO 8601 "
            "time such as 2026-01-31T09:30:00, or @SECONDS since 1970"
        ) from error


def json_option(function: Function) -> Function:
    """``--json``, as ``as_json``."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Machine-readable output: JSON, documented in docs/cli.md.",
    )(function)


def client_options(function: Function) -> Function:
    """``--url`` and ``--timeout``, as ``url`` and ``timeout_ns``."""
    function = click.option(
        "--timeout",
        "timeout_ns",
        type=Duration(),
        default=TIMEOUT,
        show_default=True,
        help="Give up after this long without an answer from the broker.",
    )(function)
    return click.option(
        "--url",
        envvar="HERMES_URL",
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="The broker to talk to.",
    )(function)
