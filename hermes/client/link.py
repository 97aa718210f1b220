"""One connection of a client: the channel, what is read from it and the way out.

Knows frames and events only through the session; waits, but takes no lock.
"""

from __future__ import annotations

from hermes.client.inbox import Inbox
from hermes.client.output import ChannelOutput
from hermes.errors import ConnectionLost, WouldBlock
from hermes.native.api import Source
from hermes.native.outbox import EMPTY, Flusher
from hermes.transport import Channel, ReadingChannel, medium_of

BATCH_MAX = 1 << 20
"""Bytes of frames in a batch we send, unless one message alone is larger: every broker takes that,
because its limit is the message limit plus this."""

Output = Flusher | ChannelOutput


class Link:
    """A live connection.  ``users`` counts threads that wait on its medium outside the lock: it is
    closed when the last of them is back."""

    __slots__ = ("_doomed", "_reading", "_source", "channel", "inbox", "output", "users")

    def __init__(self, channel: Channel, inbox: Inbox, output: Output) -> None:
        self.channel = channel
        self.inbox = inbox
        self.output = output
        self.users = 0
        self._doomed = False
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

    def receive(self, spin_ns: int, timeout_ns: int) -> int:
        """Read what is there, waiting for it; how many bytes, 0 at the end, EMPTY if none came.

        Raises:
            ConnectionLost: the medium is gone.
        """
        inbox = self.inbox
        if self._source is not None:
            try:
                return self._source.receive(inbox.buffer, inbox.end, spin_ns, timeout_ns)
            except OSError as error:
                text = f"the connection broke while receiving: {error.strerror}"
                raise ConnectionLost(text) from error
        if self._reading is not None:
            memory = inbox.address  # kept here, should another thread give the inbox a new one
            return self._reading.receive(memory + inbox.end, inbox.room, spin_ns, timeout_ns)
        view = memoryview(inbox.buffer)[inbox.end :]
        try:
            return self.channel.receive_into(view)
        except WouldBlock:
            pass
        if timeout_ns == 0 or not self.wait(readable=True, writable=False, timeout_ns=timeout_ns):
            return EMPTY
        try:
            return self.channel.receive_into(view)
        except WouldBlock:
            return EMPTY

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
        """Write no more; close the medium as soon as nobody waits on it."""
        self.output.detach()
        self._doomed = True
        self.leave(0)

    def leave(self, count: int = 1) -> None:
        """A thread is back from waiting."""
        self.users -= count
        if self._doomed and self.users == 0:
            self.channel.close()
