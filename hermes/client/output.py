"""The way out for a medium that native code cannot write to: what a Flusher does, in Python.

Has the shape of :class:`hermes.native.outbox.Flusher` without its thread.
"""

from __future__ import annotations

import time
from collections import deque

from hermes.errors import ConnectionLost, UsageError
from hermes.native.outbox import CLOSED, SYSTEM, Outbox
from hermes.spi.transport import Channel

SENT, BLOCKED = 1, 0


class ChannelOutput:
    """Writes control frames and the batches of outboxes to a channel.  One thread at a time."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._batch_max = 0
        self._outboxes: dict[Outbox, bool] = {}  # whether it is paused
        self._control: deque[memoryview] = deque()
        self._writing: Outbox | None = None
        self._left: list[memoryview] = []  # of the batch under way
        self._halfway = False  # a call is writing, or was interrupted while it did
        self.error: str | None = None

    def attach_channel(self, channel: Channel, batch_max: int) -> None:
        """Write to ``channel`` from now on."""
        self._channel, self._batch_max, self.error = channel, batch_max, None
        self._halfway = False

    def detach(self) -> None:
        """Stop writing; every outbox waits for :meth:`resume`."""
        for outbox in self._outboxes:  # of any: an interrupt may have come before it was noted
            outbox.abandon()
        if self._writing is not None:
            self._writing.abandon()
        self._channel, self._writing = None, None
        self._left.clear()
        self._control.clear()
        self._outboxes = dict.fromkeys(self._outboxes, True)

    def add(self, outbox: Outbox, linger_ns: int) -> None:
        """Write the batches of ``outbox``.

        Raises:
            UsageError: it is to linger, for which there is no thread here.
        """
        if linger_ns:
            raise UsageError(
                "a publisher cannot linger on this transport, which native code cannot write to: "
                "leave linger out, and use send_many for messages that come together"
            )
        self._outboxes[outbox] = self._channel is None

    def remove(self, outbox: Outbox) -> None:
        """Write no more of ``outbox``; a batch begun is finished from a copy."""
        self._outboxes.pop(outbox, None)
        if self._writing is outbox:
            self._left = [memoryview(bytes(view)) for view in self._left]
            self._writing = None
            outbox.abandon()

    def pause(self, outbox: Outbox) -> None:
        """Begin no more batches of ``outbox`` until :meth:`resume`."""
        self._outboxes[outbox] = True

    def resume(self, outbox: Outbox) -> bool:
        """Send ``outbox`` (again) behind its last acknowledged message; False: drain first."""
        if self._writing is outbox:
            return False
        outbox.rewind()
        self._outboxes[outbox] = False
        return True

    def write(self, frames: bytes) -> int:
        """Queue control frames to go out before the next batch, and drain."""
        if self._channel is None:
            return CLOSED
        self._control.append(memoryview(frames))
        return self.drain()

    def drain(self) -> int:
        """Write what can be written now.  1: all of it; 0: the medium has no room; -HM_E*."""
        if self._channel is None:
            return CLOSED
        if self._halfway:
            self.error = "a call was interrupted while it sent"
            return SYSTEM
        self._halfway = True
        done = SENT
        try:
            while self._next():
                if not self._push(self._channel):
                    done = BLOCKED
                    break
        except ConnectionLost as error:
            self.error = str(error)
            done = SYSTEM
        self._halfway = False
        return done

    def close(self) -> None:
        """Let go of everything.  Idempotent."""
        self.detach()
        self._outboxes.clear()

    def _next(self) -> bool:
        if self._left:
            return True
        if self._writing is not None:
            self._writing.sent()
            self._writing = None
        if self._control:
            self._left = [self._control.popleft()]
            return True
        for outbox, paused in self._outboxes.items():
            batch = None if paused else outbox.batch(self._batch_max, time.time_ns())
            if batch is not None:
                self._writing = outbox
                self._left = [memoryview(batch[0]), batch[1]]
                return True
        return False

    def _push(self, channel: Channel) -> bool:
        taken = channel.send(self._left)
        if taken == 0:
            return False
        while self._left and taken >= self._left[0].nbytes:
            taken -= self._left.pop(0).nbytes
        if taken:
            self._left[0] = self._left[0][taken:]
        return True
