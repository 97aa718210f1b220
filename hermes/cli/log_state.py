"""State beside the streams of a data directory, as ``hermes log`` looks at it: positions and epochs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hermes.native.verify import Verification

EPOCHS_SHOWN = 3
"""The newest epochs of a stream that are shown: a script has all."""


@dataclass(frozen=True, slots=True)
class StateProblem:
    """One thing that is wrong with state."""

    file: str
    text: str


def state_problems(directory: Path, logs: dict[str, Verification]) -> list[StateProblem]:
    """Return the damaged states of ``directory`` and of its streams, and the positions that lie beyond
    the end of a stream."""
    found = [
        StateProblem(str(path), text)
        for path in [
            *_files(directory / "state"),
            *(log.directory / "epochs" for log in logs.values()),
        ]
        if path.is_file() and (text := _damage(path))
    ]
    positions = directory / "state" / "positions"
    if positions.is_file() and not any(one.file == str(positions) for one in found):
        found += [StateProblem(str(positions), text) for text in _ahead(positions, logs)]
    return found


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if not path.name.startswith("."))


def _damage(path: Path) -> str | None:
    """Why the state at ``path`` is not what was saved; None: it is."""
    import msgspec

    from hermes.broker import checked
    from hermes.errors import StorageDamaged

    try:
        payload = checked.opened(
            path.read_bytes(), str(path.parent), path.name, "the state"
        ).payload
        msgspec.msgpack.decode(payload)
    except StorageDamaged:
        return "its checksum does not match"
    except msgspec.DecodeError as error:
        return str(error)
    return None


def _ahead(path: Path, logs: dict[str, Verification]) -> list[str]:
    from hermes.broker import checked
    from hermes.broker.positions import decode, farthest

    state = checked.opened(path.read_bytes(), str(path.parent), path.name, "the state")
    committed = farthest(decode(state.payload))
    ends = {name: _end(log) for name, log in logs.items()}
    return [
        f"durable names have committed {sequence} of stream {stream!r}, which ends at {ends[stream]}: "
        f"{sequence - ends[stream]} messages are missing"
        for stream, sequence in committed.items()
        if sequence > ends.get(stream, sequence)
    ]


def _end(log: Verification) -> int:
    """The last sequence of the log that is known, lost ones included."""
    last = log.segments[-1].next_sequence - 1 if log.segments else 0
    return max(last, *(problem.last_missing for problem in log.problems), 0)


def show_problems(problems: list[StateProblem]) -> None:
    """A line for each."""
    for problem in problems:
        click.echo(f"state {problem.file}: {problem.text}")


def problem_objects(problems: list[StateProblem]) -> list[dict[str, Any]]:
    """As docs/cli.md has them."""
    return [asdict(problem) for problem in problems]


def epochs_of(place: Path) -> list[tuple[int, int]]:
    """The epochs of the stream in ``place``, with the sequence at which each began; none if they are not
    known."""
    from hermes.broker.epochs import STATE, decode

    path = place / STATE
    if not path.is_file() or _damage(path):
        return []
    return next(iter(decode(str(place), path.read_bytes()).values()), [])


def show_epochs(place: Path) -> None:
    """The newest on a line."""
    epochs = epochs_of(place)
    if epochs:
        shown = ", ".join(f"{epoch:x} from {first:,}" for epoch, first in epochs[-EPOCHS_SHOWN:])
        click.echo(f"epochs: {len(epochs)}; the newest: {shown}")
