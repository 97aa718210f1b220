"""TCP transport: serves ``tcp://host:port``."""

from __future__ import annotations

from hermes.spi.hooks import RegisterTransport, hookimpl
from hermes.spi.transport import Transport


@hookimpl
def hermes_register_transports(register: RegisterTransport) -> None:
    """Announce the scheme."""
    register("tcp", _tcp)


def _tcp() -> Transport:
    from hermes_tcp.engine import TcpTransport  # deferred: costs nothing until a URL names it

    return TcpTransport()
