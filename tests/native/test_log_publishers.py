"""Which publishers a log forgets when there are more than it remembers."""

from __future__ import annotations

from hermes.broker.owners import OWNED_MARK, stored_publisher_id
from hermes.native import Encoder, Log
from hermes.native.api import lib

REMEMBERED = 16384
SHARE = 256


def append(log: Log, publisher: bytes) -> None:
    """The first message of a publisher."""
    encoder = Encoder()
    encoder.encode(b"x", topic="t", sequence=1)
    log.append(encoder.view, 1, publisher=publisher, first_sequence=1, now_ns=1)


def own(owner: str | None, number: int) -> bytes:
    """The stored id of an identity's publisher."""
    return stored_publisher_id(owner, b"number %09d" % number)


def known(log: Log, owner: str | None, count: int) -> list[int]:
    """Numbers of the publishers that the log knows."""
    return [i for i in range(count) if log.publisher_sequence(own(owner, i))]


def test_an_identity_with_many_publishers_has_its_own_forgotten() -> None:
    """However many publishers one identity brings, those of others stay known, its own are forgotten
    from the longest silent on, and so are nobody's in particular."""
    with Log.memory(segment_bytes=8 << 20, retention_bytes=64 << 20) as log:
        for number in range(SHARE):
            append(log, own("alice", number))
        append(log, own(None, 0))
        for number in range(REMEMBERED + 500):
            append(log, own("mallory", number))

        assert known(log, "alice", SHARE) == list(range(SHARE))
        assert known(log, None, 1) == [0]
        left = REMEMBERED - SHARE - 1
        assert known(log, "mallory", REMEMBERED + 500) == list(
            range(REMEMBERED + 500 - left, REMEMBERED + 500)
        )


def test_without_identities_the_longest_silent_is_forgotten() -> None:
    """Publishers of nobody in particular are forgotten in the order of their last message."""
    with Log.memory(segment_bytes=8 << 20, retention_bytes=64 << 20) as log:
        for number in range(REMEMBERED):
            append(log, own(None, number))
        encoder = Encoder()
        encoder.encode(b"x", topic="t", sequence=2)
        log.append(encoder.view, 1, publisher=own(None, 0), first_sequence=2, now_ns=1)
        for number in range(REMEMBERED, REMEMBERED + 100):
            append(log, own(None, number))

        assert known(log, None, REMEMBERED + 100) == [0, *range(101, REMEMBERED + 100)]


def test_the_mark_is_the_logs() -> None:
    """Python marks the ids of identities with the bytes that C looks for."""
    assert (lib.HM_LOG_PUBLISHERS_MAX, OWNED_MARK) == (REMEMBERED, b"\xf5\x0e")
