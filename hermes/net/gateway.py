"""A client of the wire protocol inside the broker's process: what a gateway is to the kernel.

It feeds a :class:`~hermes.spi.transport.Connection` what a client would send, and takes what a client
would get, batches by reference to the log.  So it has patterns, positions, gaps and back-pressure as
any client has.  Knows no medium, and of batches only that they are not control frames.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from hermes.base import checks
from hermes.errors import UsageError
from hermes.native.frames import HEADER_SIZE
from hermes.spi.transport import Connection, Kernel, Peer
from hermes.wire import messages as m
from hermes.wire.codec import (
    HELLO_MAX,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    ControlEncoder,
    decode_control,
)

_TYPE = 5
_LENGTH = struct.Struct("<I")
_LENGTH_AT = 24


class Wire:
    """One connection, from Hello on."""

    def __init__(
        self,
        kernel: Kernel,
        owner: object,
        peer: Peer,
        attachment: object,
        *,
        client: str,
        identity: str | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        """``owner``: the agent that :meth:`Kernel.ready` is asked for; ``client``: the gateway's name,
        for people.  ``identity`` and ``credentials`` are for a broker that authenticates.

        Raises:
            UsageError: an argument has a wrong type, or is too long for Hello; nothing is connected.
            Refused: the broker has no room.
        """
        if owner is None:
            checks.wrong_type("owner", "the agent that asks for output", owner)
        if not isinstance(peer, Peer):
            checks.wrong_type("peer", "a Peer", peer)
        hello = m.Hello(
            PROTOCOL_MIN,
            PROTOCOL_MAX,
            checks.text(client, "client", most=m.TEXT_MAX),
            None
            if identity is None
            else checks.text(identity, "identity", least=1, most=m.NAME_MAX),
            {} if credentials is None else checks.texts(credentials, "credentials"),
        )
        self._encode = ControlEncoder().encode
        greeting = self._encode(hello)
        if len(greeting) > HEADER_SIZE + HELLO_MAX:
            raise UsageError(f"credentials are too long: Hello takes {HELLO_MAX} bytes in all")
        self.connection: Connection = kernel.connect(owner, peer)
        self.connection.attachment = attachment
        self.welcome: m.Welcome | None = None
        self.streams: dict[int, str] = {}
        self.over = False
        self.connection.data_received(memoryview(greeting))

    def say(self, message: Any) -> None:
        """Send a control frame."""
        self.connection.data_received(memoryview(self._encode(message)))

    def control(self, view: memoryview, offset: int) -> tuple[Any, int]:
        """The control frame at ``offset`` of some output, and its size."""
        (length,) = _LENGTH.unpack_from(view, offset + _LENGTH_AT)
        begin = offset + HEADER_SIZE
        message = decode_control(view[offset + _TYPE], view[begin : begin + length])
        if isinstance(message, m.Welcome):
            self.welcome = message
        elif isinstance(message, m.Stream):
            self.streams[message.index] = message.name
        return message, HEADER_SIZE + (length + 7) // 8 * 8

    def answers(self) -> list[Any]:
        """The control frames that wait, of a connection without subscriptions."""
        found = []
        while not self.over and (views := self.connection.output(65536)):
            size = 0
            for view in views:
                offset = 0
                while offset < len(view):
                    message, taken = self.control(view, offset)
                    found.append(message)
                    offset += taken
                size += len(view)
            self.done(size)
        return found

    def done(self, nbytes: int) -> None:
        """``nbytes`` of the output have been taken, and are needed no more."""
        if nbytes and not self.over:
            self.connection.advance(nbytes)
            self.connection.release(nbytes)

    def close(self) -> None:
        """The end, in order or not.  Idempotent."""
        if not self.over:
            self.over = True
            self.connection.connection_lost(None)
