"""In-process transport: serves ``inproc://name`` to programs that embed their broker."""

from __future__ import annotations

from hermes.spi.hooks import RegisterTransport, hookimpl
from hermes.spi.transport import Transport


@hookimpl
def hermes_register_transports(register: RegisterTransport) -> None:
    """Announce the scheme."""
    register("inproc", _inproc)


def _inproc() -> Transport:
    from hermes_inproc.engine import InprocTransport  # deferred: costs nothing until a URL names it

    return InprocTransport()
