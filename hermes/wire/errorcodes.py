"""Every code an Error frame can carry: what it means, whether the connection survives, what to do.

``docs/wire-protocol.md`` has a row for each; a test compares.  Knows no state: who sends which code
when is the business of :mod:`hermes.wire.server` and :mod:`hermes.wire.client`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hermes import errors
from hermes.native import envelopes
from hermes.wire.messages import Error


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row of the table."""

    meaning: str
    cure: str
    """Advice to the side that receives the error."""
    fatal: bool = True
    """Whether the connection ends; if not, only the publisher, subscription or query named is
    concerned."""
    ends_subscription: bool = False
    """Whether a subscription that is named is at its end, or never began: its id is free again."""
    raises: type[errors.HermesError] = errors.MalformedInput
    """Exception that a client raises to its user for it."""
    retry: bool = False
    """Whether the condition passes by itself: a client connects again for as long as it may."""
    final: bool = False
    """Whether no new connection can change it: a client gives up at once.  After a fatal error that
    is neither, it connects again a few times."""


_BUG = "a bug of the sender: report it with the message"

ERROR_CODES: dict[str, ErrorCode] = {
    # The first bytes.
    "not_hermes": ErrorCode(
        "the first bytes are not HRMS: something else than a Hermes client or broker",
        "check host and port",
        final=True,
    ),
    "unsupported_version": ErrorCode(
        "a frame version this side cannot read, or no protocol version in common",
        "upgrade the older side; the message names the versions",
        raises=errors.VersionRefused,
        final=True,
    ),
    "hello_expected": ErrorCode("the first frame is not Hello (or Welcome)", _BUG),
    # Bytes that are not a sound frame.
    "bad_magic": ErrorCode("a frame does not begin with HRMS: the two sides lost step", _BUG),
    "bad_type": ErrorCode("an unknown frame type, or one that may not stand here", _BUG),
    "bad_flags": ErrorCode("a reserved flag is set", _BUG),
    "bad_length": ErrorCode(
        "a length over its limit, or not consistent with the lengths around it",
        "send less: Welcome states the limits",
    ),
    "bad_padding": ErrorCode("a padding byte is not zero", _BUG),
    "bad_checksum": ErrorCode(
        "a checksum does not match: bytes changed on the way",
        "connect again; if it happens again, look at the network and the memory",
        retry=True,
    ),
    "bad_sequence": ErrorCode("a message's sequence is not its predecessor's plus one", _BUG),
    "bad_payload": ErrorCode(
        "a control frame's payload is not the MessagePack map its type asks for", _BUG
    ),
    # Sound frames that may not be sent now.
    "unexpected": ErrorCode("a frame that this side never gets, or not in this state", _BUG),
    "hello_repeated": ErrorCode("a second Hello (or Welcome)", _BUG),
    "after_close": ErrorCode("something was sent after Close", _BUG),
    "id_in_use": ErrorCode("an id was opened that is open already", _BUG),
    "unknown_publisher": ErrorCode("a publisher id that is not open", _BUG),
    "unknown_stream": ErrorCode("a stream index that no Stream frame announced", _BUG),
    "coverage": ErrorCode(
        "a batch does not begin where the one before it ended: messages are missing or repeated",
        _BUG,
    ),
    "too_many_publishers": ErrorCode(
        "more publishers than Welcome allows",
        "share publishers, or use more connections",
        raises=errors.Refused,
        final=True,
    ),
    "too_many_queries": ErrorCode(
        "more unanswered queries than allowed",
        "wait for answers",
        raises=errors.Refused,
        final=True,
    ),
    # The broker's decisions about a connection.
    "authentication_failed": ErrorCode(
        "the credentials were not believed",
        "check identity and credentials",
        raises=errors.AuthenticationFailed,
        final=True,
    ),
    "too_many_connections": ErrorCode(
        "the broker has as many connections as it may",
        "try later, or raise its limit",
        raises=errors.Refused,
        retry=True,
    ),
    "too_slow": ErrorCode(
        "Hello, or the rest of the closing handshake, did not come in time",
        "connect again",
        raises=errors.ConnectionLost,
        retry=True,
    ),
    "stopping": ErrorCode(
        "the broker is being stopped",
        "connect again later",
        raises=errors.ConnectionLost,
        retry=True,
    ),
    "durable_unavailable": ErrorCode(
        "this storage cannot promise durable acknowledgements",
        "ask for appended, or give the broker a storage that can",
        raises=errors.Refused,
        final=True,
    ),
    "internal": ErrorCode(
        "the broker failed at something that is not the peer's fault",
        "see the broker's log; report it",
        raises=errors.Refused,
        retry=True,
    ),
    # A publisher is refused: its messages from `sequence` on are not taken until it is opened
    # again.
    "topic_refused": ErrorCode(
        "not a legal topic, or the stream takes none it does not know",
        "correct or declare the topic, or switch the creation of topics on",
        fatal=False,
        raises=errors.Refused,
    ),
    "too_many_topics": ErrorCode(
        "the stream has as many topics as it may",
        "use fewer topics, or raise the stream's bound",
        fatal=False,
        raises=errors.Refused,
    ),
    "storage_full": ErrorCode(
        "the disk, or the log's own bound, is full",
        "make room, then open the publisher again",
        fatal=False,
        raises=errors.StorageFull,
    ),
    "storage_failed": ErrorCode(
        "an I/O error: the stream refuses appends until it is opened again",
        "look at the broker's disk, restart the broker",
        fatal=False,
        raises=errors.StorageFailed,
    ),
    "publisher_taken": ErrorCode(
        "this publisher id was opened again, by another connection or under another id: messages "
        "come from the one that opened it last",
        "let one program use it at a time, or use another publisher id",
        fatal=False,
        raises=errors.Refused,
    ),
    "publish_refused": ErrorCode(
        "the stream cannot take the message, for a reason without a code of its own",
        "see the message, then open the publisher again",
        fatal=False,
        raises=errors.Refused,
    ),
    # One request is refused.
    "not_allowed": ErrorCode(
        "this identity may not do this",
        "ask for less",
        fatal=False,
        ends_subscription=True,
        raises=errors.Refused,
    ),
    "invalid_filter": ErrorCode(
        "not a legal pattern or prefix",
        "correct it",
        fatal=False,
        ends_subscription=True,
        raises=errors.InvalidTopic,
    ),
    "invalid_start": ErrorCode(
        "the start does not fit the subscription: a bare sequence with more than one stream, "
        "durable without a name, a position in an unknown stream",
        "give positions by stream, or another start",
        fatal=False,
        ends_subscription=True,
        raises=errors.Refused,
    ),
    "position_ahead": ErrorCode(
        "the stream ends before the position asked for: its log was replaced since",
        "start at earliest or latest",
        fatal=False,
        ends_subscription=True,
        raises=errors.Refused,
    ),
    "too_many_subscriptions": ErrorCode(
        "more subscriptions than Welcome allows, or more filters than a stream can hold",
        "unsubscribe first, or use more connections",
        fatal=False,
        ends_subscription=True,
        raises=errors.Refused,
    ),
    "unknown_subscription": ErrorCode(
        "a subscription id that is not open",
        "subscribe first",
        fatal=False,
        ends_subscription=True,
        raises=errors.Refused,
    ),
    "durable_in_use": ErrorCode(
        "another subscription commits under this durable name: of two clients the newer one "
        "commits, within one client the first subscription",
        "let one program use it at a time, or use another name",
        fatal=False,
        ends_subscription=True,
        raises=errors.Refused,
    ),
    "durable_ambiguous": ErrorCode(
        "several identities have a durable name that is to be forgotten",
        "name the identity",
        fatal=False,
        raises=errors.Refused,
    ),
    "too_many_durables": ErrorCode(
        "the broker keeps the positions of as many durable names as it may",
        "forget names that nobody needs, or raise the broker's limit",
        fatal=False,
        ends_subscription=True,
        raises=errors.Refused,
    ),
    "commit_refused": ErrorCode(
        "positions cannot be stored: the subscription has no durable name, a stream is unknown, or "
        "a position lies ahead of its stream",
        "commit only positions that batches have covered",
        fatal=False,
        raises=errors.Refused,
    ),
    "unknown_query": ErrorCode(
        "the broker has no answer to this",
        "see docs/wire-protocol.md for what can be asked",
        fatal=False,
        raises=errors.Refused,
    ),
}

FINAL_CODES = frozenset(code for code, row in ERROR_CODES.items() if row.final)
"""The codes that no new connection can change."""

MALFORMED_CODES: dict[int, str] = {
    envelopes.EMAGIC: "bad_magic",
    envelopes.EVERSION: "unsupported_version",
    envelopes.ETYPE: "bad_type",
    envelopes.EFLAGS: "bad_flags",
    envelopes.ELENGTH: "bad_length",
    envelopes.EPADDING: "bad_padding",
    envelopes.ECRC: "bad_checksum",
    envelopes.ESEQUENCE: "bad_sequence",
    envelopes.EUNKNOWN: "unknown_publisher",
}
"""The core's error number (positive) to the code of what is wrong with the bytes; others are
``internal``."""

REFUSAL_CODES: dict[int, str] = {
    envelopes.ELIMIT: "too_many_topics",
    envelopes.ETOPIC: "topic_refused",
    envelopes.ENOSPACE: "storage_full",
    envelopes.EFILES: "storage_full",
    envelopes.EMAPS: "storage_full",
    envelopes.EFSIZE: "storage_full",
    envelopes.EIO: "storage_failed",
    envelopes.EDENIED: "not_allowed",
}
"""The core's error number (positive) to the code of a stream's refusal; others are
``publish_refused``."""


def exception_for(error: Error) -> errors.HermesError:
    """The exception that tells a client's user what the broker said; an unknown code is a
    :class:`Refused`."""
    row = ERROR_CODES.get(error.code)
    kind = errors.Refused if row is None else row.raises
    text = f"{error.message} [{error.code}]" if error.message else f"the broker said {error.code}"
    if kind is errors.Refused:
        return errors.Refused(text, code=error.code)
    if kind is errors.MalformedInput:
        return errors.MalformedInput(f"the broker found: {text}", code=error.code)
    return kind(text)
