"""TCP through io_uring: serves ``uring+tcp://host:port``, and ``tcp+auto://host:port``, which does
without where it has to."""

from __future__ import annotations

from hermes.spi.hooks import RegisterTransport, hookimpl
from hermes.spi.transport import Transport


@hookimpl
def hermes_register_transports(register: RegisterTransport) -> None:
    """Announce the schemes."""
    register("uring+tcp", _uring)
    register("tcp+auto", _auto)


def _uring() -> Transport:
    from hermes_uring.engine import UringTransport  # deferred: costs nothing until a URL names it

    return UringTransport()


def _auto() -> Transport:
    from hermes_uring.engine import AutoTransport

    return AutoTransport()
