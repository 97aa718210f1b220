"""The prefixes that the peers of an XPUB socket subscribe to: whether there are any, whatever they send.

An XPUB passes on unsubscriptions from what a peer has not subscribed to, also while others have.  So
each is held against what its own connection has, which the number of its admission names.
"""

from __future__ import annotations

import zmq

from hermes_zmq.curve import ADMISSION

PREFIXES_MAX = 1_000_000
"""Subscriptions remembered, some 100 bytes each; with more, there are some until all peers are gone."""

_SUBSCRIBE, _UNSUBSCRIBE = 1, 0


class Prefixes:
    """True while a peer subscribes to something."""

    def __init__(self) -> None:
        self._wanted: dict[bytes, int] = {}  # connections that have it, by prefix
        self._of: dict[str, set[bytes]] = {}  # by admission
        self._admitted: dict[int, str] = {}  # the last admission of each descriptor
        self._total = 0
        self.full = False
        """There are more than are remembered."""

    def __bool__(self) -> bool:
        return self.full or bool(self._wanted)

    def peers_gone(self) -> None:
        """No peer is left: count again from nothing, if there were too many to remember."""
        if self.full:
            self._wanted.clear()
            self._of.clear()
            self._total, self.full = 0, False

    def told(self, message: zmq.Frame) -> None:
        """The socket, which has ``XPUB_VERBOSER`` set, has passed on ``message``."""
        data = bytes(message.buffer)
        if not data or data[0] not in (_SUBSCRIBE, _UNSUBSCRIBE):
            return
        prefix = data[1:]
        try:
            admission, fd = str(message.get(ADMISSION)), int(message.get(zmq.SRCFD))
        except zmq.ZMQError:  # libzmq's own: a connection that had the prefix is gone
            if data[0] == _UNSUBSCRIBE:
                self._drop(prefix)
            return
        before = self._admitted.get(fd)
        if before != admission:
            self._admitted[fd] = admission
            if before is not None:
                self._of.pop(before, None)  # what it had is unsubscribed from without its number
        if data[0] == _SUBSCRIBE:
            self._add(admission, prefix)
        elif prefix in (has := self._of.get(admission, set())):
            has.remove(prefix)
            self._drop(prefix)

    def _add(self, admission: str, prefix: bytes) -> None:
        has = self._of.setdefault(admission, set())
        if prefix in has:
            return
        if self._total >= PREFIXES_MAX:
            self.full = True
            return
        has.add(prefix)
        self._wanted[prefix] = self._wanted.get(prefix, 0) + 1
        self._total += 1

    def _drop(self, prefix: bytes) -> None:
        count = self._wanted.pop(prefix, 0)
        if count > 1:
            self._wanted[prefix] = count - 1
        self._total -= count > 0
        if not self._wanted:
            self._of.clear()
