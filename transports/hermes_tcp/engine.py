"""Both ends of ``tcp://host:port?option=value``: shared code, put together."""

from __future__ import annotations

from functools import partial

from hermes import tcpsockets
from hermes.streamsockets import SocketAgent
from hermes.tcpsockets import DialOptions, ListenOptions
from hermes.transport import API_VERSION, Agent, Capabilities, Channel, Kernel
from hermes.url import Url

SCHEME = "tcp"


class TcpTransport:
    """See :class:`hermes.transport.Transport` for the contract."""

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
        sock = tcpsockets.listen(url, options, authenticates=kernel.authenticates)
        return SocketAgent(
            sock,
            url=tcpsockets.printable(SCHEME, sock.getsockname()),
            kernel=kernel,
            describe=partial(tcpsockets.describe, SCHEME),
            prepare=partial(tcpsockets.prepare, options=options),
            connections_max=options.connections,
            path_bound_ns=tcpsockets.path_bound_ns(options),
            unanswered=tcpsockets.unanswered,
        )

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        """Connect to the first address that answers."""
        return tcpsockets.dial(url, url.options(DialOptions), timeout_ns)
