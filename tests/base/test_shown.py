"""Text that is shown: no secret in it, and nothing that a terminal would obey."""

from __future__ import annotations

import contextlib
import re
import string
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.base.checks import shown
from hermes.base.shown import printable, printable_lines, redacted, redacted_prose
from hermes.errors import InvalidUrl
from hermes.spi.url import parse_url

SECRET = "s3cr3t-token"
FORMS = [
    "tcp://alice:{}@127.0.0.1:7601",
    "tcp:/alice:{}@127.0.0.1:7601",
    "tcp:alice:{}@127.0.0.1:7601",
    "tcp//alice:{}@127.0.0.1:7601",
    "tcp/alice:{}@127.0.0.1",
    "tcp::alice:{}@127.0.0.1",
    "alice:{}@127.0.0.1:7601",
    "://alice:{}@127.0.0.1",
    "//alice:{}@127.0.0.1",
    "tcp://:{}@127.0.0.1",
    "tcp://{}@127.0.0.1",
    "tcp:{}@127.0.0.1",
    " tcp://alice:{}@127.0.0.1",
    "tcp ://alice:{}@127.0.0.1",
    "TCP://alice:{}@127.0.0.1",
    "tcp://alice:{}@127.0.0.1:99999",
    "tcp://alice:{}@127.0.0.1/path",
    "tcp://alice:{}@127.0.0.1?a=1&a=2",
    "tcp://alice:{}@[::1",
    "tcp://alice:{}@",
    "uring+tcp:alice:{}@h",
    "mmap:alice:{}@h",
    "tcp://127.0.0.1?token={}",
    "tcp://127.0.0.1?password={}&x=1",
    "pg:host?sslpassword={}",
]


@pytest.mark.parametrize("secret", [SECRET, "with/slash", "with?mark", "with@sign", "1234567"])
@pytest.mark.parametrize("form", FORMS)
def test_no_secret_of_a_url_is_shown(form: str, secret: str) -> None:
    """However a URL is mistyped, neither an error, nor what it becomes as text, has its secret."""
    if "=" in form and secret != SECRET:
        pytest.skip("a value of an option is quoted")
    text = form.format(secret)
    said = (
        redacted(text) + shown(text) + shown(text.encode()) + redacted_prose(f"x {redacted(text)}")
    )

    with contextlib.suppress(InvalidUrl):
        try:
            url = parse_url(text)
            said += f"{url} {url!r}"
        except InvalidUrl as error:
            said += str(error)
            raise

    assert secret not in said


def test_what_is_no_secret_stays() -> None:
    """Users, hosts and paths are shown, and so are sentences without a URL."""
    assert redacted("tcp://alice:x@host:1/?a=b") == "tcp://alice:***@host:1/?a=b"
    assert redacted("mmap:/srv/a@b") == "mmap:/srv/a@b"
    assert redacted("mmap:///srv/a@b") == "mmap:///srv/a@b"
    assert redacted("zmq+ipc:@name") == "zmq+ipc:@name"
    assert redacted("zmq+ipc://@name") == "zmq+ipc://@name"
    assert redacted("tcp://127.0.0.1:7601") == "tcp://127.0.0.1:7601"
    assert str(parse_url("mmap:/srv/a@b?sync=1s")) == "mmap:/srv/a@b?sync=1s"
    assert redacted_prose("at 12:30 mail a@b, see x=1") == "at 12:30 mail a@b, see x=1"
    assert redacted_prose("to tcp://al:pw@h:1: no") == "to tcp://al:***@h:1: no"


@given(st.text(string.printable), st.text(string.ascii_letters, min_size=8))
def test_redacting_twice_changes_nothing(text: str, user: str) -> None:
    """Redacted text stays the same in another place that redacts."""
    once = redacted(f"tcp://{user}:{text}@host")

    assert redacted(once) == once
    assert redacted_prose(once) == once


@pytest.mark.parametrize("unit", ["9", "token", ":", "a:", "@", "a@", "=", "a=", "a:b@", "/", "?a"])
def test_long_text_takes_no_longer_a_character(unit: str) -> None:
    """Much text that a stranger made for it is looked at in one go: what grows with the square of the
    length would take hours."""
    text = unit * (300_000 // len(unit))
    for end in ("", "=", "@h", ":x@h"):
        assert redacted(text + end)
        assert redacted_prose(text + end)


# The same rules, in the form that looks at a character again and again.
OPTION = r"(?i)([\w.-]*(?:passw|passphrase|pwd|secret|token|credential|api_?key)[\w.-]*=)[^&\s'\"]+"
IN_PROSE = r"([^\s'\"@/:]*):(?!//)[^\s'\"@]+@(?=[\w\[])"


@given(st.lists(st.sampled_from(["a", "b-", "token", "=", "&", "@", ":", "/", " ", "'", "["])))
def test_prose_loses_what_the_rules_say(parts: list[str]) -> None:
    """Options with such names, and passwords before an ``@``; nothing else."""
    text = "".join(parts)
    hidden = re.sub(IN_PROSE, r"\1:***@", text)

    assert redacted_prose(text) == re.sub(OPTION, r"\1***", hidden)


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    """Any text, surrogates included, becomes one line of UTF-8 that has no control character and
    none that turns the direction; text of several lines keeps its lines and tabs."""
    line, lines = printable(text), printable_lines(text)

    for found in (line, lines.replace("\n", "").replace("\t", "")):
        assert not {unicodedata.category(c) for c in found} & {"Cc", "Cs", "Zl", "Zp"}
        assert not {unicodedata.bidirectional(c) for c in found} & {
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        }  # fmt: skip
        found.encode()
    assert lines.count("\n") == text.count("\n")


def test_escapes_are_those_of_python() -> None:
    """An escaped character is written as in a Python string."""
    assert printable("a\x1b[31m\n\t\x7f\x85\u202e\ud800ä") == (
        "a\\x1b[31m\\n\\t\\x7f\\x85\\u202e\\ud800ä"
    )
    assert printable("a\tb", tabs=True) == "a\tb"
