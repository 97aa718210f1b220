"""Topics and patterns: which are legal, what matches, what overlaps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hermes
from hermes.errors import InvalidConfig, InvalidTopic
from hermes.native import check_pattern, check_topic, match, overlap
from hermes.native.patterns import check_given_pattern, check_given_topic, covers
from hermes.spi.hooks import Grant

LEGAL = ["a", "md.xnas.AAPL", "a*", "*a.>b", "a>.b", "ä.日本", "a b", "x" * 255, "\U0010ffff", "-"]
ILLEGAL = {
    "empty": b"",
    "an empty first token": b".a",
    "an empty last token": b"a.",
    "an empty token between": b"a..b",
    "nothing but a dot": b".",
    "256 bytes": b"x" * 256,
    "NUL": b"a\0b",
    "a lone continuation byte": b"a.\x80",
    "an overlong slash": b"\xc0\xaf",
    "an overlong form of three bytes": b"\xe0\x80\xaf",
    "an overlong form of four bytes": b"\xf0\x80\x80\xaf",
    "a surrogate": b"\xed\xa0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "a first byte that never occurs": b"\xff",
    "a character cut short": "a.é".encode()[:-1],
    "four bytes cut short": "\U0001f600".encode()[:3],
    "a bad third byte": b"\xe2\x82\x28",
}

tokens = st.sampled_from(["a", "b", "ab", "é", "*a", ">b"])
topics = st.lists(tokens, min_size=1, max_size=5).map(".".join)
patterns = st.builds(
    lambda front, rest: ".".join([*front, *rest]),
    st.lists(tokens | st.just("*"), max_size=4),
    st.sampled_from([["a"], ["*"], [">"]]),
)


@pytest.mark.parametrize("topic", LEGAL)
def test_a_legal_topic_is_a_legal_pattern_too(topic: str) -> None:
    """Tokens that merely contain a wildcard are literal."""
    check_topic(topic)
    check_pattern(topic)

    assert match(topic, topic)


@pytest.mark.parametrize("name", ILLEGAL.values(), ids=ILLEGAL.keys())
@pytest.mark.parametrize("check", [check_topic, check_pattern])
def test_what_no_name_may_be(check: Callable[[bytes], None], name: bytes) -> None:
    """Empty tokens, bytes that are not UTF-8, NUL and more than 255 bytes are refused."""
    with pytest.raises(InvalidTopic, match="legal"):
        check(name)


@pytest.mark.parametrize("name", ["*", ">", "a.*", "a.>", "*.a"])
def test_a_wildcard_is_no_topic(name: str) -> None:
    """A token that is a wildcard is legal in patterns alone."""
    check_pattern(name)

    with pytest.raises(InvalidTopic, match=re.escape(repr(name))):
        check_topic(name)


@pytest.mark.parametrize("pattern", [">.a", "a.>.b", ">.>"])
def test_the_rest_stands_last(pattern: str) -> None:
    """``>`` anywhere but at the end is refused."""
    with pytest.raises(InvalidTopic, match="only at the end"):
        check_pattern(pattern)


def test_a_text_without_utf8_form_is_refused() -> None:
    """A lone surrogate in a ``str`` is an illegal topic, not an encoding error."""
    with pytest.raises(InvalidTopic, match="UTF-8"):
        check_topic("a.\ud800")


@given(st.binary(max_size=300))
def test_any_bytes_are_judged_as_the_definition_says(name: bytes) -> None:
    """The core's verdict is that of Python's own UTF-8 decoder and a split at the dots."""
    try:
        parts = name.decode().split(".")
    except UnicodeDecodeError:
        parts = [""]
    legal = len(name) <= 255 and b"\0" not in name and not {"", "*", ">"} & set(parts)

    if legal:
        check_topic(name)
    else:
        with pytest.raises(InvalidTopic):
            check_topic(name)


def as_regex(pattern: str) -> re.Pattern[str]:
    """The pattern as the model understands it."""
    *front, last = pattern.split(".")
    parts = [r"[^.]+" if token == "*" else re.escape(token) for token in front]
    parts.append({"*": r"[^.]+", ">": r".+"}.get(last, re.escape(last)))
    return re.compile(r"\.".join(parts))


@given(patterns, topics)
def test_matching_agrees_with_a_regular_expression(pattern: str, topic: str) -> None:
    """A pattern wants exactly the topics that its translation to a regular expression matches."""
    assert match(pattern, topic) == bool(as_regex(pattern).fullmatch(topic))


@given(patterns, patterns, topics)
def test_two_patterns_that_want_one_topic_overlap(a: str, b: str, topic: str) -> None:
    """If both want some topic they overlap; the order does not matter."""
    both = match(a, topic) and match(b, topic)

    assert overlap(a, b) or not both
    assert overlap(a, b) == overlap(b, a)


@given(patterns, patterns)
def test_overlapping_patterns_want_a_topic_in_common(a: str, b: str) -> None:
    """If they overlap, filling each one's wildcards from the other gives a topic both want."""
    left, right = a.split("."), b.split(".")
    for one, other in ((left, right), (right, left)):
        if one[-1] == ">":
            one[-1:] = ["*"] * max(1, len(other) - len(one) + 1)
    common = [
        next((t for t in pair if t not in ("*", ">")), "z")
        for pair in zip(left, right, strict=False)
    ]

    if overlap(a, b):
        assert match(a, ".".join(common))
        assert match(b, ".".join(common))


def test_patterns_whose_common_topics_are_too_long_do_not_overlap() -> None:
    """An overlap needs a legal topic, which has 255 bytes at most."""
    a = "a" * 200 + ".*"
    b = "*." + "b" * 54

    assert overlap(a, b)
    assert not overlap(a, b + "b")
    assert not overlap("a" * 200 + ".>", "*.*." + "b" * 53)
    assert overlap("a" * 200 + ".>", "*.*." + "b" * 52)


def topics_about(*names: str) -> list[str]:
    """Topics that tell patterns of these tokens apart: every order of them, and of one unknown."""
    used = sorted({token for name in names for token in name.split(".")} - {"*", ">", ""})[:3]
    depth = max(name.count(".") for name in names) + 2
    return [
        ".".join(chosen)
        for length in range(1, min(depth, 5) + 1)
        for chosen in itertools.product([*used, "zz"], repeat=length)
    ]


small = st.builds(
    lambda front, rest: ".".join([*front, *rest]),
    st.lists(st.sampled_from(["a", "b", "*"]), max_size=3),
    st.sampled_from([["a"], ["*"], [">"]]),
)


@given(small, small)
def test_a_pattern_covers_what_matches_nothing_else(wide: str, narrow: str) -> None:
    """One covers another exactly if every topic of the other is one of its own."""
    everything = topics_about(wide, narrow)

    expected = all(match(wide, topic) for topic in everything if match(narrow, topic))
    assert covers(wide, narrow) == expected


@given(small, st.lists(st.sampled_from(["a", "b", "aa"]), max_size=3), st.sampled_from(["", "."]))
def test_a_pattern_covers_a_prefix_whose_topics_it_matches(
    wide: str, given_tokens: list[str], end: str
) -> None:
    """A prefix is covered exactly if every topic that begins with it matches; its last token may
    be the beginning of a longer one."""
    prefix = ".".join(given_tokens) + (end if given_tokens else "")
    everything = topics_about(wide, "a.b.aa.ab.zz" if not prefix else f"{prefix}a.b")
    beginning = [prefix + rest for rest in ["", "a", "b", "x", "x.y", ".x", "a.a.b", ".x.y.z.v"]]
    topics = [t for t in (*everything, *beginning) if t.startswith(prefix) and legal(t)]

    expected = all(match(wide, topic) for topic in topics)
    assert covers(wide, prefix, prefix=True) == expected


def legal(topic: str) -> bool:
    """Whether it has no empty token."""
    return bool(topic) and all(topic.split("."))


def test_a_prefix_need_not_be_text() -> None:
    """A prefix may end within a character; only what is surely covered is."""
    assert covers("a.>", b"a.\xc3", prefix=True)
    assert not covers("a.*", b"a.\xc3", prefix=True)


def test_illegal_patterns_cover_nothing() -> None:
    """Both patterns have to be legal."""
    for wide, narrow in (("a..b", "a"), ("a", "a..b")):
        with pytest.raises(InvalidTopic):
            covers(wide, narrow)


@pytest.mark.parametrize("name", ["md.A*", "*A.b", "a.b>", "a.>b", "a>.b", "a.**", "a.>>", "->"])
@pytest.mark.parametrize("check", [check_given_topic, check_given_pattern])
def test_a_wildcard_within_a_token_is_a_slip(check: Callable[[str], None], name: str) -> None:
    """A program or a person that gives one is told what wildcards stand for; the protocol takes it."""
    check_topic(name)

    with pytest.raises(InvalidTopic, match="whole tokens"):
        check(name)


@pytest.mark.parametrize(
    "name", ["md.#", "#", "+", "md/+", "md/+/bid", "md/#", "md.+.bid", "a/b.#"]
)
@pytest.mark.parametrize("check", [check_given_topic, check_given_pattern])
def test_wildcards_of_mqtt_are_slips(check: Callable[[str], None], name: str) -> None:
    """The error says what stands for them here."""
    check_topic(name)

    with pytest.raises(InvalidTopic, match="MQTT"):
        check(name)


@pytest.mark.parametrize("name", ["C#", "c++.x", "a/b", "a.#1", "+1", "md.xnas.AAPL", b"a.b"])
def test_other_names_may_be_given(name: str) -> None:
    """A '#' or '+' beside other characters is one of them."""
    check_given_topic(name)
    check_given_pattern(name)


def test_wildcards_may_be_given_as_whole_tokens_of_a_pattern() -> None:
    """Each stands where it may stand."""
    for pattern in ("*", ">", "a.*", "a.>", "*.a", "*.*.>"):
        check_given_pattern(pattern)


def test_slips_are_refused_wherever_a_pattern_is_given() -> None:
    """By the client, a configuration and a grant, at the earliest."""
    with (
        hermes.Broker(listeners=["inproc:"], storage="memory") as broker,
        hermes.connect(broker.url) as client,
        client.publisher() as publisher,
    ):
        for call in (
            lambda: client.subscribe("md.A*"),
            lambda: client.topics("md.A*"),
            lambda: client.publisher("md.A*"),
            lambda: publisher.send(b"", "md.A*"),
            lambda: publisher.send_many([b""], topic="md.A*"),
        ):
            with pytest.raises(InvalidTopic, match="whole tokens"):
                call()
        assert publisher.send(b"", "md.A") == 1
    for key in ("patterns", "declare"):
        with pytest.raises(InvalidConfig, match=r"trades.*whole tokens"):
            hermes.Broker(streams=[{"name": "trades", "patterns": ["a"], key: ["md.A*"]}])
    with pytest.raises(InvalidTopic, match="whole tokens"):
        Grant("alice", publish=("md.A*",))
