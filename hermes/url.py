"""URLs that name transports and storages: ``scheme://host:port/path?option=value`` and ``scheme:path``.

Knows no transport: what a scheme means and which options it has is the plugin's business.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from hermes.errors import InvalidUrl

Options = TypeVar("Options", bound=msgspec.Struct)

PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
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
        query = "&".join(f"{key}={value}" for key, value in self.query.items())
        slashes = "//" if authority or self.scheme_has_authority else ""
        return f"{self.scheme}:{slashes}{authority}{self.path}{'?' + query if query else ''}"

    @property
    def scheme_has_authority(self) -> bool:
        """True unless the URL is of the form ``scheme:path``."""
        return bool(self.host) or self.port is not None

    def options(self, kind: type[Options]) -> Options:
        """The query as the plugin's own option struct.

        Raises:
            InvalidUrl: an option is unknown (the closest name is suggested) or has a value of the wrong type.
        """
        known = {f.name for f in msgspec.structs.fields(kind)}
        for name in self.query:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                listed = ", ".join(sorted(known)) or "none"
                raise InvalidUrl(f"{self.scheme} has no option {name!r}{hint} (it has: {listed})")
        try:
            return msgspec.convert(self.query, kind, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidUrl(f"{self}: {error}") from error


def parse_url(text: str, *, default_scheme: str | None = None) -> Url:
    """Parse ``text``; a bare ``name`` means ``name:`` (a transport or storage with its defaults).

    Raises:
        InvalidUrl: it is not a URL.
    """
    if not text or any(c.isspace() for c in text):
        raise InvalidUrl(f"{text!r} is not a URL: expected scheme://host:port or scheme:path")
    if ":" not in text:
        return Url(scheme=default_scheme or text)
    try:
        parts = urlsplit(text)
        port: int | None = parts.port
    except ValueError as error:
        raise InvalidUrl(f"{text!r} is not a URL: {error}") from error
    query: dict[str, Any] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key in query:
            raise InvalidUrl(f"option {key!r} is given twice in {text!r}")
        query[key] = value
    return Url(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=port,
        path=parts.path,
        query=query,
        username=parts.username,
        password=parts.password,
    )
