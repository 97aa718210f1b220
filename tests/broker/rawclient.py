"""A small client that speaks the wire protocol and hides nothing: what the broker is tested
with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from hermes.errors import ConnectionLost, WouldBlock
from hermes.native import Encoder, decode, encode_batch
from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url
from hermes.wire import messages as m
from hermes.wire.client import BatchReceived, ClientProtocol

DEADLINE_S = 60.0
"""For anything a test waits for: generous, because the machine may be busy."""
DIAL_NS = int(DEADLINE_S * 1e9)


class Message:
    """One delivered message."""

    def __init__(
        self, subscription: int, stream: str, sequence: int, topic: str, payload: bytes
    ) -> None:
        self.subscription = subscription
        self.stream = stream
        self.sequence = sequence
        self.topic = topic
        self.payload = payload

    def __repr__(self) -> str:
        return f"<{self.stream} {self.sequence} {self.topic} {self.payload[:20]!r}>"


class RawClient:
    """A client whose every step the test makes; what arrives is kept in lists."""

    def __init__(self, url: str, *, hello: bool = True) -> None:
        parsed = parse_url(url)
        self.channel = default_plugins().transport(parsed.scheme).dial(parsed, DIAL_NS)
        self.protocol = ClientProtocol()
        self.events: list[Any] = []
        self.messages: list[Message] = []
        self.batches: list[tuple[int, str, int, int]] = []
        self.ended = False
        self.lost: Exception | None = None
        self._buffer = bytearray()
        self._chunk = memoryview(bytearray(1 << 20))
        self._encoder = Encoder()
        self._sequences: dict[int, int] = {}
        if hello:
            self.send(self.protocol.hello(client="test"))
            self.until(lambda: self.protocol.welcome)

    # Sending.

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """All of ``data``, reading meanwhile so that nobody blocks."""
        view = memoryview(data)
        deadline = time.monotonic() + DEADLINE_S
        while view:
            view = view[self.channel.send([view]) :]
            if view:
                assert time.monotonic() < deadline, "the broker takes nothing"
                self.channel.wait(readable=True, writable=True, timeout_ns=100_000_000)
                self.take()

    def open(
        self, publisher: int = 1, *, id: bytes | None = None, ack: m.AckLevel = "appended"
    ) -> int:
        """Open a publisher; returns the last sequence the broker has of it."""
        self.send(self.protocol.open_publisher(publisher, id or os.urandom(16), ack))
        answer = self.expect(m.Ack, lambda a: a.publisher == publisher and a.level == "opened")
        self._sequences[publisher] = answer.sequence
        return int(answer.sequence)

    def batch(
        self, topic: str, payloads: list[bytes], *, publisher: int = 1, first: int | None = None
    ) -> bytes:
        """The bytes of one batch."""
        first = first if first is not None else self._sequences.get(publisher, 0) + 1
        self._encoder.clear()
        for i, payload in enumerate(payloads):
            self._encoder.encode(payload, topic=topic, sequence=first + i, timestamp_ns=7)
        last = first + len(payloads) - 1
        self._sequences[publisher] = last
        frames = bytes(self._encoder.view)
        return (
            encode_batch(id=publisher, after=first - 1, through=last, frames_size=len(frames))
            + frames
        )

    def publish(
        self, topic: str, *payloads: bytes, publisher: int = 1, first: int | None = None
    ) -> int:
        """Send one batch; returns its last sequence."""
        self.send(self.batch(topic, list(payloads), publisher=publisher, first=first))
        return self._sequences[publisher]

    def acked(self, sequence: int, *, publisher: int = 1, level: str = "appended") -> None:
        """Wait for the acknowledgement of ``sequence``."""
        self.expect(
            m.Ack,
            lambda a: a.publisher == publisher and a.level == level and a.sequence >= sequence,
        )

    def subscribe(
        self,
        filter: str,
        subscription: int = 1,
        *,
        start: m.Start | str = "latest",
        durable: str | None = None,
        kind: Any = "pattern",
    ) -> None:
        """Subscribe and wait until the broker has said where it begins, or refused."""
        begin = m.Start(at=start) if isinstance(start, str) else start  # type: ignore[arg-type]
        self.send(
            self.protocol.subscribe(subscription, filter, start=begin, durable=durable, kind=kind)
        )
        self.settle()

    def settle(self) -> None:
        """Wait until everything sent so far is answered."""
        token = time.monotonic_ns()
        self.send(self.protocol.ping(token))
        self.expect(m.Pong, lambda pong: pong.token == token)

    def query(self, what: str, **arguments: str) -> Any:
        """All pages of an answer."""
        number = self.protocol.new_id()
        self.send(self.protocol.query(number, what, arguments))
        done = lambda: any(  # noqa: E731
            (isinstance(e, m.Info) and e.query == number and not e.more)
            or (isinstance(e, m.Error) and e.query == number)
            for e in self.events
        )
        self.until(done)
        refused = [e for e in self.events if isinstance(e, m.Error) and e.query == number]
        if refused:
            return refused[0]
        return [
            msgspec.msgpack.decode(e.data)
            for e in self.events
            if isinstance(e, m.Info) and e.query == number
        ]

    # Receiving.

    def take(self) -> bool:
        """Take what is there now; True if there was anything."""
        try:
            count = self.channel.receive_into(self._chunk)
        except WouldBlock:
            return False
        except ConnectionLost as error:
            self.lost, self.ended = error, True
            return True
        if not count:
            self.ended = True
            return True
        self._buffer += self._chunk[:count]
        self._parse()
        return True

    def until(self, condition: Callable[[], Any]) -> Any:
        """Receive until ``condition`` holds; returns what it gave."""
        deadline = time.monotonic() + DEADLINE_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited in vain; events: {self.events[-5:]}"
            if self.ended:
                raise AssertionError(
                    f"the connection ended: {self.lost}; events: {self.events[-5:]}"
                )
            self.channel.wait(readable=True, writable=False, timeout_ns=100_000_000)
            self.take()
        return value

    def until_end(self) -> None:
        """Receive until the broker has closed."""
        self.until(lambda: self.ended)

    def expect(self, kind: type, condition: Callable[[Any], Any] = lambda event: True) -> Any:
        """The first event of ``kind`` for which ``condition`` holds, waiting for it."""
        return self.until(
            lambda: next((e for e in self.events if isinstance(e, kind) and condition(e)), None)
        )

    def received(self, count: int) -> list[Message]:
        """Wait for ``count`` messages in all."""
        self.until(lambda: len(self.messages) >= count)
        return self.messages

    def payloads(self, count: int) -> list[bytes]:
        """The payloads of the first ``count`` messages, waiting for them."""
        return [message.payload for message in self.received(count)[:count]]

    def _parse(self) -> None:
        data = bytes(self._buffer)
        start = 0
        while True:
            event = self.protocol.receive(data, start, len(data))
            start = self.protocol.position
            if event is None:
                break
            if isinstance(event, BatchReceived):
                self._take_batch(event, data)
            else:
                self.events.append(event)
        if self.protocol.output:
            answers = b"".join(self.protocol.output)
            self.protocol.output.clear()
            self.send(answers)
        del self._buffer[:start]

    def _take_batch(self, event: BatchReceived, data: bytes) -> None:
        name = self.protocol.stream_names[event.stream]
        self.batches.append((event.subscription, name, event.after, event.through))
        for header, topic, payload in decode(data[event.start : event.end]):
            self.messages.append(
                Message(event.subscription, name, header.sequence, topic, bytes(payload))
            )

    # Ending.

    def goodbye(self) -> None:
        """Close by handshake."""
        self.send(self.protocol.close())
        self.expect(m.Close)
        self.close()

    def close(self) -> None:
        """Close the medium."""
        self.channel.close()
