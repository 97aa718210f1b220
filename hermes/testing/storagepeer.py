"""A process that uses a storage, to be killed by the test that started it.

See :mod:`hermes.testing.peers`.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from hermes.errors import StorageFailed, StorageFull
from hermes.spi.storage import StorageBackend
from hermes.spi.url import Url
from hermes.testing import peers
from hermes.testing.peers import LIFE_S, say
from hermes.testing.scribe import SETTINGS, Scribe, sync

if TYPE_CHECKING:
    from hermes.testing.storage.contract import Contract, Ground

DEADLINE_S = 30.0
STATE_SIZE = 100_000
PUBLISHER = b"kit-publisher-01"
SIZES = [0, 1, 100, 33, 3000, 500, 12_000]
"""Payloads that are appended, over and over: some rolls of the segment among them."""
FILE_LIMIT = 2 << 10
"""Bytes that no file of the limited role may exceed, after a while: less than one append, so that a
storage of one file per append meets the limit too."""
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


def save_limited(backend: StorageBackend, url: Url, argument: str) -> None:
    """Save a state that no file may hold any more; say whether it was refused."""
    storage = backend.open(url)
    storage.save_state("positions", state_of(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
    try:
        storage.save_state("positions", state_of(2))
    except (StorageFull, StorageFailed) as error:
        say(f"refused {type(error).__name__}: {error}")
        return
    say("saved")


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


class Peer(peers.Peer):
    """Such a process, seen from the test."""

    def __init__(self, contract: Contract, ground: Ground, role: str, argument: str = "") -> None:
        super().__init__(__name__, contract, role, ground.url(), argument)

    def last_number(self, otherwise: int = 0) -> int:
        """Kill it; returns the last number it has said."""
        self.kill()
        while said := self.line():
            otherwise = int(said)
        return otherwise


if __name__ == "__main__":
    peers.play(
        "storage",
        {"hold": hold, "save": save, "write": write, "limited": limited}
        | {"save_limited": save_limited},
    )
