"""The ingest of the core under the broker's end: the same as the reference, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

from hermes.native.decoder import Decoder
from hermes.native.log import Log, Run
from hermes.native.stream import Ingest, Router, Stream
from hermes.wire import messages as m
from hermes.wire.codec import encode_control
from tests.wire.peers import MESSAGE_MAX, cut
from tests.wire.reference import ETOPIC, ReferenceFeed, ReferenceIngest, ReferenceStore
from tests.wire.test_conformance import Session, play
from tests.wire.test_server import (
    CLOSE,
    HELLO,
    OPEN,
    VIOLATIONS,
    Broker,
    published,
    scrambled,
)

ILLEGAL = "no..topic"
SEEDS = range(8)


class Core:
    """Two streams in memory, as the reference store has them, and the ingests that feed them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.router = Router()
        self.logs = []
        for index in range(2):
            log = stack.enter_context(
                Log.memory(retention_bytes=1 << 24, segment_bytes=1 << 22, message_max=MESSAGE_MAX)
            )
            self.router.add(stack.enter_context(Stream(log, index=index)))
            self.logs.append(log)
        self.router.claim(1, "md.>")
        stack.callback(self.router.close)

    def twin(self, store: ReferenceStore) -> TwinIngest:
        ingest = Ingest(self.router, MESSAGE_MAX)
        self._stack.callback(ingest.close)
        return TwinIngest(store, ingest)

    def stored(self, index: int) -> list[tuple[str, bytes]]:
        """Topic and payload of everything in a stream."""
        log, found = self.logs[index], []
        position = log.status().start_position
        while position < log.status().end_position:
            run = log.read(position, 1 << 20)
            assert isinstance(run, Run)
            found += [(topic, bytes(payload)) for _, topic, payload in Decoder(run.view)]
            position += len(run.view)
        return found


class TwinIngest(ReferenceIngest):
    """Feeds both, and holds the core's answer to be the reference's."""

    def __init__(self, store: ReferenceStore, native: Ingest) -> None:
        super().__init__(store, MESSAGE_MAX)
        self.native = native

    def open_publisher(self, id: int, identity: bytes) -> int:
        last = super().open_publisher(id, identity)
        assert self.native.open(id, identity) == last
        return last

    def close_publisher(self, id: int) -> None:
        super().close_publisher(id)
        self.native.close_publisher(id)

    def feed(self, data: Any, size: int, now_ns: int) -> ReferenceFeed:
        expected = super().feed(data, size, now_ns)
        found = self.native.feed(data, size, now_ns)
        for name in ("kind", "error", "consumed", "needed", "frame_size", "publisher", "sequence"):
            assert (name, getattr(found, name)) == (name, getattr(expected, name))
        return expected


@pytest.fixture
def core() -> Iterator[Core]:
    with ExitStack() as stack:
        yield Core(stack)


def check(core: Core, store: ReferenceStore) -> None:
    for index, stream in enumerate(store.streams):
        assert core.stored(index) == [(one.topic, one.payload) for one in stream]


@pytest.mark.parametrize(("code", "data"), VIOLATIONS)
@pytest.mark.parametrize("most", [1 << 20, 40, 1])
def test_each_violation_is_the_same(core: Core, code: str, data: bytes, most: int) -> None:
    """Malformed input gets the answer it gets with the reference, however it is cut."""
    broker = Broker(core.twin(ReferenceStore()))

    for piece in cut(data, Random(most), most=most):
        broker.deliver(piece)

    assert [one.code for one in broker.sent() if isinstance(one, m.Error)] == [code]
    check(core, broker.store)


@pytest.mark.parametrize("seed", range(60))
def test_scrambled_sessions_are_the_same(core: Core, seed: int) -> None:
    """Frames in any order, cut anywhere, with refused messages: the same calls, the same streams."""
    random = Random(seed)
    store = ReferenceStore(refused_topics={ILLEGAL: ETOPIC})
    broker = Broker(core.twin(store))
    frames = [HELLO, OPEN, published(1, "a", "md.b"), published(3, "c", ILLEGAL, "md.d")]
    frames += [published(6, "x"), OPEN, published(4, "md.e"), encode_control(m.Ping(1))]
    frames += [published(5, "f"), published(1, "a", "md.b"), published(6, "g"), CLOSE]

    for piece in cut(scrambled(frames, random), random, most=random.choice([30, 300, 3000])):
        broker.deliver(piece)

    check(core, store)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_or_repeated(core: Core, seed: int) -> None:
    """The conformance session holds with the core's ingest, across connections."""
    session = Session(seed, core.twin)

    play(session)

    check(core, session.store)
