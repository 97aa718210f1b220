"""A subscriber's end of a multicast group, in simulated time: exact calls, back-off, cuts, hostility."""

from __future__ import annotations

import itertools

import pytest

from hermes_udp.native import lib
from tests.transports.udp_group_sim import (
    CAST,
    DELAY_NS,
    HISTORY,
    MS,
    PAYLOAD,
    Caster,
    Group,
)

TOLERANCE_NS = lib.HU_REORDER_MIN
RTT_NS = 2 * DELAY_NS


def joined(*, receivers: int = 1, seed: int = 1, history: int = HISTORY) -> tuple[Caster, Group]:
    """A subscriber that has heard a beacon."""
    caster, group = Caster(receivers=receivers, history=history), Group(seed=seed)
    group.take(caster.beacon())
    assert group.state == lib.HU_GROUP_JOINED
    return caster, group


def test_it_begins_at_the_newest_border() -> None:
    """Data cast before the first beacon is not wanted; what stands behind its border is called
    for."""
    caster, group = Caster(), Group()
    before = caster.cast(3)
    border = caster.end
    caster.join = border
    after = caster.cast(2)

    group.take(before[2])
    assert group.state == lib.HU_GROUP_WAITING
    group.take(caster.beacon())
    assert group.calls_at(group.deadline()) == [((border, 2 * PAYLOAD),)]
    for one in after:
        group.take(one)

    assert group.read() == caster.stream[border:]


def test_a_gap_is_called_for_once_when_the_tolerance_has_passed() -> None:
    """One lost datagram: one call, a tolerance later, and none more once it has come."""
    caster, group = joined()
    one, two, three = caster.cast(3)

    group.take(one)
    group.take(three)
    assert group.deadline() == group.now_ns + TOLERANCE_NS
    assert group.calls_at(group.now_ns + TOLERANCE_NS - 1) == []
    assert group.calls_at(group.now_ns + 1) == [((PAYLOAD, PAYLOAD),)]
    group.take(caster.repeat(PAYLOAD))

    assert group.read() == caster.stream
    assert group.calls_at(group.now_ns + 1000 * MS) == []
    assert two != three


def test_all_gaps_are_called_for_in_one_datagram() -> None:
    """100 lost datagrams make one call with 100 ranges."""
    caster, group = joined(history=1 << 20)
    for number, one in enumerate(caster.cast(201)):
        if number % 2 == 0:
            group.take(one)

    (ranges,) = group.calls_at(group.deadline())

    assert ranges == tuple((PAYLOAD * i, PAYLOAD) for i in range(1, 200, 2))


def test_a_lost_repeat_is_called_for_again() -> None:
    """The pause is a round trip with its variation, and doubles."""
    caster, group = joined()
    group.take(caster.cast(2)[1])
    times = []

    for _ in range(4):
        at = group.deadline()
        assert group.calls_at(at) == [((0, PAYLOAD),)]
        times.append(at)

    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert pauses == [RTT_NS, 2 * RTT_NS, 4 * RTT_NS]


def test_a_beacon_tells_of_a_lost_tail() -> None:
    """Nothing but a beacon comes behind the last datagram: it opens the hole."""
    caster, group = joined()
    caster.cast(1)

    group.take(caster.beacon())
    assert group.calls_at(group.deadline()) == [((0, PAYLOAD),)]
    group.take(caster.repeat(0))

    assert group.read() == caster.stream


def test_a_repeat_for_somebody_else_spares_the_call() -> None:
    """A receiver that waits to call does not if the repeat comes first."""
    caster, group = joined(receivers=100)
    group.take(caster.cast(2)[1])

    assert group.calls_at(group.deadline()) == []  # the tolerance has passed: a time is drawn
    assert group.now_ns < group.deadline() <= group.now_ns + lib.HU_BACKOFF_RTTS * RTT_NS
    group.take(caster.repeat(0))

    assert group.calls_at(group.now_ns + 100 * MS) == []
    assert group.counts()["nacks_spared"] == 1
    assert group.counts()["nacks_sent"] == 0


def test_a_subscriber_alone_does_not_wait() -> None:
    """Where nobody else can have lost it, the call is not put off."""
    caster, group = joined(receivers=1)
    group.take(caster.cast(2)[1])

    assert group.calls_at(group.now_ns + TOLERANCE_NS) == [((0, PAYLOAD),)]


def test_the_back_off_is_exponential_and_cut_off() -> None:
    """With 1,000 receivers a few in a hundred wait less than half of the span, none longer than
    all of it."""
    waits = []
    for seed in range(500):
        caster, group = joined(receivers=1000, seed=seed)
        group.take(caster.cast(2)[1])
        group.calls_at(group.deadline())
        waits.append(group.deadline() - group.now_ns)

    span = lib.HU_BACKOFF_RTTS * RTT_NS
    assert max(waits) <= span
    short = sum(wait < span / 2 for wait in waits)
    assert 1 <= short <= 25  # e^(l/2) of e^l, l = ln(1000) + 1: 1.9 %, about 10 of 500


def test_what_is_not_repeated_any_more_cuts_it_off() -> None:
    """The receiver calls no more, delivers what stands in order, and goes on at the newest border."""
    caster, group = joined()
    first, _, third = caster.cast(3)
    group.take(first)
    group.take(third)
    caster.oldest = caster.join = caster.end

    group.take(caster.beacon())
    assert group.state == lib.HU_GROUP_CUT
    assert group.calls_at(group.now_ns + 10 * MS) == []
    assert group.read() == caster.stream[:PAYLOAD]
    assert group.skip()
    border = caster.end
    group.take(*caster.cast(1))

    assert group.read() == caster.stream[border:]
    assert group.counts()["cuts"] == 1
    assert group.counts()["skipped_bytes"] == PAYLOAD


def test_a_hole_as_large_as_a_share_of_the_history_cuts_it_off() -> None:
    """A receiver that lacks a quarter of the history does not have it repeated for all."""
    caster, group = joined()
    share = caster.history // lib.HU_CUT_SHARE
    lost = caster.cast(share // PAYLOAD + 1)
    caster.join = caster.end

    group.take(caster.cast(1)[0])
    assert group.state == lib.HU_GROUP_CUT
    assert group.calls_at(group.now_ns + 10 * MS) == []
    assert not group.skip()  # no border behind it is known
    group.take(caster.beacon())
    assert group.skip()
    assert group.calls_at(group.deadline()) == []
    group.take(caster.beacon())
    assert group.calls_at(group.deadline()) == [((PAYLOAD * len(lost), PAYLOAD),)]


def test_a_full_window_drops_and_calls_for_nothing() -> None:
    """While the owner reads nothing, what has no room is not called for."""
    caster, group = joined()
    count = caster.history // PAYLOAD
    for one in caster.cast(count + 10):
        group.take(one)
    caster.oldest = caster.join = caster.end - caster.history
    group.take(caster.beacon())

    assert group.calls_at(group.deadline()) == [((count * PAYLOAD, caster.history % PAYLOAD),)]
    assert group.read() == caster.stream[: count * PAYLOAD]


def test_silence_loses_it() -> None:
    """After the liveness without a beacon or data it is lost."""
    caster, group = joined()
    group.now_ns += 1000 * MS

    assert group.tick() == lib.HU_LOST
    assert group.reason() == lib.HU_SILENT
    assert group.take(caster.beacon()) == lib.HU_LOST


def test_another_cast_in_its_place_loses_it() -> None:
    """A stranger's datagrams are ignored while the cast lives, and end it when it is silent."""
    _, group = joined()
    other = Caster(cast=CAST + 1)

    assert group.take(other.beacon()) == 0
    group.now_ns += lib.HU_USURPED
    assert group.take(other.beacon()) == lib.HU_LOST
    assert group.reason() == lib.HU_UNKNOWN
    assert group.counts()["foreign"] == 2


@pytest.mark.parametrize("position", [2**62, 2**63, 2**64 - 1 - PAYLOAD, 1 << 17])
def test_data_far_off_is_harmless(position: int) -> None:
    """With data at any position, the stream goes on."""
    caster, group = joined()

    group.take(caster.data(position, bytes(PAYLOAD)))
    if group.state == lib.HU_GROUP_CUT:
        caster.join = caster.end = PAYLOAD
        caster.stream = bytes(PAYLOAD)
        group.take(caster.beacon())
        assert group.skip()
    begun = caster.end
    for one in caster.cast(5):
        group.take(one)

    assert group.read() == caster.stream[begun:]


def test_a_beacon_far_behind_is_another_stream() -> None:
    """A group that lies behind what was received by more than its history is not the same."""
    caster, group = joined()
    far = Caster()
    far.end = far.join = far.oldest = 1 << 30
    caster.join = caster.oldest = caster.end = 1 << 30
    group.take(caster.data(1 << 14, bytes(PAYLOAD)))  # nothing to cut it off
    group.take(far.beacon())
    assert group.state == lib.HU_GROUP_CUT
    assert group.skip()

    assert group.take(Caster().beacon()) == lib.HU_LOST
    assert group.reason() == lib.HU_UNKNOWN


def test_unsound_beacons_and_other_types_are_counted() -> None:
    """A datagram that is no beacon of ours changes nothing."""
    caster, group = joined()
    bad = caster.beacon()
    broken = (bad[0], bad[1][:-1])
    status = caster.header(lib.HU_STATUS)

    assert group.take(broken) == lib.HU_MALFORMED
    assert group.take((status, b"")) == lib.HU_MALFORMED
    assert group.counts()["impossible"] == 2
