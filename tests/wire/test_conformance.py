"""The two ends back to back in memory, all that can interleave interleaved at random."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from hermes.wire.client import ClientState
from hermes.wire.messages import Start
from hermes.wire.server import ServerState
from tests.wire.peers import MESSAGE_MAX, ModelBroker, ModelClient
from tests.wire.reference import ReferenceIngest, ReferenceStore

STEPS = 400

NewIngest = Callable[[ReferenceStore], ReferenceIngest]


def reference_ingest(store: ReferenceStore) -> ReferenceIngest:
    return ReferenceIngest(store, MESSAGE_MAX)


class Session:
    """One client, one broker, a wire in each direction that passes on a few bytes at a time."""

    def __init__(self, seed: int, new_ingest: NewIngest = reference_ingest) -> None:
        self.random = Random(seed)
        self.store = ReferenceStore()
        self.new_ingest = new_ingest
        self.client = ModelClient(self.random, bytes(15) + b"p")
        self.broker = ModelBroker(self.store, self.random, new_ingest(self.store))
        self.client.greet()

    def move(self) -> None:
        """Some bytes go over, each way."""
        for source, sink in ((self.client, self.broker), (self.broker, self.client)):
            size = self.random.choice([1, 7, 60, 500, 100000])
            piece = bytes(source.output[:size])
            del source.output[:size]
            if piece:
                sink.deliver(piece)

    def lose_connection(self) -> None:
        """Drop what was under way; both sides begin again, the broker with what it has stored."""
        oldest = self.broker.oldest
        self.broker = ModelBroker(self.store, self.random, self.new_ingest(self.store))
        self.broker.oldest = oldest
        self.client = self.client.reconnected()

    def settle(self) -> None:
        """Move until nothing is due any more."""
        for _ in range(10_000):
            self.client.flush_some()
            self.move()
            self.broker.pump()
            client, broker = self.client, self.broker
            due = (
                client.output
                or broker.output
                or client.acked < len(client.sent)
                or any(
                    through < len(self.store.streams[index])
                    for reader in broker.readers.values()
                    for index, through in reader.through.items()
                )
            )
            if not due:
                return
        raise AssertionError("it never came to rest")

    def step(self) -> None:
        random, client = self.random, self.client
        say = client.protocol
        subscriptions = list(say._subscriptions)
        match random.randint(0, 24):
            case 0 if len(subscriptions) < 3:
                at = random.choice(["latest", "earliest"])
                prefix = random.choice(["", "md.", "md.a", "x"])
                client.subscribe(prefix, Start(at=at))
            case 1 if len(subscriptions) > 1:
                client.output += say.unsubscribe(random.choice(subscriptions))
            case 2 if subscriptions:
                id = random.choice(subscriptions)
                client.output += say.commit(id, say.positions(id))
            case 3:
                client.output += say.ping(random.randint(0, 2**63 - 1))
            case 4:
                client.output += say.query(say.new_id(), "stats")
            case 5 if self.broker.protocol.state is ServerState.OPEN:
                self.broker.protocol.ping(7)
            case 6:
                for index, stream in enumerate(self.store.streams):
                    if stream and random.random() < 0.3:
                        newest = random.randint(1, len(stream))
                        self.broker.oldest[index] = max(self.broker.oldest[index], newest)
            case 7 if random.random() < 0.3:
                self.lose_connection()
            case 8 | 9 | 10 | 11 | 12:
                topic = random.choice(["md.a", "md.b", "x", "y.z"])
                client.publish(topic, random.randbytes(random.randint(0, 40)))
            case 13 | 14 | 15:
                client.flush_some()
            case 16 | 17 | 18:
                self.broker.pump()
            case _:
                self.move()


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_or_repeated(seed: int) -> None:
    """Connections are lost at any byte: all is stored once, in order, and delivered or a gap."""
    session = Session(seed)

    play(session)


def play(session: Session) -> None:
    """Let things happen at random, come to rest, and look whether all is there."""
    for _ in range(STEPS):
        session.step()
    session.settle()
    check_stored(session)
    check_deliveries(session)


def check_stored(session: Session) -> None:
    """Every message is in its stream once, in the publisher's order."""
    client, store = session.client, session.store
    stored = [one for stream in store.streams for one in stream]
    assert sorted(one.publisher_sequence for one in stored) == list(range(1, len(client.sent) + 1))
    for one in stored:
        assert client.sent[one.publisher_sequence - 1] == (one.topic, one.payload)
    for stream in store.streams:
        own = [one.publisher_sequence for one in stream]
        assert own == sorted(own)


def check_deliveries(session: Session) -> None:
    """Check that each live subscription's messages and gaps are all there is from its start on."""
    client, store = session.client, session.store
    for reader in session.broker.readers.values():
        for index, name in enumerate(store.names):
            key = (reader.id, name)
            got = client.seen.get(key, [])
            gaps = client.gaps.get(key, [])
            missing = {at for first, last in gaps for at in range(first, last + 1)}
            wanted = [
                (at + 1, one.topic, one.payload)
                for at, one in enumerate(store.streams[index])
                if at + 1 > client.first[key]
                and at + 1 not in missing
                and one.topic.startswith(reader.prefix)
            ]
            assert got == wanted, key


@pytest.mark.parametrize("broker_first", [False, True])
def test_closing_is_a_handshake(broker_first: bool) -> None:
    """With either side first, both end CLOSED, and what was published before Close is stored."""
    session = Session(1)
    for number in range(20):
        session.client.publish("x", b"%d" % number)
    session.settle()
    session.client.publish("x", b"last")
    session.client.flush_some()

    if broker_first:
        session.broker.protocol.close("stopping")
        session.broker.collect()
    else:
        session.client.output += session.client.protocol.close()
    for _ in range(50):
        session.move()
        if session.client.protocol.state is ClientState.PEER_CLOSED:
            session.client.output += session.client.protocol.close()

    assert session.client.protocol.state is ClientState.CLOSED
    assert session.broker.protocol.state is ServerState.CLOSED
    assert len(session.store.streams[0]) == 21
    assert session.client.protocol.eof()
    assert session.broker.protocol.eof()
    if not broker_first:
        assert session.client.acked == 21
