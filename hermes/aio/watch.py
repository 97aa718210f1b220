"""How an event loop learns that a channel has something to read, or room.

A stream socket is the loop's to watch; another channel may have a descriptor for that
(:class:`hermes.spi.transport.WatchedChannel`); any other is looked at by the clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop, Handle
from collections.abc import Callable

from hermes.spi.transport import Channel, watch_fd_of

LOOK_S = 0.001
"""Seconds between two looks at a channel without a descriptor: as a broker's loop looks at an agent."""


class LoopWatch(ABC):
    """Calls ``event`` in ``loop`` when its channel can be read, or has the room that was asked for."""

    asks = False
    """Whether :meth:`rest` has to be called after each event."""

    def __init__(
        self, loop: AbstractEventLoop, channel: Channel, event: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._event = event

    @abstractmethod
    def rest(self, blocked: bool) -> None:
        """There is nothing to do but to wait; ``blocked``: for room, too."""

    @abstractmethod
    def close(self) -> None:
        """Watch no more; before the channel is closed."""


class StreamWatch(LoopWatch):
    """Watches a stream socket."""

    def __init__(
        self, loop: AbstractEventLoop, channel: Channel, event: Callable[[], object], fd: int
    ) -> None:
        super().__init__(loop, channel, event)
        self._fd = fd
        self._writing = False
        loop.add_reader(fd, event)

    def rest(self, blocked: bool) -> None:
        if blocked == self._writing:
            return
        self._writing = blocked
        if blocked:
            self._loop.add_writer(self._fd, self._event)
        else:
            self._loop.remove_writer(self._fd)

    def close(self) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)


class AskingWatch(LoopWatch):
    """Asks a channel before it rests, and is called again at once if there is something."""

    asks = True

    def __init__(
        self, loop: AbstractEventLoop, channel: Channel, event: Callable[[], object]
    ) -> None:
        super().__init__(loop, channel, event)
        self._handle: Handle | None = None

    def rest(self, blocked: bool) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._channel.wait(readable=True, writable=blocked, timeout_ns=0):
            self._handle = self._loop.call_soon(self._event)
        else:
            self._sleep()

    def _sleep(self) -> None:
        """Nothing is there: have the loop look again."""
        self._handle = self._loop.call_later(LOOK_S, self._event)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class NewsWatch(AskingWatch):
    """Watches a channel by its ``watch_fd``."""

    def __init__(
        self, loop: AbstractEventLoop, channel: Channel, event: Callable[[], object], fd: int
    ) -> None:
        super().__init__(loop, channel, event)
        self._fd = fd
        loop.add_reader(fd, event)

    def _sleep(self) -> None:
        """The descriptor wakes the loop."""

    def close(self) -> None:
        super().close()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)


def watch(loop: AbstractEventLoop, channel: Channel, event: Callable[[], object]) -> LoopWatch:
    """Have ``event`` called in ``loop``, from the first :meth:`LoopWatch.rest` on at the latest.

    Raises:
        OSError: the loop cannot watch the descriptor.
    """
    fd = channel.stream_fd
    if fd is not None:
        return StreamWatch(loop, channel, event, fd)
    news = watch_fd_of(channel)
    if news is not None:
        return NewsWatch(loop, channel, event, news)
    return AskingWatch(loop, channel, event)
