"""One step of sending or receiving a message, alone in a loop: prints nanoseconds a message.

STEP SIZE COUNT [URL]
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from hermes.bench.actor import say

TOPIC = b"bench.costs"
PER_BATCH = 1000
BURSTS = 200

Step = Callable[[bytes, int, str], float]


def _each(call: Callable[[Any], object], payload: Any, count: int) -> float:
    """Nanoseconds of one call, loop included: the control has the same loop."""
    rounds = range(count)
    start = time.perf_counter_ns()
    for _ in rounds:
        call(payload)
    return (time.perf_counter_ns() - start) / count


def empty_call(payload: bytes, count: int, url: str) -> float:
    """The loop, and a call of a built-in that does nothing with its argument."""
    return _each(callable, payload, count)


def empty_core_call(payload: bytes, count: int, url: str) -> float:
    """A call of the core through cffi that does nothing."""
    from hermes.native._core import ffi, lib

    call, nothing = lib.hm_spsc_free, ffi.NULL
    return _each(lambda _: call(nothing), payload, count)


def clock(payload: bytes, count: int, url: str) -> float:
    """The timestamp that a message carries, if Python read it."""
    read = time.time_ns
    return _each(lambda _: read(), payload, count)


def outbox(payload: bytes, count: int, url: str) -> float:
    """The native part of ``send``: frame, checksum, timestamp, into an outbox that is kept empty."""
    from hermes.native.outbox import Outbox

    kept = Outbox(id=1)
    call = kept.sender(TOPIC).send
    rounds = max(2, count // PER_BATCH)
    took = []
    for _ in range(rounds):
        took.append(_each(call, payload, PER_BATCH))
        while kept.batch(1 << 20, 0) is not None:
            kept.sent()
        kept.ack(kept.status().sent)
    return statistics.fmean(took[1:])


def _in_bursts(url: str, linger: float | None, burst: Callable[[Any], float]) -> float:
    """The median of many bursts, each after everything before it was acknowledged: so that neither
    back-pressure nor memory touched for the first time is what is measured."""
    import hermes

    with (
        hermes.connect(url) as client,
        client.publisher(TOPIC.decode(), linger=linger) as publisher,
    ):
        took = []
        for _ in range(BURSTS):
            took.append(burst(publisher))
            publisher.flush()
    return statistics.median(took)


def send(payload: bytes, count: int, url: str) -> float:
    """The whole ``send`` of a publisher with a linger; a native thread writes beside it."""
    return _in_bursts(url, 0.001, lambda publisher: _each(publisher.send, payload, PER_BATCH))


def send_at_once(payload: bytes, count: int, url: str) -> float:
    """The whole ``send`` of a publisher without a linger: with its system call."""
    return _in_bursts(url, None, lambda publisher: _each(publisher.send, payload, PER_BATCH))


def send_many(payload: bytes, count: int, url: str) -> float:
    """``send_many`` of a thousand, a message."""
    payloads = [payload] * PER_BATCH
    return _in_bursts(
        url, None, lambda publisher: _each(publisher.send_many, payloads, 1) / PER_BATCH
    )


def _frames(payload: bytes) -> bytes:
    from hermes.native.encoder import Encoder

    encoder = Encoder()
    encoder.encode_many(TOPIC, [payload] * PER_BATCH, first_sequence=1, timestamp_ns=1)
    return bytes(encoder.view)


def _per_batch(call: Callable[[], object], count: int) -> float:
    rounds = max(1, count // PER_BATCH)
    start = time.perf_counter_ns()
    for _ in range(rounds):
        call()
    return (time.perf_counter_ns() - start) / (rounds * PER_BATCH)


def index(payload: bytes, count: int, url: str) -> float:
    """Check a batch wholly and describe its messages: the batch API's share."""
    from hermes.native.api import Reader

    frames, reader = _frames(payload), Reader(1 << 24)
    return _per_batch(lambda: reader.index(frames, 0, len(frames), 0, PER_BATCH), count)


def objects(payload: bytes, count: int, url: str) -> float:
    """Check a batch wholly and make a Message of each, payload copied."""
    from hermes.native.api import Reader

    frames, reader = _frames(payload), Reader(1 << 24)
    return _per_batch(
        lambda: reader.messages(frames, 0, len(frames), "default", 0, PER_BATCH), count
    )


def _messages(payload: bytes) -> Iterable[object]:
    from hermes.native.api import Reader

    frames = _frames(payload)
    made = Reader(1 << 24).messages(frames, 0, len(frames), "default", 0, PER_BATCH)
    assert isinstance(made, list)
    return made


def walk(payload: bytes, count: int, url: str) -> float:
    """Python's own share: a ``for`` loop over the messages."""
    made = _messages(payload)

    def loop() -> None:
        for _ in made:
            pass

    return _per_batch(loop, count)


def look(payload: bytes, count: int, url: str) -> float:
    """The loop, and a look at each payload and topic."""
    made = _messages(payload)

    def loop() -> None:
        for message in made:
            message.payload  # type: ignore[attr-defined]  # noqa: B018
            message.topic  # type: ignore[attr-defined]  # noqa: B018

    return _per_batch(loop, count)


STEPS: dict[str, Step] = {
    step.__name__: step
    for step in (
        empty_call,
        empty_core_call,
        clock,
        outbox,
        send,
        send_at_once,
        send_many,
        index,
        objects,
        walk,
        look,
    )
}

if __name__ == "__main__":
    name, size, count = sys.argv[1:4]
    gc.freeze()
    url = sys.argv[4] if len(sys.argv) > 4 else ""
    say({"ns": STEPS[name](bytes(int(size)), int(count), url)})
