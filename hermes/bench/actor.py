"""``python -m hermes.bench.actor MODULE:ATTRIBUTE``: a process in which users of a system live.

It is told what to do in lines of JSON on stdin, and answers each with one on stdout:

    {"do": "prepare", "where": ..., "parts": [...]}   connects; answers when all are waiting
    {"do": "play", ...}                               one pass; answers with what the parts report
    {"do": "finish"}                                  disconnects
    {"do": "serve", ...}                              has a broker in this process, if the driver can

An answer with ``error`` is the last.  Several parts in one process have a thread each.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from hermes.base.platform import follow_parent


class Part(Protocol):
    """A user, connected and waiting; see :class:`hermes.bench.parts.UserPart`."""

    def play(self, task: dict[str, Any]) -> dict[str, Any]:
        """One pass."""

    def close(self) -> None:
        """Disconnect."""


def found(reference: str) -> Any:
    """Return the object that ``module:attribute`` names."""
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


class Actor:
    """The parts of this process."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._parts: list[Part] = []

    def prepare(self, where: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, Any]:
        """Make the parts."""
        from hermes.bench.parts import UserPart

        make: Callable[..., Part] = getattr(self._driver, "part", None) or (
            lambda where, part: UserPart(self._driver, where, part)
        )
        self.finish()
        for part in parts:
            self._parts.append(make(where, part))
        return {}

    def play(self, **task: Any) -> dict[str, Any]:
        """One pass of each."""
        if len(self._parts) == 1:
            return {"reports": [self._parts[0].play(task)]}
        reports: list[dict[str, Any]] = [{} for _ in self._parts]
        errors: list[BaseException] = []

        def run(number: int) -> None:
            try:
                reports[number] = self._parts[number].play(task)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(self._parts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return {"reports": reports}

    def finish(self) -> dict[str, Any]:
        """Disconnect, who sends first."""
        while self._parts:
            self._parts.pop().close()
        return {}

    def serve(self, **what: Any) -> dict[str, Any]:
        """Have a broker in this process."""
        return {"where": self._driver.serve_here(**what)}

    def follow(self) -> None:
        """Do what stdin says, until it ends."""
        for line in sys.stdin:
            order = json.loads(line)
            try:
                answer = getattr(self, order.pop("do"))(**order)
            except Exception as error:
                say({"error": f"{type(error).__name__}: {error}"})
                raise
            say(answer)


def say(answer: dict[str, Any]) -> None:
    """Write one line for the process that started this one."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(reference: str) -> None:
    """Follow orders."""
    follow_parent()
    actor = Actor(found(reference))
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        actor.follow()
        actor.finish()


if __name__ == "__main__":
    main(sys.argv[1])
