"""Faults on purpose: what a specification means, and that chance follows from the seed alone."""

from __future__ import annotations

import dataclasses
import random
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.errors import InvalidUrl
from hermes.net import interception
from hermes.net.interception import EXAMPLES, READERS, Interception, Interceptor

MS = 1_000_000
MANY = 20_000


def passed(spec: str, count: int = MANY, *, salt: int = 0, step_ns: int = 1000) -> list[int]:
    """Numbers of the datagrams that come out, in order, after ``count`` went in."""
    interceptor = Interceptor(Interception.parse(spec), seed_salt=salt)
    out: list[int] = []
    for number in range(count):
        interceptor.admit(number.to_bytes(4, "big"), None, number * step_ns)
        out += [int.from_bytes(data, "big") for data, _ in interceptor.take(number * step_ns)]
    return out + [int.from_bytes(data, "big") for data, _ in interceptor.take(1 << 62)]


def test_no_fault_passes_everything_at_once_and_in_order() -> None:
    """An empty specification is a perfect wire."""
    interceptor = Interceptor(Interception.parse(""), seed_salt=0)
    interceptor.admit(b"one", "a", 5)
    interceptor.admit(bytearray(b"two"), "b", 5)

    assert interceptor.deadline_ns() == 5
    assert interceptor.take(5) == [(b"one", "a"), (b"two", "b")]
    assert interceptor.deadline_ns() is None


def test_a_datagram_is_copied() -> None:
    """The sender may use its memory again as soon as the datagram is admitted."""
    interceptor = Interceptor(Interception.parse("delay=1ms"), seed_salt=0)
    memory = bytearray(b"first")
    interceptor.admit(memoryview(memory), None, 0)
    memory[:] = b"other"

    assert interceptor.take(MS) == [(b"first", None)]


@pytest.mark.parametrize("percent", [0.1, 1, 5, 25])
@pytest.mark.parametrize("burst", [1, 4, 20])
def test_the_share_of_losses_is_as_asked(percent: float, burst: int) -> None:
    """With runs of any length, the stated share is lost."""
    count = 400_000 if percent < 1 else 100_000
    spec = Interception.parse(f"loss={percent}%,burst={burst},seed=3")
    interceptor = Interceptor(spec, seed_salt=0)
    for _ in range(count):
        interceptor._is_lost()  # the decision alone: many are needed
    lost = sum(interceptor._is_lost() for _ in range(count))

    assert lost == pytest.approx(count * percent / 100, rel=0.35 if percent < 1 else 0.1)


@pytest.mark.parametrize("burst", [2, 8])
def test_losses_come_in_runs_of_the_stated_mean(burst: int) -> None:
    """With burst=N, N datagrams are lost in a row on average."""
    got = passed(f"loss=10%,burst={burst}", 60_000)
    runs = [after - before - 1 for before, after in pairwise(got)]
    runs = [run for run in runs if run]

    assert sum(runs) / len(runs) == pytest.approx(burst, rel=0.15)


def test_everything_lost() -> None:
    """At 100 % nothing passes."""
    assert passed("loss=100%") == []


def test_duplicates() -> None:
    """A duplicated datagram comes twice, and no other does."""
    got = passed("duplicate=10%")

    assert sorted(set(got)) == list(range(MANY))
    assert len(got) - MANY == pytest.approx(MANY * 0.1, rel=0.1)


def test_reordered_ones_are_overtaken_by_a_few() -> None:
    """The stated share comes late, by eight places at most, and nothing is lost."""
    got = passed("reorder=2%")
    furthest = accumulate(got, max)
    late = [number for number, ahead in zip(got, furthest, strict=True) if number < ahead]
    moved = [place - number for place, number in enumerate(got)]

    assert sorted(got) == list(range(MANY))
    assert len(late) == pytest.approx(MANY * 0.02, rel=0.2)
    assert interception.REORDER_SPAN <= max(moved) <= 2 * interception.REORDER_SPAN


def test_a_reordered_one_that_nobody_overtakes_still_comes() -> None:
    """The last datagram of all is not held for ever: there is a deadline, and it is told."""
    interceptor = Interceptor(Interception.parse("reorder=100%"), seed_salt=0)
    interceptor.admit(b"last", None, 7)

    assert interceptor.take(7) == []
    deadline = interceptor.deadline_ns()
    assert deadline == 7 + interception.REORDER_NS
    assert interceptor.take(deadline) == [(b"last", None)]


def test_delay_and_jitter() -> None:
    """Each datagram is under way for the delay and up to the jitter more, and no longer."""
    interceptor = Interceptor(Interception.parse("delay=2ms,jitter=1ms"), seed_salt=0)
    for number in range(1000):
        interceptor.admit(number.to_bytes(2, "big"), None, 0)

    assert interceptor.take(2 * MS - 1) == []
    first = interceptor.take(2 * MS + MS // 2)
    rest = interceptor.take(3 * MS)
    assert 400 < len(first) < 600
    assert len(first) + len(rest) == 1000
    numbers = [data for data, _ in first + rest]
    assert numbers != sorted(numbers), "jitter changes the order of those close together"


def test_truncated_ones_are_a_shorter_prefix() -> None:
    """A truncated datagram has lost its tail and nothing else."""
    interceptor = Interceptor(Interception.parse("truncate=100%"), seed_salt=0)
    data = bytes(range(200))
    for _ in range(300):
        interceptor.admit(data, None, 0)
    interceptor.admit(b"", None, 0)

    got = [datagram for datagram, _ in interceptor.take(0)]
    assert got[-1] == b""
    assert all(len(datagram) < 200 and data.startswith(datagram) for datagram in got)
    assert len({len(datagram) for datagram in got}) > 100


def test_corrupted_ones_differ_in_a_few_bits() -> None:
    """A corrupted datagram has its length, and one to three bits flipped."""
    interceptor = Interceptor(Interception.parse("corrupt=100%"), seed_salt=0)
    for _ in range(300):
        interceptor.admit(bytes(100), None, 0)

    got = [datagram for datagram, _ in interceptor.take(0)]
    flips = {int.from_bytes(datagram, "big").bit_count() for datagram in got}
    assert {len(datagram) for datagram in got} == {100}
    assert flips == {1, 2, 3}


def test_a_blackout_counts_from_the_first_datagram() -> None:
    """From START after the first datagram nothing passes for LENGTH; before and after, all does."""
    spec = Interception.parse("blackout=5ms+2s")
    interceptor = Interceptor(spec, seed_salt=0)
    base = 77_000 * MS
    times = [0, 5 * MS - 1, 5 * MS, 1000 * MS, 2005 * MS - 1, 2005 * MS]
    for number, when in enumerate(times):
        interceptor.admit(bytes([number]), None, base + when)

    assert [datagram[0] for datagram, _ in interceptor.take(1 << 62)] == [0, 1, 5]
    assert interceptor.counters()["intercept_blacked_out"] == 3


def test_the_same_seed_meets_the_same_faults() -> None:
    """Two interceptors with one seed and salt agree; another seed or salt does not."""
    spec = "loss=5%,burst=3,duplicate=3%,reorder=3%,jitter=1ms,truncate=1%,corrupt=1%,seed={}"

    assert passed(spec.format(7)) == passed(spec.format(7))
    assert passed(spec.format(7)) != passed(spec.format(8))
    assert passed(spec.format(7)) != passed(spec.format(7), salt=1)


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is bounded in number and bytes; what is over the bound is dropped and counted."""
    monkeypatch.setattr(interception, "QUEUE_MAX", 10)
    monkeypatch.setattr(interception, "QUEUE_BYTES_MAX", 50)
    interceptor = Interceptor(Interception.parse("delay=1s"), seed_salt=0)
    for _ in range(20):
        interceptor.admit(b"x", None, 0)
    assert interceptor.counters()["intercept_overflowed"] == 10
    assert len(interceptor.take(1 << 62)) == 10

    for _ in range(3):
        interceptor.admit(bytes(20), None, 0)
    assert len(interceptor.take(1 << 62)) == 2


@given(st.integers(0, 2**32), st.data())
def test_every_datagram_is_accounted_for(seed: int, data: st.DataObject) -> None:
    """With any faults and times, admitted plus duplicated is handed on, dropped or waiting."""
    shares = {name: data.draw(st.integers(0, 100)) for name in ("loss", "duplicate", "reorder")}
    times = data.draw(st.sampled_from(["", "delay=1ms", "jitter=3ms", "blackout=1ms+1ms"]))
    text = ",".join([f"{name}={share}%" for name, share in shares.items()] + [times])
    interceptor = Interceptor(Interception.parse(f"{text},seed={seed}"), seed_salt=0)
    chance = random.Random(seed)
    now, came = 0, 0
    for _ in range(200):
        now += chance.randrange(MS // 10)
        interceptor.admit(chance.randbytes(chance.randrange(20)), None, now)
        came += len(interceptor.take(now))
        deadline = interceptor.deadline_ns()
        assert deadline is None or deadline > now

    counters = interceptor.counters()
    dropped = sum(counters[f"intercept_{why}"] for why in ("lost", "blacked_out", "overflowed"))
    made = counters["intercept_admitted"] + counters["intercept_duplicated"]
    assert came == counters["intercept_handed_on"]
    assert made == came + dropped + counters["intercept_waiting"]


def test_every_fault_can_be_written_and_read_back() -> None:
    """str() of a specification means the same, and a default one is empty."""
    text = ",".join(f"{name}={example}" for name, example in EXAMPLES.items())
    spec = Interception.parse(text)

    assert Interception.parse(str(spec)) == spec
    assert str(Interception()) == ""
    names = [field.name for field in dataclasses.fields(Interception)]
    assert set(names) == set(READERS) == set(EXAMPLES)
    assert all(getattr(spec, f.name) != f.default for f in dataclasses.fields(Interception))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("los=1%", "did you mean 'loss'"),
        ("loss", "loss has no value: expected loss=1%"),
        ("loss=1", "percentage"),
        ("loss=101%", "0% to 100%"),
        ("loss=-1%", "percentage"),
        ("loss=1%,loss=2%", "twice"),
        ("delay=5", "250ms"),
        ("blackout=2s", "blackout=500ms\\+2s"),
        ("blackout=1s+x", "not a duration"),
        ("burst=0,loss=1%", "1 to 10000"),
        ("burst=2,loss=80%", "raise burst"),
        ("seed=-1", "0 or more"),
        ("seed=x", "as in seed=7"),
    ],
)
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    """A specification that makes no sense says why, and what one looks like."""
    with pytest.raises(InvalidUrl, match=told):
        Interception.parse(text)
