"""ZeroMQ: existing programs connect unchanged to ``zmq+tcp://host:port`` or ``zmq+ipc:///path``."""

from __future__ import annotations

from hermes.spi.hooks import RegisterTransport, hookimpl
from hermes.spi.transport import Transport


@hookimpl
def hermes_register_transports(register: RegisterTransport) -> None:
    """Announce both schemes."""
    register("zmq+tcp", _zmq)
    register("zmq+ipc", _zmq)


def _zmq() -> Transport:
    from hermes_zmq.engine import ZmqTransport  # deferred: costs nothing until a URL names it

    return ZmqTransport()
