"""Hermes: an ultra-low-latency message broker for Python.

::

    import hermes

    with hermes.connect("tcp://127.0.0.1:7601") as client:
        with client.publisher("md.xnas.AAPL") as publisher:
            publisher.send(b"...")
        for message in client.subscribe("md.>", start="earliest"):
            print(message.topic, message.sequence, message.payload)

Every error is a :exc:`HermesError`.  Those that a program catches to go on stand here beside it:
:exc:`ConnectFailed`, :exc:`ConnectionLost`, :exc:`Timeout`, :exc:`Refused` and :exc:`GapDetected`;
:mod:`hermes.errors` has all of them.

Names are looked up when they are first used, so that ``import hermes`` costs nothing;
``__init__.pyi`` has their types.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than all of this
    from typing import Any

_HOMES = {
    "Batch": "hermes.client",
    "Broker": "hermes.broker",
    "Client": "hermes.client",
    "ConnectFailed": "hermes.errors",
    "ConnectionLost": "hermes.errors",
    "Gap": "hermes.client",
    "GapDetected": "hermes.errors",
    "HermesError": "hermes.errors",
    "Message": "hermes.client",
    "Position": "hermes.client",
    "Publisher": "hermes.client",
    "Refused": "hermes.errors",
    "Start": "hermes.client",
    "Subscription": "hermes.client",
    "Timeout": "hermes.errors",
    "connect": "hermes.client",
    "get_include": "hermes.native.api",
    "register_plugin": "hermes.plugins.discovery",
    "register_storage": "hermes.plugins.discovery",
    "register_transport": "hermes.plugins.discovery",
}

__all__ = [*sorted(_HOMES), "__version__", "errors"]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("hermes.errors")
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("hermes-broker")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'hermes' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
