"""Selectors of systems without epoll, on one that has it: kqueue's is played, those of POSIX are real."""

from __future__ import annotations

import selectors
from collections.abc import Mapping
from typing import Any


class DescribedSelector(selectors.BaseSelector):
    """A selector with a descriptor that is not epoll's, as kqueue's is: it has what the standard
    promises of all and no more, so it is asked by its public methods and refuses to watch for nothing."""

    def __init__(self) -> None:
        self._real = selectors.EpollSelector()

    def fileno(self) -> int:
        return self._real.fileno()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Reading and writing come as two events, and in no order of descriptors."""
        found = self._real.select(timeout)
        return [
            (key, bit)
            for bit in (selectors.EVENT_WRITE, selectors.EVENT_READ)
            for key, events in found
            if events & bit
        ]

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


PLAIN: list[type[selectors.BaseSelector]] = [
    DescribedSelector,
    selectors.PollSelector,
    selectors.SelectSelector,
]
"""Selectors that ``selectors.DefaultSelector`` may be elsewhere."""
