"""A broker's end of a connection, driven without a transport."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from hermes.broker.config import from_values
from hermes.broker.kernel import Kernel
from hermes.broker.loop import Loop
from hermes.broker.streams import Streams
from hermes.native import Encoder, encode_batch
from hermes.plugins.discovery import default_plugins
from hermes.spi.transport import Peer
from hermes.spi.url import parse_url
from hermes.wire.client import ClientProtocol

PEER = Peer(transport="test", address="nowhere", local=True)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A kernel with a stream in memory, and no transport."""
    config = from_values({"listeners": ["inproc:"], "storage": "memory:"})
    with ExitStack() as stack:
        storage = stack.enter_context(
            closing(default_plugins().storage("memory").open(parse_url("memory:")))
        )
        streams = stack.enter_context(closing(Streams(config, storage)))
        streams.open(None)
        loop = stack.enter_context(closing(Loop(idle="block", spin_ns=0)))
        made = Kernel(config, storage, streams, loop)
        stack.callback(made.context.durables.positions.close)
        yield made


def conversation(sizes: list[int]) -> bytes:
    """Bytes of a client that publishes one message of each size."""
    client = ClientProtocol()
    encoder = Encoder()
    parts = [client.hello(client="test"), client.open_publisher(1, bytes(range(16)), "appended")]
    for number, size in enumerate(sizes, start=1):
        encoder.clear()
        encoder.encode(bytes(size), topic="a.b", sequence=number, timestamp_ns=7)
        frames = bytes(encoder.view)
        parts.append(encode_batch(id=1, after=number - 1, through=number, frames_size=len(frames)))
        parts.append(frames)
    return b"".join(map(bytes, parts))


@pytest.mark.parametrize("seed", range(20))
def test_input_may_stand_anywhere_and_be_cut_anywhere(kernel: Kernel, seed: int) -> None:
    """Input in the transport's own memory is taken whole, however it is cut, also when
    it takes turns with the kernel's buffer."""
    draw = random.Random(seed)
    sizes = [draw.choice([0, 1, 100, 5000, 300_000, 1_500_000]) for _ in range(30)]
    data = memoryview(conversation(sizes))
    agent = object()
    connection = kernel.connect(agent, PEER)

    while data:
        count = min(len(data), draw.choice([1, 31, 32, 1000, 65536, 400_000, 3_000_000]))
        if draw.random() < 0.8:
            own = bytearray(data[:count])
            connection.data_received(memoryview(own))
            own[:] = bytes(len(own))  # it is not looked at any more
        else:
            buffer = connection.get_buffer(-1)
            count = min(count, len(buffer))
            buffer[:count] = data[:count]
            connection.buffer_updated(count)
        data = data[count:]
        while connection.holding:  # a request that took more than its turn is gone on with
            kernel.ready(agent)

    context = kernel.context
    assert context.counters.violations == context.guard.faults.count == 0
    assert [place.last_sequence for place in context.streams] == [len(sizes)]
    connection.connection_lost(None)
