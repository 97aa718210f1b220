"""A small broker and a small client around the two state machines, joined in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from hermes.native.envelopes import address_of
from hermes.wire import messages as m
from hermes.wire.client import BatchReceived, ClientProtocol, ClientState
from hermes.wire.client import Event as ClientEvent
from hermes.wire.server import BatchSink, PublisherRefused, ServerProtocol, ServerState, Violation
from hermes.wire.server import Event as ServerEvent
from tests.wire import reference as ref

MESSAGE_MAX = 1 << 20
LIMITS = m.Limits(
    message_max=MESSAGE_MAX,
    batch_max=MESSAGE_MAX + (1 << 20),
    publishers_max=4,
    subscriptions_max=4,
)
BROKER_ID = b"broker-id-16byte"


class Server:
    """Walks input through a :class:`ServerProtocol` as a broker does; keeps events and output."""

    def __init__(self, sink: BatchSink) -> None:
        self.protocol = ServerProtocol(sink, LIMITS)
        self.events: list[ServerEvent] = []
        self.output = bytearray()
        self._kept = b""

    def deliver(self, data: bytes) -> None:
        """Some bytes arrived: take all that can be taken, keep the rest."""
        block = self._kept + data
        base = address_of(block)
        offset = 0
        while offset < len(block):
            took = self.protocol.receive(base + offset, len(block) - offset, 0)
            assert 0 <= took <= len(block) - offset
            offset += took
            event = self.protocol.event
            if event is None:
                break
            self.events.append(event)
            self.handle(event)
            self.collect()
        self._kept = block[offset:]
        if self._kept and self.protocol.state is not ServerState.AWAIT_WELCOME:
            assert self.protocol.needed == 0 or self.protocol.needed > len(self._kept)
        self.collect()

    def collect(self) -> None:
        self.output += b"".join(self.protocol.take_output())

    def handle(self, event: ServerEvent) -> None:
        """Answer as little as possible: a Hello is welcomed."""
        if isinstance(event, m.Hello):
            self.protocol.welcome(server="test", broker_id=BROKER_ID, durable=True)

    def sent(self) -> list[Any]:
        """The control frames of the output so far, decoded; batches as their bytes."""
        return frames_of(bytes(self.output))


def frames_of(data: bytes) -> list[Any]:
    """Whole frames, control frames decoded, batches as their bytes."""
    from hermes.wire.codec import decode_control

    found: list[Any] = []
    while data:
        size, kind = ref.check(data, MESSAGE_MAX)
        assert kind, "an incomplete frame"
        (payload_len,) = ref.struct.unpack_from("<I", data, 24)
        if kind == ref.BATCH:
            found.append(data[:size])
        else:
            found.append(decode_control(kind, data[32 : 32 + payload_len]))
        data = data[size:]
    return found


class Client:
    """Walks input through a :class:`ClientProtocol` as a client does; keeps events."""

    def __init__(self) -> None:
        self.protocol = ClientProtocol()
        self.events: list[ClientEvent] = []
        self.output = bytearray()
        self.frames: list[bytes] = []
        """The frames of each batch event, in order."""
        self._buffer = bytearray()

    def deliver(self, data: bytes) -> None:
        self._buffer = self._buffer + data  # a new buffer: the old one may be referred to
        start, end = 0, len(self._buffer)
        while start < end:
            event = self.protocol.receive(self._buffer, start, end)
            start = self.protocol.position
            if event is None:
                assert self.protocol.needed > end - start
                break
            self.take(event)
        self._buffer = self._buffer[start:]
        self.output += b"".join(self.protocol.output)
        self.protocol.output.clear()

    def take(self, event: ClientEvent) -> None:
        if isinstance(event, BatchReceived):
            frames = bytes(self._buffer[event.start : event.end])
            # Offsets depend on how the bytes were cut; what they mean does not.
            event = BatchReceived(
                event.subscription, event.stream, event.after, event.through, 0, len(frames)
            )
            self.frames.append(frames)
        self.events.append(event)


def cut(data: bytes, random: Random, *, most: int = 64) -> list[bytes]:
    """``data`` in random pieces."""
    pieces = []
    while data:
        size = random.randint(1, most)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def parse_messages(frames: bytes) -> list[tuple[int, str, bytes]]:
    """Sequence, topic and payload of whole MESSAGE frames."""
    found = []
    while frames:
        size, kind = ref.check(frames, MESSAGE_MAX)
        assert kind == ref.MESSAGE
        _, _, _, flags, sequence, _, payload_len, _ = ref.HEADER.unpack_from(frames)
        topic = frames[32 : 32 + flags]
        start = 32 + len(ref.padded(topic))
        found.append((sequence, topic.decode(), frames[start : start + payload_len]))
        frames = frames[size:]
    return found


# ---- a broker and a client that really move messages ----


@dataclass
class Reader:
    """A subscription at the model broker: a prefix, and how far it was delivered in each stream."""

    id: int
    prefix: str
    through: dict[int, int] = field(default_factory=dict)


class ModelBroker(Server):
    """Appends, acknowledges and delivers, at the pace its random source says."""

    def __init__(
        self,
        store: ref.ReferenceStore,
        random: Random,
        ingest: ref.ReferenceIngest | None = None,
    ) -> None:
        self.store = store
        self.random = random
        self.ingest = ingest or ref.ReferenceIngest(store, MESSAGE_MAX)
        self.readers: dict[int, Reader] = {}
        self.oldest = [1, 1]
        self.commits: list[dict[str, int]] = []
        super().__init__(self.ingest)

    def handle(self, event: ServerEvent) -> None:
        super().handle(event)
        protocol = self.protocol
        match event:
            case m.Open():
                last = self.ingest.open_publisher(event.publisher, event.publisher_id)
                protocol.ack(event.publisher, last, "opened")
            case m.Subscribe():
                self.begin(event)
            case m.Unsubscribe():
                del self.readers[event.subscription]
                protocol.unsubscribed(event.subscription)
            case m.Commit():
                self.commits.append(event.positions)
                protocol.committed(event.subscription, event.positions)
            case m.Query():
                protocol.info(event.query, ["page", 1], more=True)
                protocol.info(event.query, ["page", 2])
            case m.Close(publisher=None):
                self.acknowledge()
                protocol.close()
            case m.Close():
                self.ingest.close_publisher(event.publisher)
            case Violation():
                raise AssertionError(event)
            case _:
                assert isinstance(event, m.Hello | m.Pong | PublisherRefused)

    def begin(self, event: m.Subscribe) -> None:
        reader = Reader(event.subscription, event.filter)
        for index, name in enumerate(self.store.names):
            tail = len(self.store.streams[index])
            start = event.start
            where = start.at if start.at != "positions" or name in start.positions else "earliest"
            if where == "positions":
                through = start.positions[name]
            else:
                through = tail if where == "latest" else self.oldest[index] - 1
            reader.through[index] = through
            self.protocol.position(reader.id, index, name, through)
        self.readers[reader.id] = reader

    def acknowledge(self) -> None:
        for publisher, sequence in self.ingest.touched.items():
            if publisher in self.ingest.open:
                self.protocol.ack(publisher, sequence)
        self.ingest.touched.clear()

    def pump(self) -> None:
        """Some of what is due: acknowledgements, and a batch or a gap for a subscription."""
        if self.protocol.state is not ServerState.OPEN:
            return
        if self.random.random() < 0.5:
            self.acknowledge()
        for reader in self.readers.values():
            for index in range(len(self.store.names)):
                if self.random.random() < 0.7:
                    self.deliver_some(reader, index)
        self.collect()

    def deliver_some(self, reader: Reader, index: int) -> None:
        stream = self.store.streams[index]
        after = reader.through[index]
        oldest = self.oldest[index]
        if after + 1 < oldest:
            self.protocol.gap(
                reader.id, index, first=after + 1, last=oldest - 1, reason="retention"
            )
            reader.through[index] = oldest - 1
            return
        through = min(len(stream), after + self.random.randint(1, 5))
        if through == after:
            return
        frames = b"".join(
            ref.message(stream[at].topic, stream[at].payload, at + 1)
            for at in range(after, through)
            if stream[at].topic.startswith(reader.prefix)
        )
        self.collect()  # what was said before goes out before
        self.output += ref.batch(reader.id, index, after, through, frames)
        reader.through[index] = through


class ModelClient(Client):
    """Publishes from an outbox, subscribes, and takes its session over to a new connection."""

    def __init__(self, random: Random, publisher: bytes) -> None:
        super().__init__()
        self.random = random
        self.publisher = publisher
        self.sent: list[tuple[str, bytes]] = []
        """Every message ever published; sequence is the index plus one."""
        self.acked = 0
        self.on_wire = 0
        self.began = False
        """Whether a batch went out on this connection: from then on none may be left out."""
        self.seen: dict[tuple[int, str], list[tuple[int, str, bytes]]] = {}
        self.gaps: dict[tuple[int, str], list[tuple[int, int]]] = {}
        self.first: dict[tuple[int, str], int] = {}
        self.pongs = 0

    def greet(self) -> None:
        self.output += self.protocol.hello(client="model")
        self.output += self.protocol.open_publisher(1, self.publisher)

    def reconnected(self) -> ModelClient:
        """The same client, connected again: subscriptions resumed, what is not acked due again."""
        fresh = ModelClient(self.random, self.publisher)
        for name in ("sent", "acked", "seen", "gaps", "first", "pongs"):
            setattr(fresh, name, getattr(self, name))
        fresh.on_wire = fresh.acked
        fresh.output += fresh.protocol.hello(client="model")
        for frame in fresh.protocol.restore(self.protocol.snapshot()):
            fresh.output += frame
        return fresh

    def subscribe(self, prefix: str, start: m.Start) -> None:
        id = self.protocol.new_id()
        for record in (self.seen, self.gaps, self.first):
            for key in [key for key in record if key[0] == id]:
                del record[key]  # type: ignore[attr-defined]  # of one that ended long ago
        self.output += self.protocol.subscribe(id, prefix, kind="prefix", start=start)

    def publish(self, topic: str, payload: bytes) -> None:
        self.sent.append((topic, payload))

    def flush_some(self) -> None:
        """One batch of what was published and is not on the wire."""
        count = min(len(self.sent) - self.on_wire, self.random.randint(1, 4))
        if count and self.protocol.state in (ClientState.GREETING, ClientState.OPEN):
            first = self.on_wire
            frames = b"".join(
                ref.message(*self.sent[at], at + 1) for at in range(first, first + count)
            )
            self.output += ref.batch(1, 0, first, first + count, frames)
            self.on_wire += count
            self.began = True

    def take(self, event: ClientEvent) -> None:
        super().take(event)
        match event:
            case BatchReceived():
                self.take_batch(event)
            case m.Gap():
                key = (event.subscription, self.protocol.stream_names[event.stream])
                self.gaps.setdefault(key, []).append((event.first, event.last))
            case m.Ack():
                assert event.sequence <= max(self.on_wire, self.acked) or event.level == "opened"
                self.acked = max(self.acked, event.sequence)
                if not self.began:
                    self.on_wire = max(self.on_wire, self.acked)
            case m.Pong():
                self.pongs += 1
            case m.Error():
                raise AssertionError(event)

    def take_batch(self, event: BatchReceived) -> None:
        key = (event.subscription, self.protocol.stream_names[event.stream])
        self.first.setdefault(key, event.after)
        got = parse_messages(self.frames[-1])
        assert all(event.after < sequence <= event.through for sequence, _, _ in got)
        self.seen.setdefault(key, []).extend(got)
