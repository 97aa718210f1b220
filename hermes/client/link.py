"""One connection of a client: the channel, what is read from it and the way out.

Knows frames and events only through the session; waits, but takes no lock.
"""

from __future__ import annotations

from sys import getrefcount

from hermes.base.interrupts import let_pass
from hermes.client.inbox import Inbox
from hermes.client.output import ChannelOutput
from hermes.errors import ConnectionLost, WouldBlock
from hermes.native.api import Source
from hermes.native.outbox import EMPTY, Flusher
from hermes.spi.transport import Channel, ReadingChannel, medium_of

BATCH_MAX = 1 << 20
"""Bytes of frames in a batch we send, unless one message alone is larger: every broker takes that,
because its limit is the message limit plus this."""

Output = Flusher | ChannelOutput


class Link:
    """A live connection.  Its medium is closed once it is retired and no thread waits on it."""

    __slots__ = ("_reading", "_source", "channel", "guard", "inbox", "native", "output")

    def __init__(self, channel: Channel, output: Output) -> None:
        self.channel = channel
        self.inbox = Inbox()
        self.output = output
        self.guard = object()
        """Referred to by every thread that waits on the medium without the lock."""
        fd, medium = channel.stream_fd, medium_of(channel)
        self._source: Source | None = None
        self._reading: ReadingChannel | None = None
        if not isinstance(output, Flusher):
            output.attach_channel(channel, BATCH_MAX)
        elif fd is not None:
            self._source = Source(fd, None)
            output.attach(fd, BATCH_MAX)
        else:
            assert medium is not None
            if isinstance(channel, ReadingChannel):
                self._reading = channel
            else:
                self._source = Source(-1, medium)
            output.attach_medium(medium, BATCH_MAX)
        self.native = self._source is not None
        """Whether native code reads: an interrupt finds all of what was read in the inbox."""

    @property
    def waits(self) -> bool:
        """Whether :meth:`receive` waits, which may be done without the lock."""
        return self._source is not None or self._reading is not None

    def receive(self, spin_ns: int, timeout_ns: int) -> int:
        """Read into the inbox what is there: how many bytes, 0 at the end, EMPTY if none came.

        Waits for it, if the link :attr:`waits`.

        Raises:
            ConnectionLost: the medium is gone.
        """
        inbox = self.inbox
        if self._source is not None:
            try:
                return self._source.receive(inbox, spin_ns, timeout_ns)
            except OSError as error:
                let_pass(error)
                text = f"the connection broke while receiving: {error.strerror}"
                raise ConnectionLost(text) from error
        if self._reading is not None:
            memory = inbox.address  # kept here, should another thread give the inbox a new one
            size = self._reading.receive(memory + inbox.end, inbox.room, spin_ns, timeout_ns)
        else:
            try:
                size = self.channel.receive_into(memoryview(inbox.buffer)[inbox.end :])
            except WouldBlock:
                return EMPTY
        if size > 0:
            inbox.arrived(size)
        return size

    def wait(self, *, readable: bool, writable: bool, timeout_ns: int) -> bool:
        """Wait for the medium."""
        return self.channel.wait(readable=readable, writable=writable, timeout_ns=timeout_ns)

    def lost(self) -> ConnectionLost:
        """What to raise when the output failed."""
        return ConnectionLost(f"the connection broke while sending: {self.output.error}")

    def write(self, frames: bytes) -> None:
        """Queue control frames.

        Raises:
            ConnectionLost: the medium is gone, or the broker has not read for long.
        """
        if self.output.write(frames) < 0:
            raise self.lost()

    def retire(self) -> None:
        """Write no more."""
        self.output.detach()

    def close(self) -> bool:
        """Close the medium of a retired link; False: a thread waits on it."""
        if getrefcount(self.guard) > _ALONE:
            return False
        self.channel.close()
        return True


def _alone() -> int:
    link = Link.__new__(Link)
    link.guard = object()
    return getrefcount(link.guard)


_ALONE = _alone()
"""References that a guard has when only its link refers to it, asked like this."""
