"""A client or a listener in a process of its own, to be killed by the test that started it.

See :mod:`hermes.testing.peers`; it prints one line when it is ready.
"""

from __future__ import annotations

import os
import time

from hermes.errors import ConnectFailed
from hermes.testing.kernel import EchoKernel
from hermes.testing.peers import LIFE_S, play, say
from hermes.transport import Transport
from hermes.url import Url

DIAL_NS = 30_000_000_000
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


if __name__ == "__main__":
    play("transport", {"dial": dial, "dial_as_nobody": dial_as_nobody, "listen": listen})
