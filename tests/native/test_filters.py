"""Filters against a matcher that looks at every filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hermes.native._core import ffi, lib
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.effort import effort

CAPACITY = 40

tokens = st.sampled_from(["a", "b", "ab", "*a"])
topics = st.lists(tokens, min_size=1, max_size=4).map(".".join)
wild = st.sampled_from(["a", "b", "ab", "*", "*a", "a>"])
patterns = st.tuples(st.lists(wild, max_size=4), st.booleans()).map(
    lambda parts: ".".join([*parts[0], *([">"] if parts[1] or not parts[0] else [])])
)
prefixes = st.text("ab.*", max_size=5)


class Filter(NamedTuple):
    kind: int
    text: str


def wants(wanted: Filter, topic: str) -> bool:
    """The rule, in the plainest words there are."""
    if wanted.kind == lib.HM_FILTER_PREFIX:
        return topic.startswith(wanted.text)
    pattern, name = wanted.text.split("."), topic.split(".")
    if pattern[-1] == ">":
        pattern.pop()
        if len(name) <= len(pattern):
            return False
        name = name[: len(pattern)]
    return len(pattern) == len(name) and all(
        p in ("*", n) for p, n in zip(pattern, name, strict=True)
    )


class Filters:
    """A table of topics and its filters."""

    def __init__(self) -> None:
        self.table = lib.hm_topics_new()
        self.handle = lib.hm_filters_new(self.table, CAPACITY)

    def add(self, wanted: Filter) -> int:
        text = wanted.text.encode()
        return int(lib.hm_filters_add(self.handle, wanted.kind, text, len(text)))

    def settle(self) -> None:
        assert lib.hm_filters_sweep(self.handle, 1 << 40) == 0

    def topic(self, name: str) -> int:
        text = name.encode()
        index = lib.hm_topics_find(self.table, text, len(text))
        if index < 0:
            index = lib.hm_topics_add(self.table, text, len(text))
            lib.hm_filters_topic(self.handle, index)
        return int(index)

    def interested(self, index: int) -> list[int]:
        count = ffi.new("uint32_t *")
        found = lib.hm_filters_interested(self.handle, index, count)
        return list(ffi.unpack(found, count[0])) if count[0] else []

    def close(self) -> None:
        lib.hm_filters_free(self.handle)
        lib.hm_topics_free(self.table)


@pytest.fixture
def filters() -> Iterator[Filters]:
    made = Filters()
    yield made
    made.close()


class FiltersMachine(RuleBasedStateMachine):
    """Topics and filters that come and go in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = Filters()
        self.topics: dict[str, int] = {}
        self.users: Counter[Filter] = Counter()
        self.numbers: dict[Filter, int] = {}

    @rule(name=topics)
    def topic(self, name: str) -> None:
        self.topics[name] = self.filters.topic(name)

    @rule(text=patterns)
    def pattern(self, text: str) -> None:
        self._add(Filter(lib.HM_FILTER_PATTERN, text))

    @rule(text=prefixes)
    def prefix(self, text: str) -> None:
        self._add(Filter(lib.HM_FILTER_PREFIX, text))

    def _add(self, wanted: Filter) -> None:
        number = self.filters.add(wanted)
        if len(self.numbers) == CAPACITY and wanted not in self.numbers:
            assert number == -lib.HM_ELIMIT
            return
        assert self.numbers.setdefault(wanted, number) == number
        self.users[wanted] += 1

    @precondition(lambda self: self.numbers)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.numbers)))
        self.users[gone] -= 1
        last = lib.hm_filters_remove(self.filters.handle, self.numbers[gone])
        assert last == (self.users[gone] == 0)
        if last:
            del self.numbers[gone]

    @rule(budget=st.integers(1, 40))
    def sweep(self, budget: int) -> None:
        lib.hm_filters_sweep(self.filters.handle, budget)

    @rule()
    def settle(self) -> None:
        self.filters.settle()

    @invariant()
    def every_topic_has_its_list(self) -> None:
        handle = self.filters.handle
        assert lib.hm_filters_count(handle) == len(self.numbers)
        assert len(set(self.numbers.values())) == len(self.numbers)
        done = {f for f, n in self.numbers.items() if lib.hm_filters_settled(handle, n)}
        for name, index in self.topics.items():
            selecting = [f for f in self.numbers if f.text not in (">", "") and wants(f, name)]
            found = self.filters.interested(index)
            assert len(set(found)) == len(found)
            assert {self.numbers[f] for f in done.intersection(selecting)} <= set(found)
            unwanted = {n for f, n in self.numbers.items() if f not in selecting}
            assert not unwanted.intersection(found)
            if not lib.hm_filters_sweep(handle, 0):
                assert found == sorted(self.numbers[f] for f in selecting)
        for wanted, number in self.numbers.items():
            matched = [name for name in self.topics if wants(wanted, name)]
            if wanted in done:
                assert lib.hm_filters_matched(handle, number) == len(matched)
            for name in self.topics:
                said = lib.hm_filters_wants(handle, number, name.encode(), len(name.encode()))
                assert said == wants(wanted, name)

    def teardown(self) -> None:
        self.filters.close()


TestFiltersMachine = FiltersMachine.TestCase
TestFiltersMachine.settings = settings(
    max_examples=effort(30, 80), stateful_step_count=40, deadline=None
)


@pytest.mark.parametrize("text", ["", "a..b", ".a", "a.", "a.>.b", "\0", "a" * 256])
def test_an_illegal_pattern_is_refused(filters: Filters, text: str) -> None:
    """Text that is no pattern is no filter, and leaves nothing behind."""
    assert filters.add(Filter(lib.HM_FILTER_PATTERN, text)) == -lib.HM_ETOPIC
    assert lib.hm_filters_count(filters.handle) == 0


def test_a_prefix_longer_than_any_topic_is_refused(filters: Filters) -> None:
    """A prefix of 255 bytes is the longest that can match; a kind that there is not is refused
    too."""
    assert filters.add(Filter(lib.HM_FILTER_PREFIX, "a" * 255)) >= 0
    assert filters.add(Filter(lib.HM_FILTER_PREFIX, "a" * 256)) == -lib.HM_ETOPIC
    assert filters.add(Filter(2, "a")) == -lib.HM_ETOPIC


def test_filters_are_bounded(filters: Filters) -> None:
    """A filter over the capacity is refused, one more user of a known one is not, and a removal
    makes room."""
    numbers = [filters.add(Filter(lib.HM_FILTER_PATTERN, f"t.{i}")) for i in range(CAPACITY)]

    assert filters.add(Filter(lib.HM_FILTER_PATTERN, "one.more")) == -lib.HM_ELIMIT
    assert filters.add(Filter(lib.HM_FILTER_PATTERN, "t.0")) == numbers[0]
    assert lib.hm_filters_remove(filters.handle, numbers[1]) == 1
    assert filters.add(Filter(lib.HM_FILTER_PATTERN, "one.more")) == numbers[1]


def test_filters_that_come_and_go_unswept_are_bounded(filters: Filters) -> None:
    """Numbers of filters that are gone are used again though nobody sweeps."""
    filters.topic("a.b")

    for i in range(10 * CAPACITY):
        number = filters.add(Filter(lib.HM_FILTER_PATTERN, f"*.{i}"))
        assert 0 <= number <= 2 * CAPACITY
        assert lib.hm_filters_remove(filters.handle, number) == 1


def test_a_sweep_is_made_in_steps(filters: Filters) -> None:
    """A step looks at as many topics as its budget says, whatever the number of filters; a filter
    is settled once all steps are made, and what was added meanwhile has its list at once."""
    indexes = [filters.topic(f"a.t{i}") for i in range(1000)]
    numbers = sorted(filters.add(Filter(lib.HM_FILTER_PATTERN, f"*.t{i}")) for i in range(30))
    steps = 0

    while lib.hm_filters_sweep(filters.handle, 2000):
        assert not any(lib.hm_filters_settled(filters.handle, number) for number in numbers)
        filters.topic(f"b.t{steps}")
        steps += 1

    assert 2 <= steps <= 30
    assert all(lib.hm_filters_settled(filters.handle, number) for number in numbers)
    assert [filters.interested(index) for index in indexes[:31]] == [[n] for n in numbers] + [[]]
    matched = [lib.hm_filters_matched(filters.handle, number) for number in numbers]
    assert matched == [2] * steps + [1] * (30 - steps)


def test_a_pattern_and_a_prefix_of_one_text_are_two_filters(filters: Filters) -> None:
    """The same bytes mean different things as a pattern and as a prefix."""
    pattern = filters.add(Filter(lib.HM_FILTER_PATTERN, "a"))
    prefix = filters.add(Filter(lib.HM_FILTER_PREFIX, "a"))

    index = filters.topic("a.b")

    assert pattern != prefix
    assert filters.interested(index) == [prefix]


def test_deep_names_and_patterns_are_matched(filters: Filters) -> None:
    """A name of 128 tokens, the most there can be, meets a pattern of 128 wildcards."""
    number = filters.add(Filter(lib.HM_FILTER_PATTERN, ".".join("*" * 128)))

    index = filters.topic(".".join("a" * 128))

    assert filters.interested(index) == [number]
