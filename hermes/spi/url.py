"""URLs that name transports and storages: ``scheme://host:port/path?option=value`` and
``scheme:path``.

Knows no transport: what a scheme means and which options it has is the plugin's business.

Part of the SPI: :class:`Url`, its fields and :meth:`Url.options` stay as long as
:data:`hermes.spi.transport.API_VERSION` does.  No call waits, keeps what it is given, or has a state: any
thread may make it; what it raises is :exc:`~hermes.errors.InvalidUrl` and nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from hermes.base import checks
from hermes.base.shown import redacted
from hermes.errors import InvalidUrl
from hermes.spi import units

Options = TypeVar("Options", bound=msgspec.Struct)

PORT_MAX = 65535
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
AUTHORITY = re.compile(
    r"(?:(?P<username>[^@:]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<literal>[0-9a-fA-F:.]+(?:%[^\s\[\]/%]+|%25[^\s\[\]/%]+)?)\]|(?P<host>[^\[\]:@]*))"
    r"(?::(?P<port>\d{1,5}))?\Z"
)
COMPLAINT = re.compile(r"(?P<expected>.+) - at `\$\.(?P<option>\w+)`\Z", re.DOTALL)
"""A message of msgspec's."""
BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
"""Other spellings of a boolean option, beside true, false, 1 and 0."""


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """A parsed URL.  ``str()`` gives it back without credentials, so that it may be logged."""

    scheme: str
    """As written, e.g. ``tcp`` or ``uring+tcp``; what wraps stands left of the medium."""
    host: str = ""
    port: int | None = None
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        authority = host if self.port is None else f"{host}:{self.port}"
        query = "&".join(f"{quote(key)}={quote(value)}" for key, value in self.query.items())
        slashes = "//" if self.scheme_has_authority else ""
        path = quote(self.path, safe="/ ~+:@,=!$&'()*;[]")
        text = f"{self.scheme}:{slashes}{authority}{path}"
        if any("@" in part for part in self.query):  # a password with a ? in it
            return redacted(f"{text}?{unquote(query)}")
        if "@" in path:  # a user and a password behind a slash too few, or with a / in it
            text = redacted(text)
        return f"{text}{'?' + redacted(query) if query else ''}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    @property
    def scheme_has_authority(self) -> bool:
        """True unless the URL is of the form ``scheme:path``."""
        return bool(self.host) or self.port is not None

    def options(self, kind: type[Options]) -> Options:
        """The query as the plugin's own option struct.

        Raises:
            InvalidUrl: an option is unknown (the closest name is suggested) or has a value of the
            wrong type.
        """
        return parse_options(self.query, kind, owner=self.scheme, source=str(self))


def parse_options(
    values: Mapping[str, Any], kind: type[Options], *, owner: str, source: str
) -> Options:
    """A plugin's option struct from what a URL or a configuration says.

    ``owner`` is what has the options, ``source`` where ``values`` stand: both are for messages.

    Raises:
        InvalidUrl: an option is unknown (the closest name is suggested) or has a value of the
        wrong type.
    """
    known = {option.encode_name: option for option in msgspec.structs.fields(kind)}
    found = dict(values)
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            listed = ", ".join(sorted(known)) or "none"
            raise InvalidUrl(f"{owner} has no option {redacted(name)!r}{hint} (it has: {listed})")
        if known[name].type is bool and isinstance(value, str):
            found[name] = BOOLEANS.get(value.lower(), value)
    try:
        return msgspec.convert(found, kind, strict=False, dec_hook=units.decode)
    except msgspec.ValidationError as error:
        types = {name: field.type for name, field in known.items()}
        raise InvalidUrl(f"{source}: {_blame(str(error), types)}") from error


def _blame(text: str, types: Mapping[str, Any]) -> str:
    """Translate msgspec's error about a value: which option, and what it should be."""
    match = COMPLAINT.match(text)
    if match is None:
        return text
    expected, kind = match["expected"].replace("`", ""), types.get(match["option"])
    if get_origin(kind) is Literal:  # it says only that the value is none of them
        expected = f"expected {' or '.join(map(str, get_args(kind)))}"
    return f"option {match['option']!r}: {expected[0].lower()}{expected[1:]}"


ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(:[0-9]{1,5})?\Z")
"""A host, or a host and port, as people write them without a scheme."""


HINTED_MAX = 255
"""Characters of a text that a hint repeats."""


def _hint(text: str) -> str:
    """A likely intended URL for a text that is not one, to end its error with."""
    if "@" in text:  # a password would be shown
        return ""
    if re.fullmatch(r"[0-9]{1,5}", text):
        return f"; did you mean tcp://127.0.0.1:{text}?"
    if len(text) <= HINTED_MAX and ADDRESS.match(text):
        return f"; did you mean tcp://{text}?"
    if len(text) <= HINTED_MAX and text.startswith(("/", "./", "../", "~")):
        return f"; did you mean mmap:{text}?"
    return ""


def refuse_missing_scheme(url: Url) -> None:
    """For a scheme that nothing goes by: ``localhost:7601`` has none.

    Raises:
        InvalidUrl: it looks like a host and port.
    """
    if not url.scheme_has_authority and re.fullmatch(r"[0-9]{1,5}", url.path):
        text = f"{url.scheme}:{url.path}"
        raise InvalidUrl(f"{text!r} is not a URL: it has no scheme{_hint(text)}")


def parse_url(text: str) -> Url:
    """Parse ``text``; a bare ``name`` means ``name:``, that is a transport or storage with its
    defaults.

    Raises:
        InvalidUrl: it is not a URL.
    """
    scheme, colon, rest = text.partition(":")
    shown = checks.shown(redacted(text))
    if not SCHEME.match(scheme) or any(ord(c) < 32 for c in text) or text != text.strip():
        raise InvalidUrl(
            f"{shown} is not a URL: expected scheme://host:port or scheme:path{_hint(text)}"
        )
    if not colon:
        return Url(scheme=scheme)
    rest, _, query_text = rest.partition("?")
    query: dict[str, str] = {}
    for key, value in parse_qsl(query_text, keep_blank_values=True):
        if key in query:
            raise InvalidUrl(f"option {key!r} is given twice in {redacted(text)!r}")
        query[key] = value
    if not rest.startswith("//"):
        return Url(scheme=scheme, path=unquote(rest), query=query)
    authority, slash, path = rest[2:].partition("/")
    return _with_authority(text, scheme, authority, slash + unquote(path), query)


def _with_authority(
    text: str, scheme: str, authority: str, path: str, query: dict[str, str]
) -> Url:
    match = AUTHORITY.match(authority)
    if match is None:
        raise InvalidUrl(
            f"{redacted(text)!r} is not a URL: what stands behind // is not host:port (an IPv6 "
            "address stands in brackets, as in [::1]:7601; in a password an @ is written %40, a / "
            "%2F)"
        )
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > PORT_MAX:
        raise InvalidUrl(f"{redacted(text)!r} is not a URL: port {port} is over {PORT_MAX}")
    if not authority and not path:
        raise InvalidUrl(f"{redacted(text)!r} is not a URL: nothing stands after {scheme}://")
    return Url(
        scheme=scheme,
        host=(match["literal"] or match["host"] or "").replace("%25", "%", 1),
        port=port,
        path=path,
        query=query,
        username=None if match["username"] is None else unquote(match["username"]),
        password=None if match["password"] is None else unquote(match["password"]),
    )


def refuse_user(url: Url) -> None:
    """For listeners whose clients say for themselves who they are: a user in the URL would look as
    if it kept others out.

    Raises:
        InvalidUrl: there is one.
    """
    if url.username is not None or url.password is not None:
        raise InvalidUrl(
            f"{url}: a listener has no user and password: clients give theirs in their own URLs, "
            "and a plugin of the broker knows them, as in --plugin 'tokens?file=users.toml'"
        )
