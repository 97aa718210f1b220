"""Selectors of the standard library, asked without the object that they make for each event.

Part of the SPI: agents and the broker's loop wait with a ``selectors.DefaultSelector``.  Its ``select``
makes a tuple and looks up a key for each ready descriptor, about a microsecond on the path that every
message takes.  Over epoll :func:`ready_of` returns epoll's own method instead; every other selector, over
kqueue for one, is asked by its public methods alone.  Knows no socket and no transport.
"""

from __future__ import annotations

import selectors
from typing import Any, Protocol

READABLE = 1
"""Bit of a ready descriptor: something can be read, as in poll(2) and epoll(7)."""
WRITABLE = 4
"""Bit of a ready descriptor: something can be written."""
BROKEN = 8 | 16
"""Bits of a descriptor that has failed or ended both ways.  A selector without epoll reports it as
readable or writable, whichever it is watched for."""

_EPOLL: Any = getattr(selectors, "EpollSelector", ())
_BITS = (0, READABLE, WRITABLE, READABLE | WRITABLE)  # by the events of selectors


class Ready(Protocol):
    """A selector's wait, as :func:`ready_of` returns it."""

    def __call__(self, timeout_s: float, most: int = -1, /) -> list[tuple[int, int]]:
        """Pairs of a ready descriptor and its bits, after ``timeout_s`` seconds at most; 0: at once,
        -1: whenever there are some.

        ``most``: pairs that epoll returns at most (-1: some thousand); others return all.
        """


def ready_of(selector: selectors.BaseSelector) -> Ready:
    """Return the cheapest function that waits with ``selector``; one thread at a time may call it."""
    if isinstance(selector, _EPOLL):
        # No public name leads to the object; without it, everything below works all the same.
        poll: Ready | None = getattr(getattr(selector, "_selector", None), "poll", None)
        if poll is not None:
            return poll

    def ready(timeout_s: float, most: int = -1, /) -> list[tuple[int, int]]:
        found = selector.select(None if timeout_s < 0 else timeout_s)
        return [(key.fd, _BITS[events]) for key, events in found]

    return ready


def rewatch(selector: selectors.BaseSelector, fd: int, before: int, wanted: int) -> None:
    """Watch ``fd`` for the events ``wanted`` instead of ``before``, as selectors count them.

    0: for none.  Over epoll, as over nothing else, :data:`BROKEN` is reported even then.
    """
    if isinstance(selector, _EPOLL) or (before and wanted):
        selector.modify(fd, wanted)
    elif wanted:
        selector.register(fd, wanted)
    else:
        selector.unregister(fd)


def unwatch(selector: selectors.BaseSelector, fd: int) -> None:
    """Watch ``fd`` no more, if it is watched: before it is closed, for its number is given again."""
    try:  # noqa: SIM105 - for each connection
        selector.unregister(fd)
    except (KeyError, ValueError):
        pass  # it is not, or there is none


def descriptor_of(selector: selectors.BaseSelector) -> int:
    """The descriptor that is readable whenever one of those watched is ready; -1: ``selector`` has
    none, as over poll(2) and select(2)."""
    fileno = getattr(selector, "fileno", None)
    return -1 if fileno is None else int(fileno())
