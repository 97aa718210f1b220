"""The sending end of a multicast group in simulated time: exact numbers for all that it does."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.native.frames import HEADER_SIZE
from hermes.wire import messages as m
from hermes.wire.codec import ControlEncoder
from hermes_udp.native import lib
from tests.transports.udp_cast import (
    ALL,
    DATAGRAM,
    FRAMES_AT,
    HISTORY,
    MS,
    PAYLOAD,
    RATE,
    START_NS,
    US,
    Cast,
    Sent,
    batch,
)
from tests.transports.udp_wire import beacon_of, sealed
from tests.transports.udp_wire import opened as opened_datagram

TRAIN = 52
"""Datagrams of a train: what one call of the system takes."""


def beacon(sent: Sent) -> tuple[dict[str, object], list[tuple[int, int, bytes]]]:
    """Fields that a receiver reads in a beacon."""
    datagram = sealed(
        lib.HU_BEACON, sent.data, position=sent.position, received=sent.received, stream=1
    )
    found = beacon_of(*opened_datagram(datagram))
    assert not isinstance(found, int), "a beacon must be one"
    return found


def beacons(sent: list[Sent]) -> list[Sent]:
    return [one for one in sent if one.is_beacon]


def data(sent: list[Sent]) -> list[Sent]:
    return [one for one in sent if one.is_data]


def stream_of(sent: list[Sent]) -> bytes:
    """The bytes that a receiver who misses nothing puts together."""
    found = bytearray()
    for one in data(sent):
        assert one.position <= len(found)
        found[one.position : one.position + one.size] = one.data
    return bytes(found)


def control(message: m.Stream | m.Gap | m.Pong) -> bytes:
    return bytes(ControlEncoder().encode(message))


def full() -> Cast:
    """A caster that has sent 100 datagrams' worth, and rested."""
    cast = Cast()
    cast.cast(batch(1, 100 * PAYLOAD))
    cast.run(20 * MS)
    cast.sent.clear()
    return cast


# Taking and sending.


def test_a_batch_leaves_at_once() -> None:
    """A small batch is one datagram, in the flush that follows."""
    cast = Cast()

    taken = cast.feed(batch(1, 200))
    (sent,) = cast.flush()

    assert taken == 200
    assert (sent.target, sent.position, sent.received) == (ALL, 0, 0)
    assert sent.data == batch(1, 200)
    assert sent.flags == 0


def test_a_large_batch_leaves_in_trains() -> None:
    """Data leaves in datagrams of the largest size, in trains of what one call takes."""
    cast = Cast()
    size = TRAIN * PAYLOAD + 1000

    cast.feed(batch(1, size))
    sent = cast.run(10 * MS)

    assert stream_of(sent) == batch(1, size)
    assert [one.size for one in data(sent)] == [PAYLOAD] * TRAIN + [1000]
    assert cast.trains[:2] == [TRAIN, 1]


def test_a_control_frame_is_the_gateways_business() -> None:
    """Feeding stops at a frame that is no batch, and goes on behind it."""
    cast = Cast()
    stream = control(m.Stream(0, "default"))
    pong = control(m.Pong(7))
    whole = batch(1, 200) + stream + pong + batch(2, 200)

    taken = cast.feed(whole)
    at_stream = cast.control
    appended = cast.append(stream)
    again = cast.feed(whole[taken + len(stream) :])
    at_pong = cast.control
    last = cast.feed(whole[taken + len(stream) + len(pong) :])

    assert (taken, at_stream, appended) == (200, 21, 0)
    assert (again, at_pong) == (0, 26)
    assert (last, cast.control) == (200, 0)
    assert stream_of(cast.flush()) == batch(1, 200) + stream + batch(2, 200)


def test_a_batch_in_pieces() -> None:
    """A batch may come in any pieces, as long as its header is in one."""
    cast = Cast()
    whole = batch(1, 5000)

    for begin, end in ((0, FRAMES_AT), (FRAMES_AT, 60), (60, 4999), (4999, 5000)):
        assert cast.feed(whole[begin:end]) == end - begin

    assert stream_of(cast.flush()) == whole


def test_what_is_no_output_of_a_broker_is_refused() -> None:
    """Bytes that are no frame, a header in pieces and a batch too large are errors."""
    assert Cast().feed(b"\x02" * 100) < 0
    assert Cast().feed(batch(1, 200)[: HEADER_SIZE + 4]) < 0
    assert Cast().feed(batch(1, HISTORY // 2)) > 0
    assert Cast().feed(batch(1, HISTORY // 2 + 8)) < 0


def test_no_more_is_taken_than_may_be_ahead() -> None:
    """An eighth of the history may wait to be sent; the rest when that has left."""
    cast = Cast()
    whole = batch(1, 400_000)

    first = cast.feed(whole)
    none = cast.feed(whole[first:])
    cast.flush()
    more = cast.feed(whole[first:])

    assert first == HISTORY // 8
    assert none == 0
    assert more == sum(one.size for one in data(cast.sent))
    assert cast.counts()["full"] == 1


def test_a_control_frame_waits_for_room_too() -> None:
    """A control frame is taken whole or not at all."""
    cast = Cast()
    stream = control(m.Stream(0, "default"))
    cast.feed(batch(1, HISTORY // 8))

    refused = cast.append(stream)
    cast.flush()
    taken = cast.append(stream)

    assert refused < 0
    assert taken == 0


def test_the_rate_is_kept() -> None:
    """A burst and a train leave at once, then `rate` bytes a second, headers and beacons and all."""
    cast = Cast(rate=10_000_000)
    whole = batch(1, HISTORY // 8)
    cast.feed(whole)

    sent = cast.run(20_000 * MS)

    bytes_by = 0
    for one in sent:
        passed_ns = one.at_ns - START_NS
        assert bytes_by <= 10_000_000 * passed_ns / 1e9 + lib.HU_CAST_BURST + TRAIN * DATAGRAM
        bytes_by += one.size + lib.HU_HEADER
    last = data(sent)[-1].at_ns - START_NS
    assert stream_of(sent) == whole
    before_last = (len(whole) // PAYLOAD // TRAIN) * TRAIN * DATAGRAM
    assert last == pytest.approx((before_last - lib.HU_CAST_BURST) / 10_000_000 * 1e9, rel=0.01)


def test_the_rate_is_met() -> None:
    """Nothing is lost to rounding: a second at the rate carries the rate's bytes."""
    cast = Cast(rate=1_000_003)
    through = 0

    while cast.now_ns < START_NS + 1_000 * MS:
        through += 1
        cast.feed(batch(through, 8000))
        cast.run(min(777 * US, START_NS + 1_000 * MS - cast.now_ns))
    carried = sum(one.size + lib.HU_HEADER for one in cast.sent)

    assert carried == pytest.approx(1_000_003 + lib.HU_CAST_BURST, abs=TRAIN * DATAGRAM)


def test_the_rate_is_met_however_often_it_is_asked() -> None:
    """Fractions of a byte add up: two trains are a burst, the third leaves when it may."""
    cast = Cast(rate=1_500_000)
    cast.feed(batch(1, HISTORY // 8))
    assert len(data(cast.flush())) == 2 * TRAIN

    while not data(cast.flush()):
        cast.now_ns += 1 * US

    before = 2 * TRAIN * DATAGRAM + sum(b.size + lib.HU_HEADER for b in beacons(cast.sent))
    due_ns = (before - lib.HU_CAST_BURST) / 1_500_000 * 1e9
    assert cast.now_ns - START_NS == pytest.approx(due_ns, rel=0.01)


def carried(cast: Cast, for_ns: int, lag: int = 0) -> int:
    """Bytes a second that leave while there is always more; with ``lag``, someone lacks what is so
    far back."""
    begun, since, through = len(cast.sent), cast.now_ns, cast.now_ns
    while cast.now_ns < since + for_ns:
        if lag:
            cast.call((lib.hu_caster_sent(cast.native) - lag, PAYLOAD))
        while lib.hu_caster_room(cast.native) > 20_000:
            through += 1
            cast.feed(batch(through, 20_000))
        cast.run(100 * US)
    left = sum(one.size + lib.HU_HEADER for one in cast.sent[begun:])
    return left * 1_000 * MS // (cast.now_ns - since)


def test_who_falls_behind_slows_the_group() -> None:
    """Once in a while the pace halves, down to the least; it grows again when nobody is behind."""
    cast = Cast(rate=100_000_000, rate_min=20_000_000)
    assert carried(cast, 20 * MS) == pytest.approx(100_000_000, rel=0.05)

    first = carried(cast, lib.HU_CAST_SLOW, lag=HISTORY // lib.HU_CAST_LATE)
    carried(cast, lib.HU_CAST_SLOW, lag=HISTORY // lib.HU_CAST_LATE)
    least = carried(cast, 100 * MS, lag=HISTORY // lib.HU_CAST_LATE)
    slowed = cast.counts()["slowed"]
    growing = carried(cast, 10 * lib.HU_CAST_SLOW)
    carried(cast, 10 * lib.HU_CAST_SLOW)
    again = carried(cast, 20 * MS)

    assert first == pytest.approx(50_000_000, rel=0.15)
    assert least == pytest.approx(20_000_000, rel=0.05)
    assert slowed == 3
    assert growing == pytest.approx(sum(20e6 * 1.125**n for n in range(10)) / 10, rel=0.05)
    assert again == pytest.approx(100_000_000, rel=0.05)


@pytest.mark.parametrize(
    ("rate_min", "lag"), [(0, HISTORY // 2), (20_000_000, HISTORY // lib.HU_CAST_LATE - PAYLOAD)]
)
def test_who_is_near_or_may_not_slow_nobody(rate_min: int, lag: int) -> None:
    """Loss that is repaired in time costs the repeats only, and so does all if the owner says so."""
    cast = Cast(rate=100_000_000, rate_min=rate_min)
    carried(cast, 20 * MS)

    found = carried(cast, 50 * MS, lag=lag)

    assert found == pytest.approx(100_000_000, rel=0.05)
    assert cast.counts()["slowed"] == 0


def test_what_is_gone_slows_nobody() -> None:
    """A receiver that calls for what is not kept any more cannot be helped by going slower."""
    cast = Cast(rate=100_000_000, rate_min=20_000_000)
    carried(cast, 20 * MS)

    cast.call((0, PAYLOAD), (1 << 60, PAYLOAD))

    assert cast.counts()["slowed"] == 0


@pytest.mark.parametrize(("rtt_ns", "slowed"), [(0, 1), (10 * MS, 0)])
def test_who_is_far_away_is_not_late_for_it(rtt_ns: int, slowed: int) -> None:
    """A loss is noticed a round trip later: what left in two of them is not far back."""
    cast = Cast(rate=1_000_000_000, rate_min=1_000_000, history=1 << 28)
    carried(cast, 30 * MS)

    cast.call((lib.hu_caster_sent(cast.native) - 15_000_000, PAYLOAD), rtt_ns=rtt_ns)

    assert cast.counts()["slowed"] == slowed


# Repairs.


def test_a_call_is_answered_with_exactly_the_range() -> None:
    """A range that one receiver calls for goes to all, marked as sent before, at once."""
    cast = full()

    cast.call((10 * PAYLOAD, PAYLOAD), (20 * PAYLOAD, 3 * PAYLOAD), (50, 7))
    sent = cast.flush()

    assert cast.repeats() == [
        (50, 7),
        (10 * PAYLOAD, PAYLOAD),
        *((at * PAYLOAD, PAYLOAD) for at in (20, 21, 22)),
    ]
    assert {one.target for one in sent} == {ALL}
    for one in sent:
        assert one.data == cast.stream[one.position : one.position + one.size]


def test_a_thousand_calls_for_one_loss_cost_one_repeat() -> None:
    """A receiver that calls for what waits, or has just been repeated, has been answered."""
    cast = full()

    for caller in range(500):
        cast.call((10 * PAYLOAD, PAYLOAD), caller=caller)
    cast.flush()
    cast.now_ns += lib.HU_CAST_HOLD - 1
    for caller in range(500, 1000):
        cast.call((10 * PAYLOAD, PAYLOAD), caller=caller)
    cast.flush()

    assert cast.repeats() == [(10 * PAYLOAD, PAYLOAD)]
    counts = cast.counts()
    assert (counts["nacks"], counts["calls"], counts["calls_held"]) == (1000, 1000, 999)


@pytest.mark.parametrize(
    ("rtt_ns", "hold_ns"),
    [
        (0, lib.HU_CAST_HOLD),
        (lib.HU_CAST_HOLD // 2, lib.HU_CAST_HOLD),
        (3 * MS, 3 * MS),
        (10_000 * MS, lib.HU_CAST_HOLD_MAX),
    ],
)
def test_a_repeat_is_made_again_after_the_hold_off(rtt_ns: int, hold_ns: int) -> None:
    """Later than the caller's round trip, or the least hold-off, the repeat was lost too."""
    cast = full()
    cast.call((0, PAYLOAD))
    cast.flush()

    cast.now_ns += hold_ns - 1
    cast.call((0, PAYLOAD), rtt_ns=rtt_ns)
    early = data(cast.flush())
    cast.now_ns += 1
    cast.call((0, PAYLOAD), rtt_ns=rtt_ns)
    late = data(cast.flush())

    assert early == []
    assert [(one.position, one.size) for one in late] == [(0, PAYLOAD)]


def test_only_what_was_not_just_repeated_is_repeated() -> None:
    """The parts of a range that overlaps others are sent that are neither waiting nor held off."""
    cast = full()
    cast.call((2 * PAYLOAD, PAYLOAD), (5 * PAYLOAD, PAYLOAD))
    cast.flush()

    cast.call((PAYLOAD, 6 * PAYLOAD))
    cast.call((0, 8 * PAYLOAD))
    cast.flush()

    assert cast.repeats()[:2] == [(2 * PAYLOAD, PAYLOAD), (5 * PAYLOAD, PAYLOAD)]
    assert sorted(cast.repeats()[2:]) == [(at * PAYLOAD, PAYLOAD) for at in (0, 1, 3, 4, 6, 7)]


def test_what_was_never_sent_or_is_gone_is_not_repeated() -> None:
    """Calls are cut to what is kept and has been sent; nonsense calls for nothing."""
    cast = Cast()
    for through in range(1, 12):
        cast.cast(batch(through, 120_000))
    cast.run(5 * MS)
    cast.sent.clear()
    sent_to = cast.end
    cast.feed(batch(12, 1000))  # is not sent yet
    oldest = cast.oldest
    cast.takes = lambda sent: sent.is_repeat

    cast.call(
        (0, 100),
        (oldest - 10, 10),
        (2**64 - 10, 20),
        (sent_to, 1),
        (0, 0),
        (oldest - 10, 20),
        (sent_to - 200, 2**32 - 1),
    )
    cast.flush()

    assert oldest == sent_to + 1000 - HISTORY
    assert cast.repeats() == [(oldest, 10), (sent_to - 200, 200)]
    assert cast.counts()["calls_late"] == 5


def test_what_waits_and_is_overwritten_meanwhile_is_not_sent() -> None:
    """A repair whose bytes have left the ring is forgotten; what is left of it is sent."""
    cast = Cast()
    for through in range(1, 11):
        cast.cast(batch(through, 120_000))
    cast.run(5 * MS)
    cast.sent.clear()
    cast.takes = lambda sent: not sent.is_repeat
    oldest = cast.oldest
    cast.call((oldest, 1000), (oldest + 100_000, 40_000), (oldest + 500_000, 8))
    cast.feed(batch(11, 120_000))
    cast.takes = lambda sent: True

    cast.run(5 * MS)

    assert cast.oldest == oldest + 120_000
    assert cast.repeats()[0] == (oldest + 120_000, PAYLOAD)
    assert sum(size for _, size in cast.repeats()) == 20_000 + 8
    assert cast.counts()["calls_late"] == 1


def test_ranges_beyond_what_a_status_holds_are_not_looked_at() -> None:
    """One datagram calls for as many ranges as one of HU_STATUS_MAX bytes has."""
    cast = full()
    most = (lib.HU_STATUS_MAX - lib.HU_HEADER) // lib.HU_RANGE

    cast.call(*((2 * i, 1) for i in range(most + 50)))

    assert cast.counts()["calls"] == most


def test_calls_beyond_the_bound_are_spared() -> None:
    """As many ranges as there is room for wait; further ones are for the caller to repeat."""
    cast = full()
    most = lib.HU_CAST_REPAIRS

    for i in range(0, most + 100, 100):
        cast.call(*((4 * at, 1) for at in range(i, i + 100)))
    cast.run(3 * MS)

    counts = cast.counts()
    assert len(cast.repeats()) == most
    assert counts["calls_spared"] == counts["calls"] - most
    cast.now_ns += lib.HU_CAST_HOLD
    cast.call((100_000, 5))
    cast.flush()
    assert cast.repeats()[-1] == (100_000, 5)


def test_a_call_for_which_there_is_no_room_ends_the_look_at_its_status() -> None:
    """Ranges behind it are not looked at, also if they wait already: they are called for again."""
    cast = full()
    for i in range(0, lib.HU_CAST_REPAIRS, 64):
        cast.call(*((4 * at, 1) for at in range(i, i + 64)))

    cast.call((0, 1), (100_000, 1), (4, 1), (8, 1))

    counts = cast.counts()
    assert counts["calls"] == lib.HU_CAST_REPAIRS + 4
    assert (counts["calls_held"], counts["calls_spared"]) == (1, 3)


def test_one_status_is_so_much_work_at_most() -> None:
    """A receiver that calls for everything again and again, where much waits, is not looked at to the end."""
    cast = full()
    parts = lib.HU_CAST_REPAIRS // 2
    for i in range(0, parts, 64):
        cast.call(*((4 * at, 1) for at in range(i, i + 64)))
    cast.run(1 * MS)

    # The first has the 255 holes between them wait, the second meets 511 pieces.
    cast.call(*[(0, 4 * parts - 3)] * 100, rtt_ns=lib.HU_CAST_HOLD_MAX)

    assert parts + 2 * parts - 1 < lib.HU_CAST_STEPS
    counts = cast.counts()
    assert (counts["calls_held"], counts["calls_spared"]) == (1, 98)


def test_repairs_take_turns_with_what_is_new() -> None:
    """Called for without end, repeats get half of what leaves, and new bytes the other half."""
    cast = Cast(rate=10_000_000)
    cast.cast(batch(1, 400_000))
    cast.run(200 * MS)
    cast.sent.clear()
    through = 1

    for _ in range(200):
        cast.call((0, 400_000), caller=through)
        through += 1
        if lib.hu_caster_room(cast.native) >= 40_000:
            cast.feed(batch(through, 40_000))
        cast.run(1 * MS)

    again = sum(one.size for one in cast.sent if one.is_repeat)
    new = sum(one.size for one in data(cast.sent)) - again
    total = sum(one.size + lib.HU_HEADER for one in cast.sent)
    assert total <= 10_000_000 / 5 + lib.HU_CAST_BURST + TRAIN * DATAGRAM
    assert 0.9 < again / new < 1.1


def test_many_small_repairs_take_turns_too() -> None:
    """Turns are counted in bytes: one datagram repeated does not wait for a train each time."""
    cast = Cast(rate=50_000_000)
    cast.cast(batch(1, 100_000))
    cast.run(200 * MS)
    cast.sent.clear()
    cast.feed(batch(2, 130_000))

    cast.call(*((at * 2 * PAYLOAD, PAYLOAD) for at in range(40)))
    cast.run(20 * MS)

    order = [one.is_repeat for one in data(cast.sent)]
    assert order[:40] == [True] * 40


@pytest.mark.parametrize("unicast", [0, 1])
def test_callers_share_what_is_repeated(unicast: int) -> None:
    """However much one calls for, and in however many ranges, each has as many bytes in turn."""
    cast = Cast(unicast=unicast)
    for through in (1, 2):
        cast.cast(batch(through, 300_000))
    cast.run(10 * MS)
    cast.sent.clear()

    cast.call((0, 200_000), caller=1)
    for start in range(400_000, 500_000, 64 * PAYLOAD):  # as single datagrams, a hole between them
        cast.call(*((start + at * PAYLOAD, 600) for at in range(64)), caller=2)
    cast.call((200_000, 200_000), caller=3)
    cast.run(20 * MS)

    repeats = [one for one in data(cast.sent) if one.is_repeat]
    shares = [0, 0, 0]
    for one in repeats[: 6 * TRAIN]:
        shares[0 if one.position < 200_000 else 2 if one.position < 400_000 else 1] += one.size
    assert max(shares) - min(shares) <= TRAIN * PAYLOAD


def test_what_another_has_called_for_is_not_waited_for() -> None:
    """A receiver that lacks one datagram amid what a greedy one calls for has it in its own turn,
    once, and the greedy one has all the rest."""
    cast = Cast()
    for through in (1, 2):
        cast.cast(batch(through, 300_000))
    cast.run(10 * MS)
    cast.sent.clear()

    cast.call((0, 600_000), caller=1)
    cast.call((300_000, 1_000), caller=2)
    cast.run(20 * MS)

    places = [(one.position, one.size) for one in data(cast.sent)]
    assert (300_000, 1_000) in places[: TRAIN + 1]
    covered = sorted(places)
    assert covered[0][0] == 0
    assert all(a + size == b for (a, size), (b, _) in itertools.pairwise(covered))
    assert sum(covered[-1]) == 600_000


def test_whoever_has_most_gives_way() -> None:
    """Where one has filled the list, others find room on it, and only its ranges are spared."""
    cast = full()
    most = lib.HU_CAST_REPAIRS
    for i in range(0, most, 64):
        cast.call(*((4 * at, 1) for at in range(i, i + 64)), caller=1)

    cast.call(*((100_000 + 4 * at, 1) for at in range(10)), caller=2)
    cast.call(*((110_000 + 4 * at, 1) for at in range(10)), caller=3)
    cast.run(3 * MS)

    repeated = {position for position, _ in cast.repeats()}
    assert {100_000 + 4 * at for at in range(10)} <= repeated
    assert {110_000 + 4 * at for at in range(10)} <= repeated
    assert cast.counts()["calls_spared"] == 20
    assert len(repeated) == most


def test_more_callers_than_are_told_apart() -> None:
    """Callers beyond share a place: each has what it called for all the same."""
    cast = full()
    many = 3 * lib.HU_CAST_CALLERS

    for caller in range(many):
        cast.call((8 * caller, 4), caller=1000 + caller)
    cast.run(3 * MS)

    assert sorted(cast.repeats()) == [(8 * caller, 4) for caller in range(many)]


# Repairs to one receiver.


def test_repairs_to_who_called() -> None:
    """With `unicast`, each receiver gets what it called for itself."""
    cast = Cast(unicast=1)
    cast.cast(batch(1, 50 * PAYLOAD))
    cast.sent.clear()

    cast.call((0, PAYLOAD), (7 * PAYLOAD, PAYLOAD), caller=22)
    cast.call((0, PAYLOAD), caller=11)
    cast.call((0, PAYLOAD), caller=11)
    cast.run(1)

    found = [(one.target, one.position) for one in data(cast.sent)]
    assert sorted(found) == [(11, 0), (22, 0), (22, 7 * PAYLOAD)]
    assert cast.counts()["calls_held"] == 1


def test_who_calls_for_much_does_not_hold_up_the_others() -> None:
    """Each of several callers gets a train in turn."""
    cast = Cast(unicast=1)
    cast.cast(batch(1, 400_000))
    cast.run(5 * MS)
    cast.sent.clear()

    cast.call((0, 400_000), caller=1)
    cast.call((0, 10 * PAYLOAD), caller=2)
    cast.call((0, 10 * PAYLOAD), caller=3)
    cast.run(20 * MS)

    order = [one.target for one in data(cast.sent)]
    assert order[: TRAIN + 20] == [1] * TRAIN + [2] * 10 + [3] * 10
    assert order.count(1) * PAYLOAD >= 400_000


def test_repairs_to_one_keep_the_rate() -> None:
    """However much one calls for, it gets no more than `rate`."""
    cast = Cast(unicast=1, rate=1_000_000)
    cast.cast(batch(1, 500_000))
    cast.run(2_000 * MS)
    cast.sent.clear()
    begun = cast.now_ns

    while cast.now_ns < begun + 1_000 * MS:
        cast.call((0, 2**32 - 1), caller=9)
        cast.run(MS)

    total = sum(one.size + lib.HU_HEADER for one in cast.sent)
    assert total <= 1_000_000 + lib.HU_CAST_BURST + TRAIN * DATAGRAM


# Beacons.


def test_beacons_after_the_last_bytes() -> None:
    """1, 2, 4, ... ms after the last bytes, then every 100 ms."""
    cast = Cast()
    cast.cast(batch(1, 200))

    found = beacons(cast.run(500 * MS))

    times = [(one.at_ns - START_NS) // MS for one in found]
    assert times == [1, 2, 4, 8, 16, 32, 64, 164, 264, 364, 464]
    assert {one.target for one in found} == {ALL}


def test_beacons_while_bytes_flow() -> None:
    """Every 100 ms at least, when there is never a pause of a millisecond."""
    cast = Cast()
    through = 0

    while cast.now_ns < START_NS + 350 * MS:
        through += 1
        cast.feed(batch(through, 200))
        cast.run(500 * US)

    assert [(one.at_ns - START_NS) // MS for one in beacons(cast.sent)] == [100, 200, 300]


def test_a_beacon_says_where_the_stream_stands() -> None:
    """Its end, the newest and the oldest border, the history, who there is, and the streams."""
    cast = Cast(pattern=b"md.>")
    cast.receivers = 8
    cast.name(0, b"default")
    cast.name(3, b"other")
    cast.cast(batch(41, FRAMES_AT) + batch(60, 1000, after=41))

    (sent,) = cast.run(1 * MS)[-1:]

    fields, entries = beacon(sent)
    assert (sent.position, sent.received) == (cast.end, 0)
    assert fields == {
        "join": cast.end,
        "oldest": 0,
        "history": HISTORY,
        "receivers": 8,
        "datagram": DATAGRAM,
        "streams": 1,
        "pattern": b"md.>",
    }
    assert entries == [(60, 0, b"default")]


def test_a_stream_is_told_of_from_its_first_batch_on() -> None:
    """Before it, nobody can know where the group stands in it."""
    cast = Cast()
    cast.name(0, b"a")
    before = beacon(cast.run(1 * MS)[-1])[1]
    cast.name(1, b"b")
    cast.cast(batch(5, FRAMES_AT, stream=1))
    behind = beacon(cast.run(1 * MS)[-1])[1]

    assert before == []
    assert behind == [(5, 1, b"b")]


def test_a_beacon_counts_what_does_not_come_as_passed() -> None:
    """Behind a gap that the broker tells of, the stream stands where the gap ends."""
    cast = Cast()
    cast.name(0, b"default")
    cast.name(1, b"quiet")
    cast.cast(batch(5, 1000, after=0))
    lib.hu_caster_gap(cast.native, 0, 9)
    lib.hu_caster_gap(cast.native, 0, 7)
    lib.hu_caster_gap(cast.native, 1, 3)
    assert cast.append(control(m.Gap(1, 0, 6, 9, "retention"))) == 0

    (sent,) = cast.run(1 * MS)[-1:]

    fields, entries = beacon(sent)
    assert fields["join"] == cast.end
    assert entries == [(9, 0, b"default"), (3, 1, b"quiet")]


def test_more_streams_than_a_beacon_holds() -> None:
    """The first 64 are told of, and the others counted."""
    cast = Cast(datagram=8192)
    for index in range(70):
        cast.name(index, b"s%d" % index)
        cast.cast(batch(index + 1, FRAMES_AT, stream=index))
    cast.name(100, b"x" * 256)

    _, entries = beacon(cast.run(1 * MS)[-1])

    assert entries == [(i + 1, i, b"s%d" % i) for i in range(lib.HU_BEACON_STREAMS)]
    assert cast.counts()["nameless"] == 7


def test_a_beacon_speaks_of_what_was_sent() -> None:
    """While bytes wait to be sent, a beacon speaks of the border before them."""
    cast = Cast(rate=lib.HU_CAST_RATE_MIN)
    cast.name(0, b"default")
    cast.cast(batch(1, 1000))
    cast.cast(batch(2, 120_000))
    cast.feed(batch(3, 100_000))

    sent = cast.run(2_000 * MS)

    for one in beacons(sent):
        fields, entries = beacon(one)
        behind = 1000 + 120_000 if one.position < 221_000 else 221_000
        assert fields["join"] == behind
        assert entries == [(2 if behind < 221_000 else 3, 0, b"default")]
    assert [one.position for one in beacons(sent)][-1] == 221_000


def test_the_oldest_border_is_where_an_envelope_begins() -> None:
    """Once the history is full, who lost too much goes on at an envelope, near the oldest byte."""
    cast = Cast()
    rng = random.Random(5)
    borders = {0}
    for through in range(1, 600):
        cast.cast(batch(through, 8 * rng.randrange(14, 1000)))
        borders.add(cast.end)
        fields, _ = beacon(cast.run(1 * MS)[-1])
        oldest = fields["oldest"]
        assert isinstance(oldest, int)
        assert fields["join"] == cast.end
        assert oldest in borders
        assert cast.oldest <= oldest <= cast.oldest + (HISTORY // 128 + 8000 if cast.oldest else 0)

    assert cast.oldest > HISTORY


def test_a_history_that_one_batch_nearly_fills() -> None:
    """However large the batches, a beacon names borders that are kept."""
    cast = Cast()
    for through in range(1, 20):
        whole = batch(through, HISTORY // 2)
        while whole:
            whole = whole[cast.feed(whole) :]
            for one in beacons(cast.run(1 * MS)):
                fields, _ = beacon(one)  # decoding judges the borders
                assert fields["join"] <= one.position  # type: ignore[operator]


# A socket that is full.


def test_what_the_socket_did_not_take_is_sent_later() -> None:
    """New bytes, repairs and beacons that were not taken go out with a later flush, once."""
    cast = full()
    rng = random.Random(3)
    cast.takes = lambda sent: rng.random() < 0.8
    through = 1
    for _ in range(60):
        through += 1
        cast.feed(batch(through, 8000))
        cast.call((rng.randrange(60) * PAYLOAD, 2 * PAYLOAD))
        cast.flush()
        cast.now_ns += 300 * US
    cast.takes = lambda sent: True
    cast.run(20 * MS)

    new = [one for one in data(cast.sent) if not one.is_repeat]
    whole = b"".join(one.data for one in new)
    assert whole == bytes(cast.stream[100 * PAYLOAD :])
    for one in cast.sent:
        if one.is_repeat:
            assert one.data == cast.stream[one.position : one.position + one.size]
    counts = cast.counts()
    assert counts["repeats"] == len(cast.repeats())
    assert counts["repeat_bytes"] == sum(size for _, size in cast.repeats())
    assert counts["datagrams"] == len(new) + 100
    assert counts["bytes"] == len(cast.stream)


def test_what_was_not_taken_does_not_count_against_the_rate() -> None:
    """A socket that is full for a while holds up nothing behind it."""
    cast = Cast(rate=1_000_000)
    cast.feed(batch(1, HISTORY // 8))
    cast.takes = lambda sent: False

    for _ in range(50):
        cast.flush()
    cast.takes = lambda sent: True
    sent = cast.flush()

    assert len(data(sent)) == 2 * TRAIN


def test_a_repair_that_was_not_taken_is_not_forgotten() -> None:
    """A repair goes out when the socket takes it, though nobody calls again."""
    cast = full()
    cast.takes = lambda sent: sent.position < 3 * PAYLOAD
    cast.call((PAYLOAD, 5 * PAYLOAD))
    cast.flush()
    cast.takes = lambda sent: True
    cast.flush()

    assert cast.repeats() == [(at * PAYLOAD, PAYLOAD) for at in range(1, 6)]


def test_smaller_datagrams_from_now_on() -> None:
    """A path that takes none so large gets smaller ones."""
    cast = Cast(datagram=8192)
    cast.feed(batch(1, 10_000))

    lib.hu_caster_shrink(cast.native, 1232)
    sent = cast.flush()

    assert max(one.size for one in sent) == 1232 - lib.HU_HEADER
    assert stream_of(sent) == batch(1, 10_000)
    assert beacon(cast.run(MS)[-1])[0]["datagram"] == 1232


# Anything.

steps = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(14, 8000)),
        st.tuples(st.just("call"), st.integers(0, 1 << 18), st.integers(1, 1 << 17)),
        st.tuples(st.just("wait"), st.integers(0, 3 * MS)),
        st.tuples(st.just("full"), st.integers(0, 5)),
    ),
    max_size=120,
)


@settings(deadline=None)
@given(steps=steps, unicast=st.integers(0, 1))
def test_any_order_of_things(steps: list[tuple[object, ...]], unicast: int) -> None:
    """In any order of events, what is sent is the stream, beacons are sound, and the rate is kept."""
    cast = Cast(history=lib.HU_HISTORY_MIN, unicast=unicast, rate=RATE // 10, rate_min=RATE // 99)
    through, left = 0, b""
    for kind, *values in steps:
        first = values[0]
        assert isinstance(first, int)
        if kind == "feed" and not left:
            through += 1
            left = batch(through, min(8 * first, lib.HU_HISTORY_MIN // 2))
        elif kind == "call":
            cast.call((first, int(str(values[1]))), caller=1 + first % 3)
        elif kind == "full":
            budget = [first]

            def takes(sent: Sent, budget: list[int] = budget) -> bool:
                budget[0] -= 1
                return budget[0] >= 0

            cast.takes = takes
            cast.flush()
            cast.takes = lambda sent: True
        else:
            cast.run(first)
        left = left[cast.feed(left) :] if left else left

    cast.run(20 * MS)

    carried = 0
    for one in cast.sent:
        carried += one.size + lib.HU_HEADER
        passed = one.at_ns - START_NS
        assert carried <= RATE / 10 * passed / 1e9 + lib.HU_CAST_BURST + TRAIN * DATAGRAM + 1400
        if one.is_beacon:
            beacon(one)
        else:
            assert one.data == cast.stream[one.position : one.position + one.size]
            assert one.position >= one.received
    new = [one for one in data(cast.sent) if not one.is_repeat]
    assert b"".join(one.data for one in new) == bytes(cast.stream)
