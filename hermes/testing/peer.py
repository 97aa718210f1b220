"""A client or a listener in a process of its own, to be killed by the test that started it.

``python -m hermes.testing.peer ROLE URL [FILE CLASS]``, where ROLE is one of :data:`ROLES` and
FILE and CLASS name a transport that is not installed.  It prints one line when it is ready.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hermes.testing.kernel import EchoKernel
from hermes.transport import Transport
from hermes.url import Url, parse_url

LIFE_S = 120.0
"""How long it lives if nobody kills it."""
DIAL_NS = 30_000_000_000


def dial(transport: Transport, url: Url) -> None:
    """Connect, send a greeting, and read nothing."""
    channel = transport.dial(url, DIAL_NS)
    channel.send([b"hello"])
    say("connected")
    end = time.monotonic() + LIFE_S
    while time.monotonic() < end:
        channel.wait(readable=False, writable=False, timeout_ns=10_000_000)
        time.sleep(0.01)


def listen(transport: Transport, url: Url) -> None:
    """Listen, echo, and print where."""
    agent = transport.listen(url, EchoKernel())
    say(agent.url)
    end = time.monotonic() + LIFE_S
    while time.monotonic() < end:
        agent.poll(10_000_000)


ROLES: dict[str, Callable[[Transport, Url], None]] = {"dial": dial, "listen": listen}


def say(line: str) -> None:
    """Tell whoever started us."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def make(url: Url, where: list[str]) -> Transport:
    """The transport for ``url``: installed, or a class of a file."""
    if not where:
        from hermes.plugins import default_plugins

        return default_plugins().transport(url.scheme)
    file, name = where
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and structs look there
    spec.loader.exec_module(module)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    made: Transport = found()
    return made


def main(arguments: list[str]) -> None:
    """See the module."""
    role, text, *where = arguments
    url = parse_url(text)
    ROLES[role](make(url, where), url)


if __name__ == "__main__":
    main(sys.argv[1:])
