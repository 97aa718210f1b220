"""``udp://host:port?option=value``: a listener and a client's end, put together."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from hermes.base.rlimits import behind
from hermes.errors import SystemFault
from hermes.net.addresses import addresses, host_port, refuse_strangers
from hermes.spi.transport import API_VERSION, Agent, Capabilities, Channel, Kernel
from hermes.spi.url import Url, refuse_user
from hermes_udp import caster as _caster
from hermes_udp import group as _group
from hermes_udp import groups as _groups
from hermes_udp import options as _options
from hermes_udp.agent import UdpAgent
from hermes_udp.channel import dial
from hermes_udp.native import lib
from hermes_udp.options import DialOptions, ListenOptions


class UdpTransport:
    """See :class:`hermes.spi.transport.Transport` for the contract."""

    capabilities = Capabilities(datagrams=True, multicast=True)
    api_version = API_VERSION
    listen_options = ListenOptions
    dial_options = DialOptions

    def probe(self) -> str | None:
        """UDP works everywhere."""
        return None

    def listen(self, url: Url, kernel: Kernel) -> Agent:
        """Bind the first address the host resolves to, or cast to the group that it is."""
        options = url.options(ListenOptions)
        group = _groups.group_of(url, options)
        mtu_min = _options.CAST_DATAGRAM_MIN if group is not None else lib.HU_DATAGRAM_MIN
        spec = options.check(url, mtu_min=mtu_min)
        with contextlib.ExitStack() as undo:
            try:
                if group is not None:
                    place = _caster.place_of(url, group, options)
                    sock = _groups.casting(url, group, place.source, options)
                else:
                    sock = self._bound(url, kernel, options)
                undo.callback(sock.close)
                shared: dict[str, Any] = {"kernel": kernel, "options": options, "spec": spec}
                if group is not None:
                    agent: Agent = _caster.MulticastAgent(sock, place=place, **shared)
                else:
                    printable = f"udp://{host_port(sock.getsockname())}"
                    agent = UdpAgent(sock, url=printable, **shared)
            except OSError as error:
                raise SystemFault(
                    f"{url}: cannot listen: {error}; raise `ulimit -n` if descriptors are short{behind(error)}"
                ) from error
            undo.pop_all()
        return agent

    @staticmethod
    def _bound(url: Url, kernel: Kernel, options: ListenOptions) -> socket.socket:
        options.refuse_multicast(url)
        refuse_user(url)
        family, address = addresses(url, passive=True)[0]
        if not (options.insecure or kernel.authenticates):
            refuse_strangers(url, address)
        return _options.bound(url, family, address, options)

    def dial(self, url: Url, timeout_ns: int) -> Channel:
        """Set up a session with the first address that answers, or with a group's caster."""
        options = url.options(DialOptions)
        group = _groups.group_of(url, options)
        if group is not None:
            return _group.dial(url, group, options, timeout_ns)
        options.refuse_multicast(url)
        return dial(url, options, timeout_ns)
