"""Work that blocks, done in a thread of its own while an event loop goes on.

Dialling is such work: names are looked up, and a transport's ``dial`` is a call that waits.  A thread
lives as long as its one call, and is a daemon: a program that ends does not wait for a broker that does
not answer.  The loop's executor is the program's, and may be busy for as long as the program likes.
"""

from __future__ import annotations

import contextlib
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Generic, TypeVar

from hermes.errors import ConnectFailed, HermesError

T = TypeVar("T")


class Errand(Generic[T]):
    """One call of ``work`` in a thread.  Its result is taken once, or discarded: also if the loop is
    closed between the two."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        work: Callable[[], T],
        done: Callable[[Errand[T]], object],
        discard: Callable[[T], object],
    ) -> None:
        """``done`` is called in ``loop`` when :meth:`take` may be."""
        self._loop = loop
        self._work = work
        self._done = done
        self._discard = discard
        self._results: list[T] = []
        self._problem: HermesError | None = None
        self._abandoned = False
        try:
            threading.Thread(target=self._run, name="hermes-dial", daemon=True).start()
        except RuntimeError as error:  # the program is ending, or has too many threads
            self._problem = ConnectFailed(f"no thread to dial in: {error}")
            loop.call_soon(done, self)

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except HermesError as error:
            self._problem = error
        except Exception as error:  # a transport's own mistake
            self._problem = ConnectFailed(f"dialling failed: {error!r}")
            self._problem.__cause__ = error
        try:
            self._loop.call_soon_threadsafe(self._done, self)
        except RuntimeError:  # the loop is closed
            self._abandoned = True
        if self._abandoned:
            self.abandon()

    def take(self) -> T:
        """Return the result of ``work``.

        Raises:
            HermesError: ``work`` did.
        """
        if self._problem is not None:
            raise self._problem
        return self._results.pop()

    def abandon(self) -> None:
        """Nobody takes the result any more; any thread may say so."""
        self._abandoned = True
        with contextlib.suppress(IndexError):  # it was taken, or comes later
            self._discard(self._results.pop())

    @property
    def abandoned(self) -> bool:
        """Whether nobody takes the result any more."""
        return self._abandoned


async def apart(
    loop: AbstractEventLoop, work: Callable[[], T], discard: Callable[[T], object]
) -> T:
    """Call ``work`` in a thread and return its result, which ``discard`` gets if nobody waits any more."""
    waiting = loop.create_future()

    def done(_errand: Errand[T]) -> None:
        if not waiting.done():
            waiting.set_result(None)

    errand = Errand(loop, work, done, discard)
    try:
        await waiting
    except BaseException:
        errand.abandon()
        raise
    return errand.take()
