"""Work that blocks, done in a thread of its own while an event loop goes on.

Dialling is such work: names are looked up, and a transport's ``dial`` is a call that waits.  A thread
lives as long as its one call, and is a daemon: a program that ends does not wait for a broker that does
not answer.  The loop's executor is the program's, and may be busy for as long as the program likes.
"""

from __future__ import annotations

import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import TypeVar

from hermes.errors import ConnectFailed, HermesError

T = TypeVar("T")


def work_apart(
    loop: AbstractEventLoop,
    work: Callable[[], T],
    done: Callable[[T | None, HermesError | None], object],
    late: Callable[[T], object],
) -> None:
    """Call ``work`` in a thread, then ``done`` with what it returned or raised in ``loop``; ``late``
    with what it returned if the loop is closed by then."""

    def run() -> None:
        found: T | None = None
        problem: HermesError | None = None
        try:
            found = work()
        except HermesError as error:
            problem = error
        except Exception as error:  # a transport's own mistake
            problem = ConnectFailed(f"dialling failed: {error!r}")
            problem.__cause__ = error
        try:
            loop.call_soon_threadsafe(done, found, problem)
        except RuntimeError:  # the loop is closed
            if found is not None:
                late(found)

    try:
        threading.Thread(target=run, name="hermes-dial", daemon=True).start()
    except RuntimeError as error:  # the program is ending, or has too many threads
        loop.call_soon(done, None, ConnectFailed(f"no thread to dial in: {error}"))


async def apart(loop: AbstractEventLoop, work: Callable[[], T], late: Callable[[T], object]) -> T:
    """Call ``work`` in a thread and return its result, which ``late`` gets if nobody waits any more."""
    waiting = loop.create_future()

    def done(found: T | None, problem: HermesError | None) -> None:
        if waiting.cancelled():
            if found is not None:
                late(found)
        elif problem is not None:
            waiting.set_exception(problem)
        else:
            waiting.set_result(found)

    work_apart(loop, work, done, late)
    try:
        found: T = await waiting
    except BaseException:
        if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
            late(waiting.result())  # it came in the moment in which the task was cancelled
        raise
    return found
