"""One thread of a process that looks after its idle clients.

Bytes move inside the calls of a program.  A program that calls nothing would not notice that its
broker has gone, and what its last call left to a dead connection would wait for the next call.  The
keeper looks at each client four times a second: it takes what has arrived, sends what waits, and
connects again.  Knows nothing of connections but that they can be looked after.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from typing import Protocol

from hermes.errors import HermesError
from hermes.native.api import Lock

LOG = logging.getLogger("hermes.client")
_NEVER: contextlib.nullcontext[None] = contextlib.nullcontext()
"""In the place of no hold, which cannot be: it is waited for without a limit."""

LOOK_S = 0.25
"""Seconds between two looks: a broker that is gone is noticed within a second, and the looks cost a
process less than a thousandth of a processor."""
SHARE = 20
"""The keeper sleeps this many times as long as its looks kept a processor busy: with thousands of
clients it takes a twentieth of one at most.  Time that it waited, for one broker's answer, is none
that others' clients go without a look for."""
ENDING_S = 1.0
"""Seconds the last client waits for the thread to end."""


class Kept(Protocol):
    """A client's connection, as its keeper sees it."""

    @property
    def over(self) -> bool:
        """Whether there is nothing to look after any more."""

    def look_after(self) -> None:
        """Do without waiting what a call of the program would do; return if another thread is at it."""


class Keeper:
    """The thread; it lives as long as there is a client that is not closed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """This is a forked child: the thread, and what it looked after, are the parent's."""
        self._guard = Lock()  # held again where a client is collected meanwhile
        self._kept: weakref.WeakSet[Kept] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()

    def add(self, kept: Kept) -> None:
        """Look after ``kept`` from now on."""
        with self._guard.hold(-1, True) or _NEVER:
            self._kept.add(kept)
            if self._thread is not None:
                return
            wake = self._wake = threading.Event()
            thread = threading.Thread(
                target=self._run, args=(wake,), name="hermes-keeper", daemon=True
            )
            with contextlib.suppress(
                RuntimeError
            ):  # the program is ending, or has too many threads
                thread.start()
                self._thread = thread

    def remove(self, kept: Kept) -> None:
        """Do not look after ``kept`` any more; the thread ends with the last."""
        with self._guard.hold(-1, True) or _NEVER:
            self._kept.discard(kept)
            if len(self._kept):
                return
            thread, self._thread = self._thread, None
            self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(ENDING_S)

    def _run(self, wake: threading.Event) -> None:
        pause = LOOK_S
        while self._wake is wake and not wake.wait(
            pause
        ):  # else an interrupted call left it behind
            begun = time.thread_time()
            with self._guard.hold(-1, True) or _NEVER:
                clients = [weakref.ref(one) for one in self._kept]
            for reference in clients:
                kept = reference()
                if kept is not None and not wake.is_set():
                    self._look_after(kept)
                del kept  # what nobody else refers to is not kept alive for long
            pause = max(LOOK_S, SHARE * (time.thread_time() - begun))

    def _look_after(self, kept: Kept) -> None:
        if kept.over:
            return
        with contextlib.suppress(HermesError):  # kept, and raised by the program's next call
            try:
                kept.look_after()
            except HermesError:
                raise
            except Exception:
                LOG.exception("looking after %r failed", kept)


KEEPER = Keeper()
"""The keeper of this process."""
