"""Topics and patterns: what is legal, what matches what.  Knows no stream or subscription."""

from __future__ import annotations

import re

from hermes.errors import InvalidTopic
from hermes.native._core import lib

TOPIC_MAX: int = lib.HM_TOPIC_MAX
"""Bytes of a topic or pattern."""


def check_topic(topic: str | bytes) -> None:
    """Raise unless ``topic`` is legal: non-empty tokens joined by dots, 255 bytes of UTF-8 at most.

    Raises:
        InvalidTopic: it is not; the message says what a legal one looks like.
    """
    name = encoded(topic, "topic")
    if lib.hm_topic_check(name, len(name)) != 0:
        raise InvalidTopic(
            f"{topic!r} is not a legal topic: it has 1 to {TOPIC_MAX} bytes of UTF-8, tokens "
            "separated by '.', none of them empty, '*' or '>'"
        )


def check_pattern(pattern: str | bytes) -> None:
    """Raise unless ``pattern`` is legal: like a topic, ``*`` being any token, a last ``>`` any rest.

    Raises:
        InvalidTopic: it is not; the message says what a legal one looks like.
    """
    name = encoded(pattern, "pattern")
    if lib.hm_pattern_check(name, len(name)) != 0:
        raise InvalidTopic(
            f"{pattern!r} is not a legal pattern: it has 1 to {TOPIC_MAX} bytes of UTF-8, tokens "
            "separated by '.', none of them empty; '*' stands for one token, '>' for the rest and "
            "only at the end"
        )


_MQTT = re.compile(r"(?:^|[./])[#+](?:[./]|$)")
"""A token of MQTT's that is a wildcard there, as in ``md.#`` or ``md/+/bid``."""


def check_given_topic(topic: str | bytes) -> None:
    """Raise unless ``topic``, as a program or a person gives it, is legal and not likely a slip: a
    wildcard within a token, or one of MQTT's.

    The protocol knows no slips: topics that come from elsewhere are held to :func:`check_topic`.

    Raises:
        InvalidTopic: it is not; the message says why.
    """
    check_topic(topic)
    _refuse_slip(topic, "topic")


def check_given_pattern(pattern: str | bytes) -> None:
    """Raise unless ``pattern``, as a program or a person gives it, is legal and not likely a slip: a
    wildcard within a token, or one of MQTT's.

    Raises:
        InvalidTopic: it is not; the message says why.
    """
    check_pattern(pattern)
    _refuse_slip(pattern, "pattern")


def _refuse_slip(name: str | bytes, what: str) -> None:
    text = name if isinstance(name, str) else str(name, "utf-8")
    for token in text.split("."):
        if len(token) > 1 and ("*" in token or ">" in token):
            raise InvalidTopic(
                f"{text!r} is not a {what} to use: {token!r} has a wildcard within a token, where it "
                "would stand for itself; '*' and '>' stand for whole tokens, as in 'md.*' and 'md.>'"
            )
    if _MQTT.search(text):
        raise InvalidTopic(
            f"{text!r} is not a {what} to use: '#' and '+' are MQTT's wildcards, and '/' its separator; "
            "here tokens are separated by '.', '*' stands for one token and a last '>' for the rest"
        )


def encoded(name: str | bytes, what: str) -> bytes:
    """UTF-8 of ``name``, which need not be legal yet; ``what`` it is, for the message."""
    try:
        return name.encode() if isinstance(name, str) else bytes(name)
    except UnicodeEncodeError as error:
        raise InvalidTopic(f"{name!r} is not a legal {what}: it has no UTF-8 form") from error


def match(pattern: str | bytes, topic: str | bytes) -> bool:
    """True if ``pattern`` wants ``topic``.

    Raises:
        InvalidTopic: one of them is not legal.
    """
    check_pattern(pattern)
    check_topic(topic)
    wanted, given = encoded(pattern, "pattern"), encoded(topic, "topic")
    return bool(lib.hm_pattern_match(wanted, len(wanted), given, len(given)))


def overlap(a: str | bytes, b: str | bytes) -> bool:
    """True if some topic is wanted by both patterns.

    Raises:
        InvalidTopic: one of them is not legal.
    """
    check_pattern(a)
    check_pattern(b)
    one, other = encoded(a, "pattern"), encoded(b, "pattern")
    return bool(lib.hm_pattern_overlap(one, len(one), other, len(other)))


def covers(wide: str | bytes, narrow: str | bytes, *, prefix: bool = False) -> bool:
    """True if the pattern ``wide`` wants every topic that the pattern ``narrow`` wants, or with
    ``prefix`` every topic that begins with the bytes of ``narrow``.

    Raises:
        InvalidTopic: one of the patterns is not legal.
    """
    check_pattern(wide)
    outer, inner = encoded(wide, "pattern"), encoded(narrow, "prefix" if prefix else "pattern")
    if prefix:
        return bool(lib.hm_pattern_covers_prefix(outer, len(outer), inner, len(inner)))
    check_pattern(narrow)
    return bool(lib.hm_pattern_covers(outer, len(outer), inner, len(inner)))
