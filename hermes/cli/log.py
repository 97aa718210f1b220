"""``hermes log``: a data directory, read without a broker, or beside one.  Nothing is ever
changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hermes.cli.command import SETTINGS, Command
from hermes.cli.exits import MEANINGS, ExitCode
from hermes.cli.formats import LINES
from hermes.cli.group import Group
from hermes.cli.log_state import (
    epochs_of,
    problem_objects,
    show_epochs,
    show_problems,
    state_problems,
)
from hermes.cli.options import Count, json_option
from hermes.cli.output import say

if TYPE_CHECKING:
    from hermes.native.verify import Problem, SegmentInfo, Verification

Function = TypeVar("Function", bound=Callable[..., Any])

PROBLEMS_SHOWN = 100
"""Problems of one stream that are printed; --json has all."""
DUMP_BATCH = 1024
"""Messages formatted before they are written."""


@click.group(
    "log",
    cls=Group,
    short_help="Look into a data directory: inspect, verify, dump.",
    context_settings=SETTINGS,
)
def command() -> None:
    """Look into a data directory of the storage mmap.  Nothing is changed, and a broker may run on it
    meanwhile.  What other storages keep is looked into with their own tools (sqlite: sqlite3).

    DIR is what `hermes serve --storage mmap:DIR` was given, or the folder of one stream in it.
    """


def directory_argument(function: Function) -> Function:
    """DIR, and which stream of it."""
    function = click.option(
        "--stream", metavar="NAME", help="Only this stream.  [default: every one in DIR]"
    )(function)
    return click.argument(
        "directory",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
    )(function)


def logs_of(directory: Path, only: str | None) -> dict[str, Path]:
    """Stream name to its folder.

    Raises:
        UsageError: there is no log, or none of that name.
    """
    from hermes.errors import UsageError
    from hermes.native.verify import find_logs

    found = find_logs(directory)
    if directory in found.values():
        found = {directory.absolute().name: directory}
    if not found:
        raise UsageError(
            f"{directory} holds no log: expected the directory of `hermes serve --storage "
            "mmap:DIR`, or the folder of one stream in it (DIR/streams/NAME)"
        )
    if only is None:
        return found
    if only not in found:
        raise UsageError(f"{directory} has no stream {only!r}; it has: {', '.join(found)}")
    return {only: found[only]}


@command.command(
    "inspect",
    cls=Command,
    short_help="List the segments of each stream.",
    examples=[
        ("Every stream", "hermes log inspect ./data"),
        ("One stream", "hermes log inspect ./data/streams/default"),
        (
            "The oldest sequence kept, for a script",
            "hermes log inspect ./data --stream md --json | jq '.[0].segments[0].base_sequence'",
        ),
    ],
    exits={ExitCode.STORAGE: MEANINGS[ExitCode.STORAGE]},
)
@directory_argument
@json_option
def inspect(directory: Path, stream: str | None, as_json: bool) -> None:
    """List the segments of each stream in DIR: sequences, messages, bytes, times.

    Headers and indexes are read, frames are not: it is quick, and blind for damage.  For that there
    is verify.
    """
    from hermes.native.verify import inspect_log

    found = {name: inspect_log(place) for name, place in logs_of(directory, stream).items()}
    if as_json:
        from hermes.cli.output import print_json

        print_json(
            [
                {
                    "name": name,
                    "directory": str(log.directory),
                    "messages": log.messages,
                    "bytes": log.bytes,
                    "segments": [segment_object(segment) for segment in log.segments],
                    "epochs": [
                        {"epoch": epoch, "first_sequence": first}
                        for epoch, first in epochs_of(log.directory)
                    ],
                }
                for name, log in found.items()
            ]
        )
        return
    for name, log in found.items():
        show_segments(name, log)
        show_epochs(log.directory)


def segment_object(segment: SegmentInfo) -> dict[str, Any]:
    """A segment's fields, as docs/cli.md has them."""
    from dataclasses import asdict

    fields = asdict(segment)
    del fields["problems"]
    return fields


def show_segments(name: str, log: Verification) -> None:
    """One table."""
    from datetime import datetime

    from hermes.cli.figures import format_bytes, plural
    from hermes.cli.output import print_table

    def moment(time_ns: int) -> str:
        if not time_ns:
            return "-"
        return datetime.fromtimestamp(time_ns / 1e9).isoformat(" ", "seconds")

    rows = [
        [
            segment.file,
            f"{segment.base_sequence:,}",
            f"{segment.next_sequence - 1:,}" if segment.messages else "-",
            f"{segment.messages:,}",
            format_bytes(segment.bytes),
            moment(segment.first_time_ns),
            moment(segment.last_time_ns),
            "sealed" if segment.sealed else "active",
        ]
        for segment in log.segments
    ]
    columns = ["segment", ">first", ">last", ">messages", ">bytes", "from", "to", "state"]
    say(f"stream {name}: {plural(log.messages, 'message')}, {format_bytes(log.bytes)}")
    print_table(columns, rows)


@command.command(
    "verify",
    cls=Command,
    short_help="Check every byte of every stream.",
    examples=[
        ("Is everything as it was written?", "hermes log verify ./data"),
        ("One stream only", "hermes log verify ./data --stream md"),
        (
            "The offsets of what is damaged, for a script",
            "hermes log verify ./data --json | jq '.streams[].problems[] | {file, offset}'",
        ),
    ],
    exits={
        ExitCode.OK: "every frame, header, seal, append record and state is sound",
        ExitCode.FAILED: "problems were found; they are listed",
        ExitCode.STORAGE: "the files cannot be read, or a newer Hermes wrote them",
        ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    },
)
@directory_argument
@json_option
def verify(directory: Path, stream: str | None, as_json: bool) -> None:
    """Check every frame, header, seal, append record and state in DIR.

    What is wrong is listed with its file, the offset of the frame or record in it, the sequences
    that are missing because of it, and how many sound messages stand behind.  Nothing is repaired:
    the broker leaves damage where it is, reports it as a gap, and serves the rest.
    """
    from hermes.cli.figures import format_bytes
    from hermes.cli.output import Progress, print_json
    from hermes.native.verify import verify_log

    found: dict[str, Verification] = {}
    with Progress(enabled=not as_json) as progress:
        for name, place in logs_of(directory, stream).items():

            def verified(done: int, total: int, name: str = name) -> None:
                progress.show(f"verifying {name}: {format_bytes(done)} of {format_bytes(total)}")

            found[name] = verify_log(place, progress=verified)
    states = state_problems(directory, found)
    sound = all(log.sound for log in found.values()) and not states
    if as_json:
        streams = [verification_object(name, log) for name, log in found.items()]
        print_json(
            {
                "directory": str(directory),
                "sound": sound,
                "streams": streams,
                "states": problem_objects(states),
            }
        )
    else:
        for name, log in found.items():
            show_verification(name, log)
        show_problems(states)
    if not sound:
        raise SystemExit(int(ExitCode.FAILED))


def sound_behind(log: Verification, problem: Problem) -> int:
    """Sound messages that stand behind a problem that cost some; 0 for one that cost none."""
    if not problem.missing or not log.segments:
        return 0
    last = log.segments[-1].next_sequence - 1
    lost_later = sum(
        other.missing for other in log.problems if other.first_missing > problem.last_missing
    )
    return max(0, last - problem.last_missing - lost_later)


def verification_object(name: str, log: Verification) -> dict[str, Any]:
    """The findings in one stream, as docs/cli.md has them."""
    return {
        "name": name,
        "directory": str(log.directory),
        "sound": log.sound,
        "torn": log.torn,
        "segments": len(log.segments),
        "messages": log.messages,
        "bytes": log.bytes,
        "missing": log.missing,
        "problems": [
            {
                "kind": problem.kind.name.lower(),
                "file": problem.file,
                "offset": problem.offset,
                "text": problem.text,
                "first_missing": problem.first_missing if problem.missing else None,
                "last_missing": problem.last_missing if problem.missing else None,
                "missing": problem.missing,
                "resume": problem.resume,
                "sound_behind": sound_behind(log, problem),
            }
            for problem in log.problems
        ],
    }


def show_verification(name: str, log: Verification) -> None:
    """A line if all is well, else a line per problem."""
    from hermes.cli.figures import format_bytes, plural

    held = (
        f"{plural(log.messages, 'sound message')}, {format_bytes(log.bytes)}, in "
        f"{plural(len(log.segments), 'segment')}"
    )
    if log.sound:
        say(f"stream {name}: clean: {held}")
        return
    found, lost = plural(len(log.problems), "problem"), plural(log.missing, "message")
    say(f"stream {name}: {found}, {lost} missing")
    for problem in log.problems[:PROBLEMS_SHOWN]:
        say(f"  {log.directory / problem.file}, offset {problem.offset}: {problem.text}")
        if problem.missing:
            say(
                f"    missing: sequences {problem.first_missing} to {problem.last_missing}; "
                "behind it: "
                f"{plural(sound_behind(log, problem), 'sound message')}"
            )
    if len(log.problems) > PROBLEMS_SHOWN:
        say(f"  ... and {len(log.problems) - PROBLEMS_SHOWN:,} more: --json has all")
    if log.torn:
        say("  a torn tail is what a crash leaves: the broker cuts it when it starts")
    say(f"  {held}")


@command.command(
    "dump",
    cls=Command,
    short_help="Write the messages of each stream to stdout.",
    examples=[
        ("All of it, as text", "hermes log dump ./data"),
        (
            "Ten messages from sequence 1000 of one stream, one JSON object a line",
            "hermes log dump ./data --stream md --from 1000 --count 10 --json",
        ),
        (
            "Payloads only, each with a newline",
            "hermes log dump ./data --stream log --format raw > log.txt",
        ),
    ],
    exits={
        ExitCode.GAP: "messages are missing; stderr says which, stdout has the others",
        ExitCode.STORAGE: MEANINGS[ExitCode.STORAGE],
        ExitCode.INTERRUPTED: MEANINGS[ExitCode.INTERRUPTED],
        ExitCode.PIPE_CLOSED: MEANINGS[ExitCode.PIPE_CLOSED],
    },
)
@directory_argument
@click.option(
    "--from",
    "first",
    type=Count(0),
    default=0,
    metavar="SEQUENCE",
    help="Begin with this sequence.  [default: the oldest]",
)
@click.option("--count", type=Count(), metavar="N", help="Stop after so many of each stream.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "raw", "json"]),
    default="text",
    show_default=True,
    help="text: topic, sequence, payload.  raw: payload and newline.  json: one object a line.",
)
@json_option
def dump(
    directory: Path, stream: str | None, first: int, count: int | None, form: str, as_json: bool
) -> None:
    """Write every sound message of each stream in DIR to standard output, oldest first.

    The log is verified first; what is damaged is left out and named on standard error.  --json is
    --format json.
    """
    line = LINES["json" if as_json else form]
    missing = False
    for name, place in logs_of(directory, stream).items():
        missing |= dump_stream(name, place, first, count, line)
    if missing:
        raise SystemExit(int(ExitCode.GAP))


def dump_stream(
    name: str,
    place: Path,
    first: int,
    count: int | None,
    line: Callable[[str, str, int, int, bytes], bytes],
) -> bool:
    """Write one stream; returns True if messages were missing."""
    from hermes.cli.output import write_all
    from hermes.native.verify import Problem, dump_log

    out = sys.stdout.fileno()
    lines: list[bytes] = []
    written, missing = 0, False
    for item in dump_log(place, first_sequence=first):
        if isinstance(item, Problem):
            missing = True
            write_all(out, b"".join(lines))
            lines.clear()
            sys.stderr.write(f"hermes: stream {name}: {item}\n")
            continue
        header, topic, payload = item
        lines.append(line(topic, name, header.sequence, header.timestamp_ns, bytes(payload)))
        written += 1
        if len(lines) == DUMP_BATCH or written == count:
            write_all(out, b"".join(lines))
            lines.clear()
            if written == count:
                return missing
    write_all(out, b"".join(lines))
    return missing
