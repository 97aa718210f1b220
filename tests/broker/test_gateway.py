"""A client inside the broker's process: what ``hermes.net.gateway`` gives a gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import hermes
from hermes.broker.kernel import Kernel
from hermes.errors import UsageError, WrongType
from hermes.native import Encoder, encode_batch
from hermes.native.frames import BATCH_HEADER_SIZE, decode_batch
from hermes.net.gateway import Wire
from hermes.spi.transport import Peer
from hermes.wire import messages as m
from hermes.wire.codec import HELLO_MAX

HERE = Peer("test", "here", local=True)
BATCH = 2


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """The kernel of a broker whose loop nobody runs: the test is alone with it."""
    broker = hermes.Broker(listeners=["inproc://gateway"], storage="memory:")
    broker.open()
    try:
        assert broker._kernel is not None
        yield broker._kernel
    finally:
        broker.close()


def test_hello_is_answered_at_once(kernel: Kernel) -> None:
    """A wire is welcome as soon as it has asked for the answers."""
    wire = Wire(kernel, object(), HERE, None, client="test")

    answers = wire.answers()

    assert answers == [wire.welcome]
    assert wire.welcome is not None
    assert wire.welcome.limits == kernel.context.limits
    wire.close()


def test_what_is_published_comes_back_by_reference(kernel: Kernel) -> None:
    """One wire publishes, another gets the batch, and is told of by its owner's queue only."""
    owner, marker = object(), object()
    reader = Wire(kernel, owner, HERE, marker, client="reader")
    writer = Wire(kernel, object(), HERE, None, client="writer")
    reader.say(m.Subscribe(1, ">"))
    began = reader.connection.output(1 << 20)
    messages = []
    offset = 0
    for _ in range(2):  # an empty batch at the position is behind them
        message, size = reader.control(began[0], offset)
        messages.append(message)
        offset += size
    reader.done(sum(map(len, began)))
    writer.say(m.Open(1, bytes(16)))
    writer.answers()
    list(kernel.ready(owner))

    writer.connection.data_received(memoryview(batch_of(b"hello")))
    found = [connection.attachment for connection in kernel.ready(owner)]
    views = reader.connection.output(1 << 20)

    assert [type(message) for message in messages] == [m.Welcome, m.Stream]
    assert reader.streams == {0: "default"}
    assert found == [marker]
    assert b"hello" in b"".join(bytes(view) for view in views)
    head = bytes(views[0][:BATCH_HEADER_SIZE])
    assert head[5] == BATCH
    assert decode_batch(head).through == 1
    reader.done(sum(map(len, views)))
    reader.close()
    writer.close()


def batch_of(payload: bytes) -> bytes:
    """A publisher's first batch, of one message."""
    encoder = Encoder()
    encoder.encode(payload, topic="t", sequence=1, timestamp_ns=time.time_ns())
    frames = bytes(encoder.view)
    return encode_batch(id=1, after=0, through=1, frames_size=len(frames)) + frames


def test_its_end_is_the_connections(kernel: Kernel) -> None:
    """Closing ends the connection, once; what is done afterwards does nothing."""
    wire = Wire(kernel, object(), HERE, None, client="test")
    assert len(kernel.connections) == 1

    wire.close()
    wire.close()
    wire.done(100)

    assert len(kernel.connections) == 0
    assert wire.answers() == []


def test_who_comes_too_late_is_told_so(kernel: Kernel) -> None:
    """A broker that is stopping answers with the reason instead of Welcome."""
    kernel.begin_stop()
    wire = Wire(kernel, object(), HERE, None, client="test")

    (error,) = wire.answers()

    assert error.code == "stopping"
    assert error.fatal
    assert wire.welcome is None
    wire.close()


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("owner", None, WrongType),
        ("peer", "here", WrongType),
        ("client", None, WrongType),
        ("client", b"test", WrongType),
        ("client", "x" * 1025, UsageError),
        ("client", "\ud800", UsageError),
        ("identity", 7, WrongType),
        ("identity", "", UsageError),
        ("identity", "x" * 129, UsageError),
        ("credentials", "secret", WrongType),
        ("credentials", {"token": b"secret"}, WrongType),
        ("credentials", {"token": "secret" * 20_000}, UsageError),
    ],
)
def test_wrong_arguments_connect_nothing(
    kernel: Kernel, argument: str, value: object, error: type[Exception]
) -> None:
    """A wrong argument is named by the error, which shows no secret, and no connection is made."""
    values: dict[str, Any] = {"owner": object(), "peer": HERE, "client": "test", argument: value}
    owner, peer = values.pop("owner"), values.pop("peer")

    with pytest.raises(error, match=argument) as caught:
        Wire(kernel, owner, peer, None, **values)

    assert "secret" not in str(caught.value).replace(argument, "")
    assert not kernel.connections


def test_the_longest_credentials_are_taken(kernel: Kernel) -> None:
    """A Hello of as many bytes as may be is welcome."""
    for size in (HELLO_MAX - 70, HELLO_MAX + 1):
        try:
            wire = Wire(kernel, object(), HERE, None, client="", credentials={"token": "x" * size})
        except UsageError:
            assert size > HELLO_MAX
        else:
            assert wire.answers() == [wire.welcome]
            wire.close()
