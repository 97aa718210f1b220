"""Hermes for asyncio: the names of :mod:`hermes`, awaitable.

::

    import hermes.aio as hermes

    async with hermes.connect("tcp://127.0.0.1:7601") as client:
        async with client.publisher("md.xnas.AAPL") as publisher:
            await publisher.send(b"...")
        async for message in client.subscribe("md.>", start="earliest"):
            print(message.topic, message.sequence, message.payload)

Clients, publishers and subscriptions are of this module, everything else (messages, batches, errors) is
that of :mod:`hermes` itself.  Names are looked up when they are first used; ``__init__.pyi`` has their
types.
"""

from __future__ import annotations

from importlib import import_module

import hermes

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than all of this
    from typing import Any

_HOMES = {
    "Client": "hermes.aio.client",
    "Publisher": "hermes.aio.publisher",
    "Subscription": "hermes.aio.subscription",
    "connect": "hermes.aio.client",
}

__all__ = list(hermes.__all__)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value: Any = getattr(import_module(_HOMES[name]), name)
    elif name in __all__:
        value = getattr(hermes, name)
    else:
        raise AttributeError(f"module 'hermes.aio' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
