"""The process that looks into plugins: forks one for each, and imports none itself.

``main`` is what :mod:`hermes.cli.examination` runs in a process of its own, which has imported once
all that every look needs; :mod:`hermes.cli.plugin_facts` is what a forked process runs.  It has one
thread, so that a fork is safe, and knows nothing of what the answers mean.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

AT_ONCE = 4
"""Processes at a time: more would only be in each other's way."""
CHUNK = 65536
"""Bytes of one read."""
DESCRIPTORS_MAX = 1 << 20
"""Above any limit of open descriptors that a system has."""
STDOUT, STDERR = 1, 2
USED = ("hermes.cli.plugins_reference", "hermes.native", "hermes.net.tcp")
"""Modules of Hermes that most plugins import, or that look into them."""


@dataclass
class Look:
    """A process that looks into one plugin."""

    number: int
    pid: int
    deadline_s: float
    output: dict[int, bytearray] = field(default_factory=dict)
    """Bytes written so far, by the descriptor that is read: stdout first, then stderr."""
    is_open: set[int] = field(default_factory=set)

    def answer(self, *, late: bool) -> dict[str, Any]:
        """End it, with all that it has started, and return what it wrote and how it ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # it may not have a group of its own yet
        _, status = os.waitpid(self.pid, 0)
        for descriptor in self.output:
            os.close(descriptor)
        written, complaints = (one.decode(errors="replace") for one in self.output.values())
        return {
            "late": late,
            "output": written,
            "errors": complaints,
            "code": os.waitstatus_to_exitcode(status),
        }


class Examiner:
    """Looks into plugins, some at a time; ``run`` returns twice, as a fork does."""

    def __init__(self, plugins: Sequence[Sequence[str]], deadline_s: float) -> None:
        self._plugins = plugins
        self._deadline_s = deadline_s
        self._running: list[Look] = []
        self._answers: dict[int, dict[str, Any]] = {}

    def run(self) -> list[dict[str, Any]] | None:
        """One answer for each plugin, in order; None in a forked process, which is to look into the
        plugin that ``sys.argv`` now names."""
        try:
            for number, plugin in enumerate(self._plugins):
                while len(self._running) >= AT_ONCE:
                    self._step()
                if not self._begin(number):
                    self._running.clear()
                    sys.argv[1:] = plugin
                    return None
            while self._running:
                self._step()
        finally:
            for look in self._running:
                look.answer(late=True)
        return [self._answers[number] for number in range(len(self._plugins))]

    def _begin(self, number: int) -> bool:
        """Fork for a plugin; False in the forked process."""
        pipes = [os.pipe(), os.pipe()]
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            for descriptor, (_, writing) in zip((STDOUT, STDERR), pipes, strict=True):
                os.dup2(writing, descriptor)
            os.closerange(STDERR + 1, DESCRIPTORS_MAX)
            return False
        look = Look(number, pid, time.monotonic() + self._deadline_s)
        for reading, writing in pipes:
            os.close(writing)
            look.output[reading] = bytearray()
            look.is_open.add(reading)
        self._running.append(look)
        return True

    def _step(self) -> None:
        """Wait until something is written, ends or is late, and note it."""
        poll = select.poll()
        for look in self._running:
            for descriptor in look.is_open:
                poll.register(descriptor, select.POLLIN)
        rest_s = min(look.deadline_s for look in self._running) - time.monotonic()
        ready = {descriptor for descriptor, _ in poll.poll(max(0, rest_s) * 1000)}
        for look in tuple(self._running):
            for descriptor in ready & look.is_open:
                more = os.read(descriptor, CHUNK)
                look.output[descriptor] += more
                if not more:
                    look.is_open.discard(descriptor)
            late = time.monotonic() >= look.deadline_s
            if late or not look.is_open:
                self._answers[look.number] = look.answer(late=bool(look.is_open))
                self._running.remove(look)


def main() -> None:
    """Look into the plugins that ``sys.argv`` names, and write the answers to stdout as JSON."""
    from hermes.cli import plugin_facts
    from hermes.plugins.discovery import default_plugins

    for name in USED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a process that looks would copy every page
    default_plugins().listing()  # of metadata: no plugin is imported
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    request = json.loads(sys.argv[1])
    answers = Examiner(request["plugins"], request["deadline_s"]).run()
    if answers is None:
        plugin_facts.main()
    else:
        sys.stdout.write(json.dumps(answers) + "\n")
