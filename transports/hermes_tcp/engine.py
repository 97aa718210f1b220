"""Both ends of ``tcp://host:port?option=value``: shared code, put together."""

from __future__ import annotations

from functools import partial

from hermes.net import tcp
from hermes.net.sockets import SocketAgent
from hermes.net.tcp import DialOptions, ListenOptions
from hermes.spi.transport import API_VERSION, Agent, Capabilities, Channel, Kernel
from hermes.spi.url import Url

SCHEME = "tcp"


class TcpTransport:
    """See :class:`hermes.spi.transport.Transport` for the contract."""

    capabilities = Capabilities(native_fd=True)
    api_version = API_VERSION
    listen_options = ListenOptions
    dial_options = DialOptions

    def probe(self) -> str | None:
        """TCP works everywhere."""
        return None

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        """Bind and listen on the first address the host resolves to."""
        options = url.options(ListenOptions)
        sock = tcp.listen(url, options, authenticates=kernel.authenticates)
        return SocketAgent(
            sock,
            url=tcp.printable(SCHEME, sock.getsockname()),
            kernel=kernel,
            describe=partial(tcp.describe, SCHEME),
            prepare=partial(tcp.prepare, options=options),
            connections_max=options.connections,
            path_bound_ns=tcp.path_bound_ns(options),
            unanswered=tcp.unanswered,
        )

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        """Connect to the first address that answers."""
        return tcp.dial(url, url.options(DialOptions), timeout_ns)
