"""One connection's end in the core: what its cursors have leaves once, in order, by every way out."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hermes.native import decode_batch, match
from hermes.native.conn import AGAIN, DONE, FULL, GAP, LIMIT, LOST, PIECES_MAX, Conn, Conns
from hermes.native.decoder import Decoder
from hermes.native.frames import crc32c
from hermes.native.stream import BATCH_HEADER, Ingest, Start
from tests.native.test_stream import Model

if TYPE_CHECKING:
    from tests.native.conftest import RunC

KIB = 1024
COPY_MAX = 16 * KIB
"""Bytes of log memory that are copied; more is sent from where it stands."""


class Batch(NamedTuple):
    subscription: int
    after: int
    through: int
    payloads: list[bytes]


def batches(data: bytes) -> list[Batch]:
    """The whole batches that stand one behind the other in ``data``."""
    found = []
    while data:
        head = decode_batch(data[:BATCH_HEADER])
        end = BATCH_HEADER + head.frames_size
        payloads = [bytes(payload) for _, _, payload in Decoder(data[BATCH_HEADER:end])]
        found.append(Batch(head.id, head.after, head.through, payloads))
        data = data[end:]
    return found


class Peer:
    """A connection and, for those that have a socket, its other end."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd = crowd
        self.number = number
        self.ingest = Ingest(crowd.router)
        self.conn = Conn(crowd.conns, self.ingest, number)
        self.ours, self.theirs = socket.socketpair()
        for sock in (self.ours, self.theirs):
            sock.setblocking(False)

    def follow(self, pattern: str = ">", start: Start = Start.LATEST, *, number: int = 7) -> None:
        """Have it delivered what the pattern wants."""
        self.conn.add(self.crowd.model.stream.open_cursor(pattern, batch_id=number, start=start))

    def attach(self) -> Peer:
        """Have output go to the socket."""
        self.conn.attach(self.ours.fileno())
        return self

    def fill(self) -> None:
        """Leave no room in the socket."""
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        while True:
            try:
                self.ours.send(bytes(512))
            except BlockingIOError:
                return

    def arrived(self) -> bytes:
        """All that has reached the other end."""
        data = b""
        while True:
            try:
                data += self.theirs.recv(1 << 20)
            except BlockingIOError:
                return data

    def close(self) -> None:
        """Let go of everything but the model."""
        self.conn.close()
        self.ingest.close()
        self.ours.close()
        self.theirs.close()


class Crowd:
    """The connections of one listener, over one stream."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.router = model.router
        self.conns = Conns()
        self.peers: list[Peer] = []

    def add(self) -> Peer:
        """One more connection."""
        self.peers.append(Peer(self, len(self.peers) + 1))
        return self.peers[-1]

    def close(self) -> None:
        """Let go of the connections."""
        for peer in self.peers:
            peer.close()


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """A stream that keeps four segments, of 8 KiB unless told."""
    segment = getattr(request, "param", 8) * KIB
    made = Model(segment=segment, retention=4 * segment)
    yield made
    made.close()


@pytest.fixture
def crowd(model: Model) -> Iterator[Crowd]:
    """Nobody yet."""
    with ExitStack() as stack:
        made = Crowd(model)
        stack.callback(made.close)
        yield made


def joined(conn: Conn) -> bytes:
    """The bytes of what waits."""
    return b"".join(conn.views())


def drain(conn: Conn, limit: int = 64 * KIB) -> bytes:
    """Pull, take and release until there is nothing more."""
    data = b""
    while True:
        came_to = conn.pull(limit)
        part = joined(conn)
        conn.advance(len(part))
        conn.release(len(part))
        data += part
        if came_to == DONE and not part:
            return data
        assert came_to in (DONE, LIMIT, AGAIN)


def test_everybody_is_sent_the_same(model: Model, crowd: Crowd) -> None:
    """More connections than are flushed at once each get the whole batch, without Python."""
    for _ in range(600):
        crowd.add().attach().follow()
    model.append(("a", b"1"), ("b", b"2"))
    model.stream.wake()

    assert crowd.conns.flush() == []

    sent = {peer.arrived() for peer in crowd.peers}
    assert len(sent) == 1
    assert batches(sent.pop()) == [Batch(7, 0, 2, [b"1", b"2"])]
    for peer in crowd.peers:
        status = peer.conn.status()
        assert (status.deliveries, status.waiting, status.in_flight) == (1, 0, 0)


def test_a_caught_up_connection_is_not_woken(model: Model, crowd: Crowd) -> None:
    """Only those are looked at that may have something: filters are asked, not connections."""
    one, other, everything = (crowd.add() for _ in range(3))
    one.follow("a")
    other.follow("b")
    everything.follow(">")
    model.append(("a", b""), ("b", b""))
    model.stream.wake()
    for peer in crowd.peers:
        drain(peer.conn)
    crowd.conns.flush()

    model.append(("a", b"1"))
    model.stream.wake()

    assert sorted(crowd.conns.flush()) == [one.number, everything.number]
    assert [batch.payloads for batch in batches(drain(one.conn))] == [[b"1"]]
    assert drain(other.conn) == b""


@pytest.mark.parametrize("seed", range(5))
def test_what_is_wanted_wakes_and_arrives(model: Model, crowd: Crowd, seed: int) -> None:
    """Each connection gets of random appends what its patterns want, in order, covered without a
    hole, and is woken by each of them."""
    chance = random.Random(seed)
    patterns = [">", "a", "a.*", "a.>", "*", "*.x", "b"]
    topics = ["a", "a.x", "a.y", "b", "b.x"]
    wanted: dict[Peer, list[str]] = {}
    got: dict[Peer, list[Batch]] = {}
    for _ in range(8):
        peer = crowd.add()
        wanted[peer] = chance.sample(patterns, chance.randrange(1, 4))
        got[peer] = []
        for number, pattern in enumerate(wanted[peer]):
            peer.follow(pattern, number=number)
        drain(peer.conn)
    crowd.conns.flush()

    for step in range(60):
        news = [
            (chance.choice(topics), b"%d.%d" % (step, i)) for i in range(chance.randrange(1, 5))
        ]
        model.append(*news)
        model.stream.wake()
        woken = set(crowd.conns.flush())
        for peer, filters in wanted.items():
            if any(match(pattern, topic) for pattern in filters for topic, _ in news):
                assert peer.number in woken
            if peer.number in woken:
                got[peer] += batches(drain(peer.conn, chance.choice([1, 100, 64 * KIB])))

    for peer, filters in wanted.items():
        for number, pattern in enumerate(filters):
            mine = [batch for batch in got[peer] if batch.subscription == number]
            spans = [(batch.after, batch.through) for batch in mine]
            assert all(one[1] == following[0] for one, following in itertools.pairwise(spans))
            assert [payload for batch in mine for payload in batch.payloads] == [
                m.payload for m in model.messages if match(pattern, m.topic)
            ]


def test_control_frames_come_first(model: Model, crowd: Crowd) -> None:
    """While Python has something to say nothing is delivered, and what is put in leaves before it."""
    peer = crowd.add().attach()
    peer.follow()
    model.append(("a", b"1"))
    model.stream.wake()
    peer.conn.hold()

    assert crowd.conns.flush() == [peer.number]
    assert peer.arrived() == b""
    peer.conn.put(b"control!")
    assert peer.conn.flush() == DONE

    data = peer.arrived()
    assert data.startswith(b"control!")
    assert batches(data[8:])[0].payloads == [b"1"]


def test_nothing_is_delivered_behind_a_last_word(model: Model, crowd: Crowd) -> None:
    """A connection that is stopped sends what was put in, and no batch."""
    peer = crowd.add().attach()
    peer.follow()
    model.append(("a", b"1"))
    peer.conn.put(b"goodbye!")
    peer.conn.stop()

    assert peer.conn.flush() == DONE
    assert peer.arrived() == b"goodbye!"


def test_what_retention_took_is_told_once(model: Model, crowd: Crowd) -> None:
    """A cursor that retention has passed by says from where to where before it goes on; what was
    told is not told again."""
    peer = crowd.add().attach()
    peer.follow(number=9)
    for _ in range(100):
        model.append(("a", bytes(KIB)))

    assert crowd.conns.flush() == [peer.number]
    assert peer.conn.flush() == GAP
    assert peer.conn.flush() == GAP
    gap = peer.conn.gap()

    assert (gap.first, gap.last) == (1, model.first - 1)
    assert (gap.subscription, gap.stream) == (9, 0)
    assert peer.arrived() == b""
    assert peer.conn.flush() == DONE
    assert batches(peer.arrived())[0].after == gap.last


@pytest.mark.parametrize("model", [256], indirect=True)
@pytest.mark.parametrize("size", [100, COPY_MAX, 100 * KIB])
def test_a_message_of_any_size_arrives(model: Model, crowd: Crowd, size: int) -> None:
    """Small ones are copied, large ones sent from the log, by every medium."""
    attached, other = crowd.add().attach(), crowd.add()
    for peer in (attached, other):
        peer.follow()
    payload = bytes(range(256)) * (size // 256 + 1)
    model.append(("a", b"before"))
    model.append(("a", payload))
    model.append(("a", b"behind"))
    model.stream.wake()

    crowd.conns.flush()
    data = attached.arrived()
    while attached.conn.flush() != DONE:
        data += attached.arrived()
    data += attached.arrived()

    want = [b"before", payload, b"behind"]
    assert [p for batch in batches(data) for p in batch.payloads] == want
    assert [p for batch in batches(drain(other.conn)) for p in batch.payloads] == want


def test_a_full_socket_keeps_the_rest(model: Model, crowd: Crowd) -> None:
    """Output that a socket does not take waits for it, to the byte, and others are served all the same."""
    full, other = crowd.add().attach(), crowd.add().attach()
    for peer in crowd.peers:
        peer.follow()
    full.fill()
    model.append(("a", b"1"))
    model.stream.wake()

    assert crowd.conns.flush() == [full.number]
    assert full.conn.flush() == FULL
    assert full.conn.status().waiting > 0
    assert batches(other.arrived())[0].payloads == [b"1"]

    model.append(("a", b"2"))
    model.stream.wake()
    assert crowd.conns.flush() == []  # nothing to try before there is room
    filled = len(full.arrived())
    assert filled % 512 == 0
    assert full.conn.flush() == DONE
    assert [p for batch in batches(full.arrived()) for p in batch.payloads] == [b"1", b"2"]


def test_a_broken_socket_is_told(model: Model, crowd: Crowd) -> None:
    """An error of the system's is told with its number."""
    peer = crowd.add().attach()
    peer.follow()
    peer.theirs.close()
    model.append(("a", b"1"))

    assert peer.conn.flush() == LOST
    with pytest.raises(BrokenPipeError):
        raise OSError(peer.conn.error, "told")


@pytest.mark.parametrize("model", [64], indirect=True)
def test_bytes_are_taken_and_released_in_any_parts(model: Model, crowd: Crowd) -> None:
    """However a medium cuts what it takes, and whenever it gives it back, the bytes are the same."""
    chance = random.Random(3)
    whole, cut = crowd.add(), crowd.add()
    for peer in crowd.peers:
        peer.follow()
    model.append(*[("a", bytes([i]) * chance.choice([1, 100, 5000])) for i in range(30)])
    model.append(("a", bytes(30 * KIB)))
    expected = drain(whole.conn)
    data, flying = b"", 0

    while True:
        came_to = cut.conn.pull(chance.randrange(1, 20_000))
        waiting = joined(cut.conn)
        assert joined(cut.conn) == waiting
        taken = chance.randrange(len(waiting) + 1)
        data += waiting[:taken]
        cut.conn.advance(taken)
        flying += taken
        back = chance.randrange(flying + 1)
        cut.conn.release(back)
        flying -= back
        assert cut.conn.status().in_flight == flying
        if came_to == DONE and not cut.conn.busy:
            break

    assert [b.payloads for b in batches(data)] != []
    assert [p for b in batches(data) for p in b.payloads] == [
        p for b in batches(expected) for p in b.payloads
    ]


@pytest.mark.parametrize("model", [64], indirect=True)
def test_views_outlive_the_connection(model: Model, crowd: Crowd) -> None:
    """Memory that a medium still refers to stays as it is: after the release, the end of the
    connection and that of the log."""
    peer = crowd.add()
    peer.follow()
    model.append(("a", b"small"))
    model.append(("b", b"x" * 30 * KIB))
    peer.conn.pull(64 * KIB)
    views = peer.conn.views()
    before = b"".join(views)

    peer.conn.advance(len(before))
    peer.conn.release(len(before))
    peer.close()
    crowd.close()
    model.close()
    again = Model(segment=64 * KIB, retention=256 * KIB)
    for _ in range(20):
        again.append(("c", b"y" * 30 * KIB))

    assert crc32c(b"".join(views)) == crc32c(before)
    assert len(views) > 1
    again.close()


@pytest.mark.parametrize("model", [64], indirect=True)
def test_a_stalled_connection_gives_log_memory_back(model: Model, crowd: Crowd) -> None:
    """Output that has not moved between two looks is copied: segments that retention retires are free."""
    peer = crowd.add()
    peer.follow()
    payload = b"x" * 30 * KIB
    model.append(("a", payload))
    peer.conn.pull(64 * KIB)
    peer.conn.advance(10)
    peer.conn.release(10)
    waiting = joined(peer.conn)

    first, second = peer.conn.unpin(), peer.conn.unpin()

    assert first == 0
    assert second > 30 * KIB
    for _ in range(40):
        model.append(("b", payload))
    assert model.log.status().pinned == 0
    assert joined(peer.conn) == waiting


def test_pieces_are_bounded(model: Model, crowd: Crowd) -> None:
    """A limit in bytes bounds what waits, and more waits for the next pull."""
    peer = crowd.add()
    for number in range(2 * PIECES_MAX):
        peer.follow(number=number)
    model.append(("a", bytes(100)))

    assert peer.conn.pull(KIB) == LIMIT

    assert KIB <= peer.conn.status().waiting < 2 * KIB
    assert len(batches(drain(peer.conn))) == 2 * PIECES_MAX


def test_removed_cursors_deliver_nothing(model: Model, crowd: Crowd) -> None:
    """A cursor that is removed, or closed, is asked no more; others are."""
    peer = crowd.add()
    first = model.stream.open_cursor(">", batch_id=1)
    second = model.stream.open_cursor(">", batch_id=2)
    third = model.stream.open_cursor(">", batch_id=3)
    for cursor in (first, second, third):
        peer.conn.add(cursor)
    model.append(("a", b"1"))
    model.stream.wake()

    peer.conn.remove(first)
    second.close()

    assert [batch.subscription for batch in batches(drain(peer.conn))] == [3]


def test_without_cursors_there_is_nothing(crowd: Crowd) -> None:
    """A connection that nobody subscribes on has nothing, and says so."""
    conn = crowd.add().conn

    assert not conn.busy
    assert conn.pull(1) == DONE
    assert conn.views() == []


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("small", [False, True])
def test_the_scenario_under_sanitizers(run_c: RunC, seed: int, small: bool) -> None:
    """Random appends and readers, fast and slow, with a socket, alone and together with others, and
    without: every byte is held against the list of messages, in C, where memory that was given back may
    not be touched."""
    defines = ("HM_SMALL_BOUNDS=1",) if small else ()

    said = run_c("conn_scenario.c", "20000", str(seed), defines=defines)

    assert "delivered" in said
