"""The echo kernel notices what a transport does wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from hermes.errors import Refused
from hermes.spi.transport import Connection, Kernel, Peer
from hermes.testing.kernel import POISON, EchoConnection, EchoKernel

OWNER = object()
PEER = Peer("test", "somebody", local=True)


@pytest.fixture
def kernel() -> EchoKernel:
    """A fresh kernel."""
    return EchoKernel()


@pytest.fixture
def connection(kernel: EchoKernel) -> EchoConnection:
    """A connection with ten bytes of output that have been pulled."""
    made = kernel.connect(OWNER, PEER)
    made.send(b"0123456789")
    made.output(100)
    return made


def test_it_has_the_shape_of_the_contract(kernel: EchoKernel, connection: EchoConnection) -> None:
    """Everything that a transport may call is there."""
    for real, double in ((Kernel, kernel), (Connection, connection)):
        names = [name for name in vars(real) if not name.startswith("_")]
        names += list(real.__annotations__)
        assert names
        assert all(hasattr(double, name) for name in names)


def test_it_echoes(kernel: EchoKernel) -> None:
    """Input comes out again, in two steps, and is named by ready() once until it is pulled."""
    connection = kernel.connect(OWNER, PEER)
    connection.get_buffer(-1)[:5] = b"hello"
    connection.buffer_updated(5)
    connection.data_received(memoryview(b" world"))

    assert list(kernel.ready(OWNER)) == [connection]
    assert list(kernel.ready(OWNER)) == []
    assert b"".join(connection.output(8)) == b"hello wo"
    assert b"".join(connection.output(100)) == b"hello world"
    connection.advance(11)
    connection.release(11)
    assert connection.output(100) == []
    assert (connection.received, connection.pending, connection.in_flight) == (11, 0, 0)
    assert not kernel.violations


def test_released_memory_is_overwritten(kernel: EchoKernel, connection: EchoConnection) -> None:
    """Exactly what was released, at once; the rest stays."""
    (view,) = connection.output(100)
    connection.advance(6)
    connection.release(4)

    assert bytes(view) == bytes([POISON]) * 4 + b"456789"


def test_a_view_that_is_kept_is_seen(connection: EchoConnection) -> None:
    """A block whose memory is still referred to after its release says so."""
    views = connection.output(100)
    connection.advance(10)
    connection.release(10)
    assert connection.retired[0].held

    views.clear()

    assert not connection.retired[0].held


def test_nothing_is_handed_out_beyond_the_window(
    kernel: EchoKernel, connection: EchoConnection
) -> None:
    """With as much in flight as may be, output() is empty until something is released."""
    kernel.in_flight_max = 4
    connection.advance(4)
    assert connection.output(100) == []

    connection.release(1)

    assert b"".join(connection.output(100)) == b"456789"


def test_it_refuses_beyond_its_bound(kernel: EchoKernel) -> None:
    """As a broker does that has as many connections as it may."""
    kernel.connections_max = 0

    with pytest.raises(Refused):
        kernel.connect(OWNER, PEER)


def twice_eof(connection: EchoConnection) -> None:
    connection.eof_received()
    connection.eof_received()


def input_after_eof(connection: EchoConnection) -> None:
    connection.eof_received()
    connection.data_received(memoryview(b"more"))


def lost_twice(connection: EchoConnection) -> None:
    connection.connection_lost(None)
    connection.connection_lost(OSError("again"))


def pulled_after_the_end(connection: EchoConnection) -> None:
    connection.connection_lost(None)
    connection.output(100)


def from_another_thread(connection: EchoConnection) -> None:
    thread = threading.Thread(target=connection.output, args=(1,))
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda c: c.advance(11), "released <= advanced <= pulled"),
        (lambda c: c.advance(-1), "released <= advanced <= pulled"),
        (lambda c: c.release(1), "released <= advanced <= pulled"),
        (lambda c: c.output(0), "1 or more"),
        (lambda c: c.buffer_updated(1), "fill and report it before asking for another"),
        (lambda c: (c.get_buffer(-1), c.buffer_updated(1 << 20)), "for a buffer of 65536 bytes"),
        (lambda c: c.data_received(memoryview(b"")), "the end of input is eof_received"),
        (twice_eof, "eof_received was called twice"),
        (input_after_eof, "it sends no more"),
        (lost_twice, "it is called once"),
        (lambda c: c.connection_lost("gone"), "expected an exception or None"),
        (pulled_after_the_end, "nothing may be"),
        (from_another_thread, "belongs to the thread that polls"),
    ],
)
def test_a_breach_is_told_in_a_sentence(
    kernel: EchoKernel,
    connection: EchoConnection,
    wrong: Callable[[EchoConnection], object],
    told: str,
) -> None:
    """Each says what was called and what the contract says."""
    wrong(connection)

    assert any(told in violation for violation in kernel.violations), kernel.violations


def test_ready_of_somebody_else_is_told(kernel: EchoKernel, connection: EchoConnection) -> None:
    """An agent asks for its own connections."""
    connection.mark()
    connection.output(1)
    connection.mark()
    list(kernel.ready(object()))

    assert kernel.violations


@pytest.mark.parametrize("module", ["kernel", "simulation", "resources", "peer"])
def test_users_need_no_pytest_for_it(module: str) -> None:
    """Only the suites need pytest; what they are made of, and Hermes itself, do not."""
    code = f"import sys, hermes.client, hermes.broker, hermes.cli, hermes.testing.{module}"
    subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'pytest' not in sys.modules"], check=True
    )
