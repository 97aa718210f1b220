"""A client or a listener in a process of its own, to be killed by the test that started it.

See :mod:`hermes.testing.peers`; it prints one line when it is ready.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any

import hermes
from hermes.errors import ConnectFailed, UsageError
from hermes.plugins.discovery import register_transport
from hermes.spi.transport import Transport
from hermes.spi.url import Url
from hermes.testing.kernel import EchoKernel
from hermes.testing.peers import LIFE_S, play, say

DIAL_NS = 30_000_000_000
LEFT_OPEN: list[Any] = []
"""Nothing closes what is in here: the program ends with it."""
NOBODY = 65534
"""The user without rights that every Linux has."""


def dial(transport: Transport, url: Url, argument: str) -> None:
    """Connect, send a greeting, and read nothing."""
    channel = transport.dial(url, DIAL_NS)
    channel.send([b"hello"])
    say("connected")
    end = time.monotonic() + LIFE_S
    while time.monotonic() < end:
        channel.wait(readable=False, writable=False, timeout_ns=10_000_000)
        time.sleep(0.01)


def dial_as_nobody(transport: Transport, url: Url, argument: str) -> None:
    """Connect as another user, if the transport lets it."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        channel = transport.dial(url, DIAL_NS)
    except ConnectFailed:
        say("refused")
        return
    channel.send([b"hello"])
    say("connected")
    time.sleep(LIFE_S)


def listen(transport: Transport, url: Url, argument: str) -> None:
    """Listen, echo, and print where."""
    agent = transport.listen(url, EchoKernel())
    say(agent.url)
    end = time.monotonic() + LIFE_S
    while time.monotonic() < end:
        agent.poll(10_000_000)


def leave_open(transport: Transport, url: Url, argument: str) -> None:
    """Publish over a client that nobody closes, and end as ``argument`` says.

    ``embed``: to a broker of this process, which nobody closes either.
    """
    way, _, broker = argument.partition(" ")
    with contextlib.suppress(UsageError):  # it is installed
        LEFT_OPEN.append(register_transport(url.scheme, lambda: transport))
    if broker:
        LEFT_OPEN.append(hermes.Broker(listeners=[str(url)], storage="memory:").start())
    client = hermes.connect(LEFT_OPEN[-1].url if broker else str(url))
    subscription, publisher = client.subscribe("other"), client.publisher("left")
    LEFT_OPEN.extend((client, subscription, publisher))
    publisher.send(b"the last message")
    if way == "raise":
        raise RuntimeError("nobody catches this, as is to be tested")
    sys.exit(3 if way == "exit" else 0)


if __name__ == "__main__":
    play(
        "transport",
        {
            "dial": dial,
            "dial_as_nobody": dial_as_nobody,
            "leave_open": leave_open,
            "listen": listen,
        },
    )
