"""Checks of registration in every kit; each kit has a group of that name."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hermes.plugins.discovery import default_plugins
from hermes.spi.url import parse_url
from hermes.testing.contract import BaseContract, Subject
from hermes.testing.resources import own_time_ns

TRIES = 3
"""Imports measured until one is fast enough: the machine may be busy."""
PROBE_MAX_S = 1.0
"""How long a probe may take: `hermes plugins` probes them all."""
IMPORT_DEADLINE_S = 60

IMPORT = """
import importlib, json, sys
import hermes.spi.hooks, hermes.plugins, hermes.net.sockets
from hermes.testing.peers import load
from hermes.testing.resources import Held, own_time_ns
kit, name, file = sys.argv[1:]
if file:
    importlib.import_module(f"hermes.testing.{kit}")
before = Held.now()
begun = own_time_ns()
if file:
    load(name, file)
else:
    importlib.import_module(name)
seconds = (own_time_ns() - begun) / 1e9
after = Held.now()
print(json.dumps([seconds, after.descriptors - before.descriptors, after.threads - before.threads]))
"""
"""Imports a module, by name or from a file, in a process of its own; prints what that cost."""


class BaseRegistration(BaseContract[Subject]):
    """The plugin as the environment sees it."""

    def test_it_is_registered_under_its_scheme(self) -> None:
        """An entry point has the scheme's name, and every one that it makes is new."""
        scheme = parse_url(self.url).scheme
        if self.factory is None:
            names = default_plugins().names(self.kit)
            group = f"hermes.{self.kit}s"
            assert scheme in names, f"the group {group} has no {scheme!r}, only {names}"

        assert self.make() is not self.make(), f"the factory has to make a new {self.kit} each time"

    def test_the_probe_is_fast_and_finds_no_obstacle(self) -> None:
        """None, well within a second: the kit runs where the plugin works."""
        made: Any = self.make()
        begun = own_time_ns()
        obstacle = made.probe()

        took = (own_time_ns() - begun) / 1e9
        assert obstacle is None, f"probe() says that it cannot work here: {obstacle}"
        assert took < PROBE_MAX_S, "probe() is to be fast and touch no network"

    def test_the_import_has_no_side_effects(self, tmp_path: Path) -> None:
        """Importing it opens no descriptor, starts no thread and writes no file."""
        _, descriptors, threads = self._import(tmp_path)

        assert descriptors == 0, f"the import left {descriptors} descriptors open"
        assert threads == 0, f"the import started {threads} threads"
        written = [str(path) for path in tmp_path.rglob("*")]
        assert not written, f"the import wrote {written}"

    def test_the_import_is_fast(
        self, tmp_path: Path, record_property: Callable[[str, Any], None]
    ) -> None:
        """Importing it costs little beyond what Hermes has imported already."""
        took_ms = float("inf")
        for _ in range(TRIES):
            if took_ms >= self.import_max_ms:
                took_ms = min(took_ms, self._import(tmp_path)[0] * 1e3)
        record_property("import_ms", round(took_ms, 2))

        assert took_ms < self.import_max_ms, (
            f"the import took {took_ms:.0f} ms, allowed are {self.import_max_ms:g} ms: import in "
            f"the factory what only a {self.kit} in use needs"
        )

    def _import(self, place: Path) -> tuple[float, int, int]:
        """Import the plugin's module in a child whose every usual place is ``place``.

        Returns seconds, descriptors left open, and threads started.
        """
        name, file = self._module()
        environment = os.environ | dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(place))
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", IMPORT, self.kit, name, file],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=IMPORT_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{name} cannot be imported:\n{done.stderr}"
        seconds, descriptors, threads = json.loads(done.stdout.splitlines()[-1])
        return seconds, descriptors, threads

    def _module(self) -> tuple[str, str]:
        """Module to import: the entry point's by name, or else the factory's file."""
        scheme = parse_url(self.url).scheme
        if self.factory is None:
            for plugin in default_plugins().listing():
                if (plugin.kind, plugin.name) == (self.kit, scheme):
                    return plugin.module, ""
        kind = type(self.make())
        return kind.__module__, inspect.getfile(kind)
