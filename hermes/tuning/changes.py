"""Applying changes and taking them back: what was there before is written down first.

The notes live below ``/run``: they are gone after a restart of the machine, and so are the
settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from hermes.errors import InvalidConfig
from hermes.tuning.machine import Change, Machine

STATE_FILE = Path("/run/hermes-tune.json")
"""File of the notes unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a change."""

    change: Change
    result: Literal["done", "refused", "changed since", "already so"]
    detail: str = ""


class Store:
    """The notes: for each setting that was changed, what it was before the first change."""

    def __init__(self, path: Path = STATE_FILE) -> None:
        self.path = path

    def load(self) -> dict[str, Change]:
        """By path; empty if nothing was changed.

        Raises:
            InvalidConfig: the file is none of ours.
        """
        if self.path.exists() and not self.path.is_file():
            raise InvalidConfig(f"{self.path} is no file: name another with --state")
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            changes = msgspec.json.decode(data, type=list[Change])
        except msgspec.DecodeError as error:
            raise InvalidConfig(
                f"{self.path} is not what hermes tune wrote: {error}; move it away, or name "
                "another with --state"
            ) from error
        return {change.path: change for change in changes}

    def save(self, changes: dict[str, Change]) -> None:
        """Replace the notes, or remove them if there is nothing to note."""
        if not changes:
            self.path.unlink(missing_ok=True)
            return
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_bytes(msgspec.json.encode(list(changes.values())))
        temporary.replace(self.path)


def apply(machine: Machine, changes: Iterable[Change], store: Store) -> list[Outcome]:
    """Make each change; one that is refused does not stop the others.

    Raises:
        OSError: the notes cannot be written; nothing was changed then.
    """
    noted = store.load()
    outcomes = []
    for change in changes:
        first = noted.get(change.path)
        before = change.before if first is None else first.before
        store.save({**noted, change.path: Change(change.path, before, change.after)})
        outcome = _set(machine, change)
        if outcome.result == "done":
            noted[change.path] = Change(change.path, before, change.after)
        else:
            store.save(noted)
        outcomes.append(outcome)
    return outcomes


def revert(machine: Machine, store: Store) -> list[Outcome]:
    """Set everything as it was; what somebody else has changed since stays as it is.

    Raises:
        OSError: the notes cannot be written.
    """
    noted = store.load()
    outcomes = []
    for change in list(noted.values()):
        now = _value(machine, change.path)
        back = Change(change.path, change.after, change.before)
        if now == change.before:
            outcomes.append(Outcome(back, "already so"))
        elif now != change.after:
            outcomes.append(Outcome(back, "changed since", f"it is {now} now"))
        else:
            outcomes.append(_set(machine, back))
        if outcomes[-1].result != "refused":
            del noted[change.path]
            store.save(noted)
    return outcomes


def _set(machine: Machine, change: Change) -> Outcome:
    try:
        machine.write(change.path, change.after)
    except OSError as error:
        return Outcome(change, "refused", error.strerror or str(error))
    now = _value(machine, change.path)
    if now != change.after:
        return Outcome(change, "refused", f"the kernel left it at {now}")
    return Outcome(change, "done")


def _value(machine: Machine, path: str) -> str | None:
    """A setting's value, of those that list all they could be the one in force."""
    return machine.chosen(path) or machine.read(path)
