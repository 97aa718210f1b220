"""Looking into a log's files without changing them, also beside the broker that writes them.

Knows segment and index files (``docs/log-format.md``), nothing of brokers.  Threads: any.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from hermes.base.rlimits import behind
from hermes.errors import StorageDamaged, StorageFailed
from hermes.native import _errors
from hermes.native._core import ffi, lib
from hermes.native.decoder import Decoder
from hermes.native.frames import Header
from hermes.native.log import SEGMENT_HEADER, watched

SEGMENT_NAME = re.compile(r"[0-9]{20}\.log")
END_FILE = "end"
"""Name of the file with the end mark."""
DEPTH_MAX = 4
"""Levels below a data directory that are searched for logs."""

VerifyProgress = Callable[[int, int], None]
"""Called with (bytes verified, bytes in all)."""


class ProblemKind(IntEnum):
    """Subjects of problems."""

    FRAMES = lib.HM_PROBLEM_FRAMES
    """Frames that cannot be believed."""
    TORN = lib.HM_PROBLEM_TORN
    """The same, at the end of the last and unsealed segment: what a power loss leaves; opening cuts
    it."""
    HEADER = lib.HM_PROBLEM_HEADER
    """The segment's header page."""
    SEAL = lib.HM_PROBLEM_SEAL
    """The seal on the header page."""
    INDEX = lib.HM_PROBLEM_INDEX
    """The index file; messages are not affected, who published them may be forgotten."""
    HOLE = lib.HM_PROBLEM_HOLE
    """Messages between two segments are missing: a file was deleted, or never reached the disk."""
    END = lib.HM_PROBLEM_END
    """The newest messages are missing: the log was on disk beyond where its segments end now."""
    MARK = lib.HM_PROBLEM_MARK
    """A copy of the mark that says where the log ended; messages are not affected."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    file: str
    """Name of the file it is in."""
    offset: int
    """In the file, bytes: of the frame, or the record, that is unsound."""
    kind: ProblemKind
    text: str
    """Description of the problem, for people."""
    first_missing: int
    """First sequence that cannot be served; 0 if none is missing."""
    last_missing: int
    """Last one, inclusive."""
    resume: int | None
    """Offset in the segment file at which sound frames go on; None: nowhere in it."""

    @property
    def missing(self) -> int:
        """How many messages cannot be served because of it."""
        return self.last_missing - self.first_missing + 1 if self.first_missing else 0

    def __str__(self) -> str:
        lost = f"; sequences {self.first_missing} to {self.last_missing} are lost" * bool(
            self.missing
        )
        resumes = "" if self.resume is None else f"; sound frames go on at {self.resume}"
        return f"{self.file} at {self.offset}: {self.text}{lost}{resumes}"


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One segment, as found."""

    file: str
    base_sequence: int
    next_sequence: int
    """After the last message it should hold."""
    base_position: int
    messages: int
    """Sound ones (with :func:`inspect_log`: claimed ones)."""
    bytes: int
    """Bytes of their frames."""
    end: int
    """Offset in the file after the last frame."""
    file_bytes: int
    index_bytes: int
    records: int
    created_ns: int
    first_time_ns: int
    """Append time of the first message, to a millisecond."""
    last_time_ns: int
    generation: int
    """How many lives the file has had."""
    sealed: bool
    """False: it is being written, or its writer died."""
    problems: int


@dataclass(frozen=True, slots=True)
class Verification:
    """Findings in one log."""

    directory: Path
    segments: list[SegmentInfo]
    problems: list[Problem]

    @property
    def sound(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems

    @property
    def torn(self) -> bool:
        """True if all that is wrong is a torn tail, which the next open cuts."""
        return bool(self.problems) and all(p.kind is ProblemKind.TORN for p in self.problems)

    @property
    def messages(self) -> int:
        """Sound messages."""
        return sum(segment.messages for segment in self.segments)

    @property
    def bytes(self) -> int:
        """Bytes of sound frames."""
        return sum(segment.bytes for segment in self.segments)

    @property
    def missing(self) -> int:
        """Messages that cannot be served."""
        return sum(problem.missing for problem in self.problems)


def find_logs(directory: str | Path) -> dict[str, Path]:
    """The directories in and below ``directory`` that hold segment files, by their last name,
    sorted.

    Raises:
        StorageFailed: ``directory`` is none, or cannot be read.
    """
    root = Path(directory)
    found: dict[str, Path] = {}
    try:
        _find(root, DEPTH_MAX, found)
    except OSError as error:
        raise StorageFailed(f"looking for logs in {root}: {error.strerror}") from error
    return dict(sorted(found.items()))


def is_part_of_log(name: str) -> bool:
    """Whether a directory with a file of that name is a log's."""
    return name == END_FILE or SEGMENT_NAME.fullmatch(name) is not None


def _find(place: Path, depth: int, found: dict[str, Path]) -> None:
    entries = sorted(place.iterdir())
    if any(is_part_of_log(entry.name) for entry in entries):
        found[place.name if place.name not in found else str(place)] = place
    for entry in entries:
        if depth and entry.is_dir() and not entry.is_symlink():
            _find(entry, depth - 1, found)


def verify_log(directory: str | Path, *, progress: VerifyProgress | None = None) -> Verification:
    """Verify every frame, header, seal and append record of the log in ``directory``.

    Raises:
        StorageFailed: the files cannot be read.
        StorageDamaged: a newer Hermes wrote them.
    """
    return _look(Path(directory), True, progress)


def inspect_log(directory: str | Path) -> Verification:
    """The same from headers, seals and indexes alone: quick, and blind for damaged frames.

    Raises:
        StorageFailed: the files cannot be read.
        StorageDamaged: a newer Hermes wrote them.
    """
    return _look(Path(directory), False, None)


def _look(directory: Path, frames: bool, progress: VerifyProgress | None) -> Verification:
    counter = ffi.new("uint64_t *")
    result = ffi.new("hm_verification **")

    def work() -> int:
        return int(lib.hm_verify(str(directory).encode(), frames, counter, result))

    code = work() if progress is None else watched(work, counter, directory, progress)
    if code == -lib.HM_EVERSION:
        raise StorageDamaged(f"{directory} was written by a newer Hermes: use that one to read it")
    if code == -lib.HM_ENOMEM:
        raise MemoryError(f"verifying {directory}")
    if code:
        raise StorageFailed(f"the log in {directory} cannot be read: {_errors.text(code)}")
    done = ffi.gc(result[0], lib.hm_verification_free)
    count = ffi.new("uint64_t *")
    segments = lib.hm_verification_segments(done, count)
    infos = [_segment(segments[i]) for i in range(count[0])]
    problems = lib.hm_verification_problems(done, count)
    return Verification(directory, infos, [_problem(problems[i]) for i in range(count[0])])


def _segment(found: Any) -> SegmentInfo:
    values = {name: getattr(found, name) for name, _ in ffi.typeof("hm_verified").fields}
    values["sealed"] = bool(found.sealed)
    return SegmentInfo(file=f"{found.base_sequence:020}.log", **values)


_TEXTS = {
    ProblemKind.FRAMES: "unsound frame",
    ProblemKind.TORN: "torn tail",
    ProblemKind.HEADER: "segment header",
    ProblemKind.SEAL: "seal",
    ProblemKind.INDEX: "append record",
    ProblemKind.HOLE: "the segment before does not end here",
    ProblemKind.END: "the segments end before the log did",
    ProblemKind.MARK: "end mark",
}


def _problem(found: Any) -> Problem:
    kind = ProblemKind(found.kind)
    suffix = "index" if kind is ProblemKind.INDEX else "log"
    of_end = kind in (ProblemKind.END, ProblemKind.MARK)
    lost = found.next_sequence > found.first_missing
    return Problem(
        file=END_FILE if of_end else f"{found.segment:020}.{suffix}",
        offset=found.offset,
        kind=kind,
        text=f"{_TEXTS[kind]}: {_errors.text(found.error)}",
        first_missing=found.first_missing if lost else 0,
        last_missing=found.next_sequence - 1 if lost else 0,
        resume=found.resume or None,
    )


def dump_log(
    directory: str | Path, *, first_sequence: int = 0
) -> Iterator[tuple[Header, str, memoryview] | Problem]:
    """Every sound message from ``first_sequence`` on, oldest first; a :class:`Problem` where some
    are missing.

    Payloads are views of the mapped file, valid for as long as anything refers to them.

    Raises:
        StorageFailed: the files cannot be read.
        StorageDamaged: a newer Hermes wrote them.
    """
    checked = verify_log(directory)
    for segment in checked.segments:
        if segment.next_sequence > first_sequence:
            problems = [p for p in checked.problems if p.file == segment.file and p.missing]
            yield from _dump_segment(checked.directory, segment, problems, first_sequence)
    yield from (p for p in checked.problems if p.kind is ProblemKind.END)


def _dump_segment(
    directory: Path, segment: SegmentInfo, problems: list[Problem], first_sequence: int
) -> Iterator[tuple[Header, str, memoryview] | Problem]:
    view = _map(directory / segment.file)
    start = SEGMENT_HEADER
    for problem in problems:
        yield from _dump_run(view, start, problem.offset, first_sequence)
        yield problem
        start = problem.resume or segment.end
    yield from _dump_run(view, start, segment.end, first_sequence)


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except ValueError as error:
        raise StorageFailed(f"mapping {path}: {error}") from error
    except OSError as error:
        raise StorageFailed(f"mapping {path}: {error}{behind(error)}") from error


def _dump_run(
    view: memoryview, start: int, end: int, first_sequence: int
) -> Iterator[tuple[Header, str, memoryview]]:
    if start >= end:
        return
    for message in Decoder(view[start:end], message_max=min(end - start, 2**32 - 1)):
        if message[0].sequence >= first_sequence:
            yield message
