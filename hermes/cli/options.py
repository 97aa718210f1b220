"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import click

from hermes.base import checks
from hermes.base.checks import INT64_MAX
from hermes.spi import units

DEFAULT_URL = "tcp://127.0.0.1:7601"
BARE_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+")
RATE_MIN, RATE_MAX = 1e-6, 1e9
"""Messages a second: one in eleven days, and more than a machine can send."""
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
    """``1.5``, ``500ms``, ``2m``, ``inf``; a bare number is seconds.  The value is ns.

    A time is over 0, unless ``zero`` has a meaning for the option.
    """

    name = "seconds"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return ns."""
        if isinstance(value, int):
            return value
        try:
            ns = int(units.duration(f"{value}s" if BARE_NUMBER.fullmatch(value) else value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if ns == 0 and not self._zero:
            self.fail(f"{value!r} is not a time over 0; inf is for ever", param, ctx)
        return ns


class Count(click.IntRange):
    """A number of things, of 63 bits at most."""

    def __init__(self, least: int = 1) -> None:
        super().__init__(min=least, max=INT64_MAX)


class Rate(click.FloatRange):
    """A rate a second: over 0; ``inf``, and what is faster than any machine, is no limit."""

    name = "rate"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return messages a second, RATE_MIN at least."""
        rate: float = super().convert(value, param, ctx)
        if not rate >= RATE_MIN:  # NaN compares with nothing
            self.fail(f"{value!r} is not a rate of {RATE_MIN:g} a second at least", param, ctx)
        return min(rate, RATE_MAX)


class Retained(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """``10GiB``, ``10GiB,7d``: what is kept of a stream.  The value is that text."""

    name = "retention"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, which says a retention."""
        from hermes.broker.config import Retention

        try:
            Retention.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Name(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A name that a broker keeps: ``least`` to 128 characters."""

    name = "name"

    def __init__(self, least: int = 1) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name."""
        from hermes.errors import UsageError
        from hermes.wire.messages import NAME_MAX

        try:
            return checks.text(value, "it", least=self._least, most=NAME_MAX)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class UrlText(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """A URL, or the name of a transport or storage."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, which is a URL."""
        from hermes.errors import UsageError
        from hermes.spi.url import parse_url, refuse_missing_scheme

        try:
            url = parse_url(checks.text(value, "it"))
            if url.path.isdigit() and not url.scheme_has_authority:
                from hermes.plugins.discovery import installed_names

                if url.scheme not in installed_names():
                    refuse_missing_scheme(url)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class StartPoint(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """Start of a subscription.  The value is a word, a sequence, or a time as an aware
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
            if len(value) > len(str(INT64_MAX)) or int(value) > INT64_MAX:
                self.fail(f"a sequence is {INT64_MAX} at most", param, ctx)
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
            f"{checks.shown(text)} is none of latest, earliest, last, a sequence (an integer), an ISO 8601 "
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


def exclude_plugins(ctx: click.Context, param: click.Parameter, names: tuple[str, ...]) -> None:
    """Put the names where this process and its children look."""
    if names and not ctx.resilient_parsing:
        from hermes.cli.command import closest
        from hermes.plugins.discovery import installed_names
        from hermes.plugins.selection import VARIABLE, excluding

        known = installed_names()
        for name in names:
            if name not in known:
                raise click.BadParameter(
                    f"no plugin is called {checks.shown(name)}.{closest(name, sorted(known))}"
                    f"  Installed: {', '.join(sorted(known))}",
                    ctx,
                    param,
                )
        os.environ[VARIABLE] = excluding(os.environ.get(VARIABLE), names)


def no_plugin_option(function: Function) -> Function:
    """``--no-plugin NAME``: takes effect while the command line is read."""
    return click.option(
        "--no-plugin",
        multiple=True,
        is_eager=True,
        expose_value=False,
        callback=exclude_plugins,
        metavar="NAME",
        help="Do as if this plugin, built-in or not, were not installed; may be repeated.",
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
        type=UrlText(),
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="The broker to talk to.",
    )(function)


def intercept_option(function: Function) -> Function:
    """``--intercept``, as ``intercept``."""
    return click.option(
        "--intercept",
        metavar="SPEC",
        help="Lose, repeat, reorder, delay or damage the datagrams we send, to try out what that "
        "does: loss=1%,burst=4,delay=2ms,seed=7 (docs/testing-plugins.md has all faults).  Only for "
        "transports over datagrams.",
    )(function)


def intercepted(url: str, spec: str | None) -> str:
    """``url`` with the option ``intercept``, if there is a ``spec``.

    Raises:
        BadParameter: the spec makes no sense, or the URL's transport has no datagrams.
    """
    if spec is None:
        return url
    from hermes.errors import InvalidUrl
    from hermes.net.interception import Interception
    from hermes.plugins.discovery import default_plugins
    from hermes.spi.url import parse_url

    parsed = parse_url(url)
    try:
        Interception.parse(spec)
    except InvalidUrl as error:
        raise click.BadParameter(str(error), param_hint="--intercept") from error
    if not default_plugins().transport(parsed.scheme).capabilities.datagrams:
        raise click.BadParameter(
            f"{parsed.scheme} carries no datagrams that could be intercepted: leave the option "
            "out, or use a transport whose capabilities have datagrams (`hermes plugins`)",
            param_hint="--intercept",
        )
    if "intercept" in parsed.query:
        raise click.BadParameter(f"{url} has an intercept already", param_hint="--intercept")
    colon = "" if ":" in url else ":"
    return f"{url}{colon}{'&' if parsed.query else '?'}intercept={quote(spec)}"
