"""Both ends of ``uring+tcp://host:port``, and of ``tcp+auto://host:port``, which does without
io_uring where it has to.

Who listens where, and the options, are shared with `tcp`; :mod:`hermes_uring.agent` moves the bytes.
A client's end is a plain socket: one connection gains nothing from a ring.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated

import msgspec

from hermes.errors import InvalidUrl
from hermes.net import tcp
from hermes.net.sockets import SocketAgent, no_room
from hermes.net.tcp import DialOptions
from hermes.spi.transport import API_VERSION, Agent, Capabilities, Channel, Kernel
from hermes.spi.units import ByteSize
from hermes.spi.url import Url
from hermes_uring.agent import RingAgent
from hermes_uring.probe import make_ring, obstacle

URING = "uring+tcp"
AUTO = "tcp+auto"
BUFFER_SIZE = 262144
"""Bytes of one buffer: a receive costs one completion, so a peer that sends in bulk wants much."""
QUEUE_SIZE = 1024
"""Submissions prepared before they are submitted early: one per connection that has output."""

LOG = logging.getLogger("hermes.uring")


BUFFERS_MAX = 32768
"""Buffers that the kernel takes in one group."""


class ListenOptions(tcp.ListenOptions, frozen=True, forbid_unknown_fields=True):
    """Options of a listener's URL."""

    queue: Annotated[int, msgspec.Meta(ge=2, le=32768)] = QUEUE_SIZE
    """Entries of the submission queue, rounded up to a power of two; a full one is submitted
    early."""
    buffers: ByteSize = ByteSize(4 * BUFFER_SIZE)
    """Memory for input, shared by all connections; at least 512 KiB, rounded up to a power of
    two."""


class UringTransport:
    """See :class:`hermes.spi.transport.Transport` for the contract."""

    capabilities = Capabilities(native_fd=True)
    api_version = API_VERSION
    listen_options = ListenOptions
    dial_options = DialOptions

    def probe(self) -> str | None:
        """Tries to make a ring."""
        return obstacle()

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        """Bind and listen on the first address the host resolves to."""
        return _listen(url, kernel, URING)

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        """Connect to the first address that answers."""
        return tcp.dial(url, url.options(DialOptions), timeout_ns)


class AutoTransport(UringTransport):
    """Uses io_uring where it works, and epoll elsewhere."""

    def probe(self) -> str | None:
        """Works everywhere."""
        return None

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        """Bind and listen; says so once if it has to do without io_uring."""
        problem = obstacle()
        if problem is None:
            return _listen(url, kernel, AUTO)
        LOG.warning("%s is served without io_uring: %s", url, problem)
        options = url.options(ListenOptions)
        sock = tcp.listen(url, options, authenticates=kernel.authenticates)
        return SocketAgent(
            sock,
            url=tcp.printable(AUTO, sock.getsockname()),
            kernel=kernel,
            describe=partial(tcp.describe, AUTO),
            prepare=partial(tcp.prepare, options=options),
            connections_max=options.connections,
            path_bound_ns=tcp.path_bound_ns(options),
            unanswered=tcp.unanswered,
        )


def _listen(url: Url, kernel: Kernel, scheme: str) -> Agent:
    options = url.options(ListenOptions)
    if options.buffers > BUFFERS_MAX * BUFFER_SIZE:
        most = ByteSize(BUFFERS_MAX * BUFFER_SIZE)
        raise InvalidUrl(f"{url}: option 'buffers': {most} at most, not {options.buffers}")
    sock = tcp.listen(url, options, authenticates=kernel.authenticates)
    try:
        ring = make_ring(
            entries=_power_of_two(options.queue),
            buffers=max(2, _power_of_two(-(-options.buffers // BUFFER_SIZE))),
            buffer_size=BUFFER_SIZE,
        )
        return RingAgent(
            sock,
            ring,
            url=tcp.printable(scheme, sock.getsockname()),
            kernel=kernel,
            describe=partial(tcp.describe, scheme),
            prepare=partial(tcp.prepare, options=options),
            connections_max=options.connections,
            path_bound_ns=tcp.path_bound_ns(options),
        )
    except OSError as error:
        sock.close()
        raise no_room(str(url), error) from error
    except BaseException:
        sock.close()
        raise


def _power_of_two(number: int) -> int:
    """The smallest that is not less."""
    return 1 << max(0, number - 1).bit_length()
