"""UDP transport: serves ``udp://host:port``, reliably and in order."""

from __future__ import annotations

from hermes.spi.hooks import RegisterTransport, hookimpl
from hermes.spi.transport import Transport


@hookimpl
def hermes_register_transports(register: RegisterTransport) -> None:
    """Announce the scheme."""
    register("udp", _udp)


def _udp() -> Transport:
    from hermes_udp.engine import UdpTransport  # deferred: costs nothing until a URL names it

    return UdpTransport()
