"""``python -m benchmarks.system``: play the questions, keep the result, print the tables.

A full run also puts its tables into ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.publish import insert
from benchmarks.system import micro, report
from benchmarks.system.harness import ROOT, Scale
from benchmarks.system.render import MARKERS, render

DOCUMENT = ROOT / "docs" / "benchmarks.md"
QUESTIONS = (
    "micro",
    "throughput",
    "roundtrip",
    "fanout",
    "topics",
    "tiny",
    "contended",
    "costs",
    "zmq_bridge",
    "udp",
    "uring",
)


def play(name: str, scale: Scale, rounds: int) -> dict[str, Any]:
    """One section of the result."""
    if name == "micro":
        return micro.play(scale)
    module = importlib.import_module(f"benchmarks.system.{name}")
    return report.play(module.question(scale), scale, rounds)


def main() -> int:
    """Returns 0 if every row was measured, whatever came of the targets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.system", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small volumes, one round: a smoke test"
    )
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where logs go (default: the temporary one)")
    parser.add_argument("--output", type=Path, help="result file (default: in benchmarks/results/)")
    parser.add_argument(
        "--document",
        type=Path,
        help="file whose tables to replace (default: docs/benchmarks.md, if all questions were played)",
    )
    options = parser.parse_args()
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))  # of all processes

    directory = options.directory or Path(tempfile.gettempdir())
    scale = Scale(quick=options.quick, directory=directory)
    environment = report.environment(directory)
    rounds = 1 if options.quick else options.rounds
    chosen = options.only or [name for name in QUESTIONS if name != "micro" or not scale.quick]
    questions = [play(name, scale, rounds) for name in chosen]
    result = {
        "environment": environment | {"load_after": os.getloadavg()[0]},
        "quick": options.quick,
        "questions": questions,
    }
    place = ROOT / "benchmarks" / "results"
    stamp = environment["date"][:10]
    default = place / f"system-{stamp}-{environment['commit']}.json"
    if options.output or not options.quick:
        report.write(result, options.output or default)
    document = options.document or (None if options.quick or options.only else DOCUMENT)
    if document:
        insert(document, MARKERS, render(result))
    print(render(result), end="")
    return int(any(row["error"] for question in questions for row in question["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
