"""One call that serves many connections: each gets its own, and what is special is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hermes.native import decode_batch
from hermes.native.express import Express, HandOut
from hermes.native.stream import BATCH_HEADER, Ingest, Router, Start
from tests.native.test_stream import Model

KIB = 1024


class Peers:
    """Connections with one cursor each, and their sockets' other ends."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.router = Router()
        self.router.add(model.stream)
        self.sockets: list[tuple[socket.socket, socket.socket]] = []
        self.expresses: list[Express] = []
        self.ingests: list[Ingest] = []

    def add(self, start: Start = Start.LATEST) -> None:
        """One more, that wants everything."""
        cursor = self.model.stream.open_cursor(">", batch_id=7, start=start)
        self.ingests.append(Ingest(self.router))
        self.expresses.append(Express(self.ingests[-1]))
        assert self.expresses[-1].add(self.model.stream, cursor, 0) == 0
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.sockets.append((ours, theirs))

    def serve(self) -> list[tuple[int, int, int]]:
        """Hand out what all of them have."""
        wanted = [
            (express.address, 1, 0, ours.fileno())
            for express, (ours, _) in zip(self.expresses, self.sockets, strict=True)
        ]
        return list(HandOut().run(wanted, 1))

    def close(self) -> None:
        """Let go of everything but the model."""
        for ingest in self.ingests:
            ingest.close()
        for pair in self.sockets:
            for sock in pair:
                sock.close()


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """A stream that keeps four segments, of 8 KiB unless told."""
    segment = getattr(request, "param", 8) * KIB
    made = Model(segment=segment, retention=4 * segment)
    yield made
    made.close()


@pytest.fixture
def peers(model: Model) -> Iterator[Peers]:
    """Nobody yet."""
    with ExitStack() as stack:
        made = Peers(model)
        stack.callback(made.close)
        yield made


def test_everybody_is_sent_the_same_range(model: Model, peers: Peers) -> None:
    """More connections than there is room for at first each get the whole batch."""
    for _ in range(100):
        peers.add()
    model.append(("a", b"1"), ("b", b"2"))

    found = peers.serve()

    sent = {peer.recv(65536) for _, peer in peers.sockets}
    assert len(sent) == 1
    batch = decode_batch(next(iter(sent)))
    assert (batch.id, batch.after, batch.through) == (7, 0, 2)
    assert found == [(BATCH_HEADER + batch.frames_size, 1, 0)] * 100


def test_what_retention_took_is_told(model: Model, peers: Peers) -> None:
    """A cursor that retention has passed by sends nothing, and says from where to where."""
    peers.add()
    for _ in range(100):
        model.append(("a", bytes(KIB)))

    [(sent, deliveries, special)] = peers.serve()

    result, (_, _, size) = peers.expresses[0].left()
    assert special
    assert (sent, deliveries, size, result.unsent) == (0, 0, 0, 0)
    assert (result.gap_first, result.gap_last) == (1, model.first - 1)
    assert (result.gap_cursor, result.again) == (0, 1)


@pytest.mark.parametrize("model", [128], indirect=True)
def test_a_large_range_is_handed_back(model: Model, peers: Peers) -> None:
    """A message of more than is copied stays in the log: its envelope is unsent, and the range is
    named."""
    peers.add()
    payload = bytes(range(256)) * 100
    model.append(("a", payload))

    [(sent, _, special)] = peers.serve()

    result, (segment, offset, size) = peers.expresses[0].left()
    frames = bytes(model.log.view(segment, offset, size))
    assert special
    assert sent == 0
    assert decode_batch(peers.expresses[0].unsent(result)).frames_size == len(frames)
    assert payload in frames
    assert result.again == 1


def test_a_full_socket_keeps_the_rest(model: Model, peers: Peers) -> None:
    """What a socket does not take is named to the byte, and others are served all the same."""
    for _ in range(3):
        peers.add()
    full, _ = peers.sockets[1]
    full.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    while True:
        try:
            full.send(bytes(512))
        except BlockingIOError:
            break
    model.append(("a", b"1"))

    found = peers.serve()

    result, _ = peers.expresses[1].left()
    assert [special for _, _, special in found] == [0, 1, 0]
    assert found[1][0] + result.unsent == found[0][0]
    assert peers.sockets[0][1].recv(65536).endswith(peers.expresses[1].unsent(result))
