"""Base class of listeners whose peers are non-blocking stream sockets: hands over output.

Part of the SPI.  Native code writes to the socket where the connection takes that offer, ``sendmsg``
where it does not.  Knows nothing of how it is told that a socket has room.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from typing import TypeVar

from hermes.net.listener import OUTPUT_MAX, Link, ServingAgent
from hermes.spi.transport import Connection, Flushed

WRITES_PER_PASS = 8
"""Sends to one connection in one poll, so that one receiver does not hold up the others."""
IOV_MAX = 1024
"""Views one sendmsg takes (Linux)."""


class SendingLink(Link):
    """A connection, with what is owed to it."""

    __slots__ = ("attached", "owed", "stalled")

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        super().__init__(sock, connection)
        self.attached = False  # native code writes to the socket
        self.owed = False  # it has had its share of this pass
        self.stalled = False  # the socket was full: output waits for room


L = TypeVar("L", bound=SendingLink)


class SendingAgent(ServingAgent[L]):
    """The part of an agent that hands over output; see
    :class:`~hermes.net.listener.ServingAgent`."""

    @abstractmethod
    def _settle(self, link: L) -> None:
        """Everything is handed over: end the connection if it is closing, or go on."""

    @abstractmethod
    def _await_room(self, link: L) -> None:
        """The socket is full: have :meth:`_write` called when it is not, and ``stalled`` is reset."""

    def _hand_over(self) -> int:
        """Write what is owed, and what the connections have that may have output; returns an amount of
        work."""
        work = 0
        if self._owed:
            owed, self._owed = self._owed, []
            for link in owed:
                link.owed = False
                try:
                    self._write(link)
                except Exception as error:
                    self._fault(link, error)
            work = len(owed)
        for connection in self._ready(self):
            link = connection.attachment
            try:
                self._write(link)
            except Exception as error:
                self._fault(link, error)
            work += 1
        return work

    def _write(self, link: L) -> None:
        """Hand over what the connection has, until it has no more, the medium is full or its share
        is used up."""
        if link.stalled or link.owed or link.until_ns or link.gone:
            return
        try:
            flushed = link.connection.flush() if link.attached else self._move(link)
        except OSError as error:
            self._lose(link, error)
            return
        if flushed is Flushed.ALL:
            self._settle(link)
        elif flushed is Flushed.FULL:
            link.stalled = True
            self._note_stall(link)
            self._await_room(link)
        else:
            link.owed = True
            self._owed.append(link)

    def _move(self, link: L) -> Flushed:
        """Send what a connection has that cannot write to the socket itself."""
        connection = link.connection
        for _ in range(WRITES_PER_PASS):
            views = connection.output(link.limit)[:IOV_MAX]
            if not views:
                return Flushed.ALL
            size = sum(map(len, views))
            try:
                sent = link.sock.sendmsg(views)
            except (BlockingIOError, InterruptedError):
                return Flushed.FULL
            connection.advance(sent)
            connection.release(sent)
            if sent < size:
                return Flushed.FULL
            if size >= link.limit and link.limit < OUTPUT_MAX:
                link.limit *= 2
        return Flushed.SOME
