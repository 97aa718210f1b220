"""Other systems that do the same work, each at its documented best from Python, one file each.

A driver (:class:`hermes.bench.contestant.Driver`) says how the system's processes are started and
how its users send and receive; everything that must be equal for all is the engine's.  A system
that drops messages with its defaults stands twice: as it comes, and set up to lose nothing.

``hermes bench rivals`` runs them; ``make rivals`` installs what they need.
"""

from __future__ import annotations

MODULES = ("pyzmq_", "pynng_", "zenoh_", "iceoryx", "nats_", "redis_", "mosquitto")
"""Each has a tuple ``DRIVERS`` of names at its top."""


def references() -> list[str]:
    """``module:attribute`` of every driver, in the order of the tables."""
    from importlib import import_module

    return [
        f"{__name__}.{module}:{name}"
        for module in MODULES
        for name in import_module(f"{__name__}.{module}").DRIVERS
    ]
