"""Processes of a test's own, to be killed by the test that started them: what all kits share.

``python -m hermes.testing.KIT_PEER ROLE URL ARGUMENT [FILE CLASS]``, where FILE and CLASS name a
subject that is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from hermes.spi.url import Url, parse_url

if TYPE_CHECKING:
    from hermes.testing.contract import BaseContract

LIFE_S = 120.0
"""How long such a process lives if nobody kills it."""


def load(name: str, file: str) -> ModuleType:
    """Import a module from its file."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and structs look there
    spec.loader.exec_module(module)
    return module


def make(kit: str, url: Url, where: list[str]) -> Any:
    """The subject for ``url``: installed, or a class of a file."""
    if not where:
        from hermes.plugins.discovery import default_plugins

        return getattr(default_plugins(), kit)(url.scheme)
    file, name = where
    found: Any = load(Path(file).stem, file)
    for part in name.split("."):
        found = getattr(found, part)
    return found()


def play(kit: str, roles: Mapping[str, Callable[[Any, Url, str], None]]) -> None:
    """Be such a process, as the command line says."""
    role, text, argument, *where = sys.argv[1:]
    url = parse_url(text)
    roles[role](make(kit, url, where), url, argument)


def say(line: str) -> None:
    """Write a line for the parent process; written when it returns."""
    os.write(1, line.encode() + b"\n")


class Peer:
    """Such a process, seen from the test: a context manager that ends it."""

    def __init__(
        self, module: str, contract: BaseContract[Any], role: str, url: Url, argument: str = ""
    ) -> None:
        self._deadline_s = contract.deadline_s
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, role, str(url), argument, *contract.where()],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._rest = b""

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def line(self) -> str:
        """The next line that it says; empty when it has ended."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._output], [], [], self._deadline_s)
            assert ready, "the process says nothing"
            more = os.read(self._output, 65536)
            if not more:
                return ""
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def expect(self, line: str) -> None:
        """Assert that the process writes ``line`` next."""
        said = self.line()
        assert said == line, f"the process said {said!r} instead of {line!r}"

    def ended(self) -> int:
        """The status it ends with by itself."""
        try:
            return self._process.wait(self._deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError("the process does not end") from None

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self._process.kill()
        self._process.wait(self._deadline_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
