"""Messages that cannot be had any more are never skipped silently."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import hermes
from hermes.errors import GapDetected

SIZE = 1000
COUNT = 20_000


@pytest.fixture
def trimmed(serve: Callable[..., hermes.Broker]) -> Iterator[hermes.Client]:
    """A client of a broker that has forgotten the first of 20,000 messages."""
    broker = serve(retention="4MiB", segment="1MiB")
    with hermes.connect(broker.url) as client:
        client.publisher("md.a").send_many([b"%d" % i + b" " * SIZE for i in range(COUNT)])
        client.ping()
        yield client


def test_a_gap_is_raised_once_with_its_sequences(trimmed: hermes.Client):
    """A stretch that retention passed by raises GapDetected; the next call goes on behind it."""
    kept = trimmed.streams()[0]["first_sequence"]
    assert kept > 1
    subscription = trimmed.subscribe("md.a", start={"default": 0})

    with pytest.raises(GapDetected, match="retention") as caught:
        subscription.receive(60)

    assert (caught.value.stream, caught.value.first, caught.value.last) == ("default", 1, kept - 1)
    assert subscription.positions == {"default": kept - 1}
    message = subscription.receive(60)
    assert message.sequence == kept
    assert message.payload.startswith(b"%d " % (kept - 1))


def test_a_gap_is_raised_among_batches_too(trimmed: hermes.Client):
    """Iterating batches meets the same gap, and can be begun again."""
    subscription = trimmed.subscribe("md.a", start={"default": 0})
    with pytest.raises(GapDetected):
        next(subscription.batches(timeout=60))

    count = 0
    for batch in subscription.batches(timeout=60):
        count += len(batch)
        if batch.through == COUNT:
            break
    assert count == COUNT - trimmed.streams()[0]["first_sequence"] + 1


def test_gaps_may_be_skipped(trimmed: hermes.Client):
    """on_gap='skip' goes on with what is there."""
    subscription = trimmed.subscribe("md.a", start={"default": 0}, on_gap="skip")

    assert subscription.receive(60).sequence == trimmed.streams()[0]["first_sequence"]


def test_gaps_may_be_told_to_a_function(trimmed: hermes.Client):
    """on_gap may be a function, which is called in order, before what stands behind the gap."""
    found: list[hermes.Gap] = []
    subscription = trimmed.subscribe("md.a", start={"default": 0}, on_gap=found.append)

    first = subscription.receive(60).sequence

    (gap,) = found
    assert (gap.stream, gap.first, gap.last, gap.reason) == ("default", 1, first - 1, "retention")
    assert "retention passed by" in str(gap)
