"""Text as it may be shown: without secrets, and without characters that a terminal would obey.

Every error, log line and table goes through here before it is written.  Knows no stream; imports
nothing of Hermes.
"""

from __future__ import annotations

import re

HIDDEN = "***"
"""In the place of a secret."""

# Compiled where they are used first: most commands show nothing that has to be looked at.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*:?/+|[A-Za-z][A-Za-z0-9+.-]*:(?=[^:]*:)|/*"
# Strangers' text goes through these: each looks at a character a bounded number of times, since it
# begins where a word or a part begins, and gives nothing back.
_OPTION = (
    r"(?i)(?<![\w.-])(?=[\w.-]*?(?:passw|passphrase|pwd|secret|token|credential|api_?key))"
    r"([\w.-]++=)[^&\s'\"]+"
)
_NOTHING = r"([A-Za-z][A-Za-z0-9+.-]*:)?/*"
_BEFORE_AT = r"(?<![^\s'\"@])([^\s'\"@]++)@(?=[\w\[])"
_COLON = r":(?!//)"
_SURROGATES = "[\ud800-\udfff]"

_BIDI = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *_BIDI, 0xFEFF]
_ESCAPES: dict[int, str] = {
    **{code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS},
    0x09: "\\t",
    0x0A: "\\n",
    0x0D: "\\r",
}
_IN_LINES = {code: escape for code, escape in _ESCAPES.items() if code not in (0x09, 0x0A)}
_BUT_TABS = {code: escape for code, escape in _ESCAPES.items() if code != 0x09}


def printable(text: str, *, tabs: bool = False) -> str:
    """``text`` on one line: control characters, those that change the direction of writing, and
    lone surrogates are escaped as in a Python string; with ``tabs`` a tab stays."""
    if text.isascii() and text.isprintable():
        return text
    return _pairs(text.translate(_BUT_TABS if tabs else _ESCAPES))


def printable_lines(text: str) -> str:
    """The same for text of several lines: line ends and tabs stay."""
    return _pairs(text.translate(_IN_LINES))


def redacted(text: str) -> str:
    """A URL, or what was meant as one, without what may be a password: what stands before its last
    ``@`` is hidden but for a user's name, and so are options such as ``?token=``."""
    head, at, tail = text.rpartition("@")
    if at and not re.fullmatch(_NOTHING, head):
        scheme = match.group() if (match := re.match(_SCHEME, head)) else ""
        user, colon, _ = head[len(scheme) :].partition(":")
        if colon:
            head = f"{scheme}{user}:{HIDDEN}"
        elif "/" not in user or (scheme.endswith("//") and not scheme.endswith("///")):
            head = f"{scheme}{HIDDEN}"  # otherwise a path, which may have an @, too
        text = head + at + tail
    return re.sub(_OPTION, rf"\1{HIDDEN}", text)


def redacted_prose(text: str) -> str:
    """A sentence or a log line without passwords of URLs in it."""
    if "@" in text:
        text = re.sub(_BEFORE_AT, _without_password, text)
    return re.sub(_OPTION, rf"\1{HIDDEN}", text) if "=" in text else text


def _without_password(part: re.Match[str]) -> str:
    user, *password = re.split(_COLON, part[1], maxsplit=1)
    return f"{user}:{HIDDEN}@" if any(password) else part[0]


def _pairs(text: str) -> str:
    return re.sub(_SURROGATES, lambda found: f"\\u{ord(found.group()):04x}", text)
