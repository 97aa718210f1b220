"""``python -m benchmarks.system``: play the questions, keep the result, print the tables."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from pathlib import Path

from benchmarks.system import report
from benchmarks.system.harness import ROOT, Scale, remove_compiled
from benchmarks.system.render import insert, render

QUESTIONS = (
    "throughput",
    "roundtrip",
    "fanout",
    "topics",
    "tiny",
    "contended",
    "costs",
)


def main() -> int:
    """Returns 0 if every row was measured, whatever came of the targets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.system", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small volumes, one round: a smoke test"
    )
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where logs go (default: the temporary one)")
    parser.add_argument("--output", type=Path, help="result file (default: in benchmarks/results/)")
    parser.add_argument("--document", type=Path, help="write the tables into this file's markers")
    options = parser.parse_args()

    directory = options.directory or Path(tempfile.gettempdir())
    scale = Scale(quick=options.quick, directory=directory)
    environment = report.environment(directory)
    questions = []
    try:
        for name in options.only or QUESTIONS:
            module = importlib.import_module(f"benchmarks.system.{name}")
            rounds = 1 if options.quick else options.rounds
            questions.append(report.play(module.question(scale), scale, rounds))
    finally:
        remove_compiled()
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
    if options.document:
        insert(options.document, render(result))
    print(render(result), end="")
    return int(any(row["error"] for question in questions for row in question["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
