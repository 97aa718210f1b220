"""Registration: the plugin can be found, says what it is, and costs nothing until it is used."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hermes.plugins import default_plugins
from hermes.storage import API_VERSION, Capabilities, Storage, StorageBackend
from hermes.testing.storage.contract import Contract
from hermes.url import parse_url

TRIES = 3
"""Imports measured; the fastest counts, because the machine may be busy."""
PROBE_MAX_S = 1.0
"""How long a probe may take: `hermes plugins` probes them all."""
IMPORT_DEADLINE_S = 60

IMPORT = """
import importlib, importlib.util, json, os, sys, threading, time
import hermes.hookspecs, hermes.plugins
name, file = sys.argv[1:]
if file:
    import hermes.testing.storage
before = len(os.listdir("/proc/self/fd")), threading.active_count()
begun = time.perf_counter()
if file:
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
else:
    importlib.import_module(name)
seconds = time.perf_counter() - begun
after = len(os.listdir("/proc/self/fd")), threading.active_count()
print(json.dumps([seconds, after[0] - before[0], after[1] - before[1]]))
"""
"""Imports a module, by name or from a file, in a process of its own; prints what that cost."""


class RegistrationContract(Contract):
    """The storage as the environment sees it."""

    def test_it_has_the_shape_of_a_backend(self, backend: StorageBackend) -> None:
        """It has all of a StorageBackend, speaks this version of the interface, and says what it
        can."""
        assert isinstance(backend, StorageBackend), "it lacks something of StorageBackend"
        assert backend.api_version == API_VERSION
        assert isinstance(backend.capabilities, Capabilities)
        assert issubclass(backend.options, msgspec.Struct), "options is no msgspec struct"

    def test_it_is_registered_under_its_scheme(self) -> None:
        """An entry point has the scheme's name, and every backend it makes is a new one."""
        scheme = parse_url(self.url).scheme
        if self.factory is None:
            names = default_plugins().names("storage")
            assert scheme in names, f"the group hermes.storages has no {scheme!r}, only {names}"

        assert self.make() is not self.make(), "the factory has to make a new backend each time"

    def test_the_probe_is_fast_and_finds_no_obstacle(self, backend: StorageBackend) -> None:
        """None, well within a second: the kit runs where the storage works."""
        begun = time.monotonic()
        obstacle = backend.probe()

        assert obstacle is None, f"probe() says that it cannot work here: {obstacle}"
        assert time.monotonic() - begun < PROBE_MAX_S, "probe() is to be fast"

    def test_a_storage_says_what_the_backend_claims(
        self, backend: StorageBackend, storage: Storage
    ) -> None:
        """``durable`` is the same on both, and only what is durable is synced by itself."""
        assert storage.durable == backend.capabilities.durable
        if not storage.durable:
            assert storage.sync_interval_ns is None, "nothing is there to be synced"
        assert backend.capabilities.persistent or not backend.capabilities.durable

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
        took_ms = min(self._import(tmp_path)[0] for _ in range(TRIES)) * 1e3
        record_property("import_ms", round(took_ms, 2))

        assert took_ms < self.import_max_ms, (
            f"the import took {took_ms:.0f} ms, allowed are {self.import_max_ms:g} ms: import in "
            "the factory what only a storage in use needs"
        )

    def _import(self, place: Path) -> tuple[float, int, int]:
        """Import the plugin's module in a child whose every usual place is ``place``.

        Returns seconds, descriptors left open, and threads started.
        """
        name, file = self._module()
        environment = os.environ | dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(place))
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", IMPORT, name, file],
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
        """What to import: the entry point's module by name, or else the factory's file."""
        scheme = parse_url(self.url).scheme
        if self.factory is None:
            for plugin in default_plugins().listing():
                if (plugin.kind, plugin.name) == ("storage", scheme):
                    return plugin.module, ""
        module = inspect.getmodule(type(self.make()))
        assert module is not None
        assert module.__file__ is not None
        return module.__name__, module.__file__
