"""A process that uses a storage, to be killed by the test that started it.

``python -m hermes.testing.storagepeer ROLE URL ARGUMENT [FILE CLASS]``, where ROLE is one of
:data:`ROLES` and FILE and CLASS name a backend that is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hermes.errors import StorageFailed, StorageFull
from hermes.storage import StorageBackend
from hermes.testing.scribe import SETTINGS, Scribe, sync
from hermes.url import Url, parse_url

if TYPE_CHECKING:
    from hermes.testing.storage.contract import Contract, Ground

LIFE_S = 120.0
"""How long it lives if nobody kills it."""
DEADLINE_S = 30.0
STATE_SIZE = 100_000
PUBLISHER = b"kit-publisher-01"
SIZES = [0, 1, 100, 33, 3000, 500, 12_000]
"""Payloads that are appended, over and over: some rolls of the segment among them."""
FILE_LIMIT = 32 << 10
"""Bytes that no file of the limited role may exceed, after a while."""
LIMITED_MESSAGES = 1000
"""Messages of the limited role: 4 MB, of which it may not write all."""
LIMITED_FROM = 100
"""So many are written before the limit holds."""


def sizes_of(number: int) -> list[int]:
    """The payloads of append ``number``."""
    return [SIZES[(number + i) % len(SIZES)] for i in range(1 + number % 3)]


def state_of(number: int) -> bytes:
    """State ``number``."""
    return number.to_bytes(8, "little") + bytes([number % 251]) * (STATE_SIZE - 8)


def hold(backend: StorageBackend, url: Url, argument: str) -> None:
    """Open the place and keep it."""
    storage = backend.open(url)
    say("ready")
    time.sleep(LIFE_S)
    storage.close()


def save(backend: StorageBackend, url: Url, argument: str) -> None:
    """Save one state after the other, and say each that is saved."""
    storage = backend.open(url)
    for number in range(int(argument) + 1, 1 << 30):
        storage.save_state("positions", state_of(number))
        say(str(number))


def write(backend: StorageBackend, url: Url, argument: str) -> None:
    """Append, and say the last sequence that the log has; with ``durable``, that is synced."""
    storage = backend.open(url)
    scribe = Scribe(storage.open_stream("kit", SETTINGS, None), DEADLINE_S)
    scribe.publishers[PUBLISHER] = scribe.next_sequence - 1
    say("ready")
    for number in range(1 << 30):
        scribe.append(sizes_of(number), publisher=PUBLISHER)
        if argument == "durable":
            sync(scribe.log, scribe.next_sequence - 1, DEADLINE_S)
        say(str(scribe.next_sequence - 1))


def limited(backend: StorageBackend, url: Url, argument: str) -> None:
    """Append until a file would grow larger than the process may make one; say how it was refused,
    if what is there can be read all the same."""
    storage = backend.open(url)
    log = storage.open_stream("kit", SETTINGS, None)
    scribe = Scribe(log, DEADLINE_S)
    try:
        for number in range(LIMITED_MESSAGES):
            if number == LIMITED_FROM:
                resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
            scribe.append([4000])
            say(str(scribe.next_sequence - 1))
    except (StorageFull, StorageFailed) as error:
        del scribe.messages[scribe.next_sequence - 1 :]
        scribe.check()
        say(f"refused {type(error).__name__}: {error}")
        return
    say("never refused")


ROLES: dict[str, Callable[[StorageBackend, Url, str], None]] = {
    "hold": hold,
    "save": save,
    "write": write,
    "limited": limited,
}


def say(line: str) -> None:
    """Tell whoever started us: written when it returns."""
    os.write(1, line.encode() + b"\n")


def make(url: Url, where: list[str]) -> StorageBackend:
    """The backend for ``url``: installed, or a class of a file."""
    if not where:
        from hermes.plugins import default_plugins

        return default_plugins().storage(url.scheme)
    file, name = where
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and structs look there
    spec.loader.exec_module(module)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    made: StorageBackend = found()
    return made


class Peer:
    """Such a process, seen from the test: a context manager that ends it."""

    def __init__(self, contract: Contract, ground: Ground, role: str, argument: str = "") -> None:
        self._deadline_s = contract.deadline_s
        command = [sys.executable, "-m", __name__, role, str(ground.url()), argument]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [*command, *contract.where()], stdout=subprocess.PIPE, env=environment
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
        """It says ``line``."""
        said = self.line()
        assert said == line, f"the process said {said!r} instead of {line!r}"

    def kill(self, last: int = 0) -> int:
        """End it as ``kill -9`` does; returns the last number it has said, ``last`` if none."""
        self._process.kill()
        self._process.wait(self._deadline_s)
        while said := self.line():
            last = int(said)
        return last

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


def main(arguments: list[str]) -> None:
    """See the module."""
    role, text, argument, *where = arguments
    url = parse_url(text)
    ROLES[role](make(url, where), url, argument)


if __name__ == "__main__":
    main(sys.argv[1:])
