"""``python -m benchmarks.micro``: compile and run the C programs of this folder, print one table.

A program takes ``--json`` and prints ``{"name": ..., "rows": [{"operation", "ns", "ns_min", "ns_max",
"note"}, ...]}``, nanoseconds of one operation: the median of several rounds, the best and the worst.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.system.harness import compiled
from hermes.bench.machine import environment
from hermes.bench.page import surroundings
from hermes.cli.output import print_table

HERE = Path(__file__).parent
RUN_TIMEOUT_S = 600


def measured(sources: list[Path]) -> list[dict[str, Any]]:
    """The report of each program, one after another: they would disturb one another."""
    programs = [compiled(source) for source in sources]
    return [
        json.loads(subprocess.check_output([program, "--json"], timeout=RUN_TIMEOUT_S))
        for program in programs
    ]


def show(results: list[dict[str, Any]]) -> None:
    """Print one aligned table."""
    print(surroundings(environment(HERE)))
    rows = []
    for result in results:
        name = result["name"]
        for row in result["rows"]:
            figures = (f"{row[key]:,.2f}" for key in ("ns", "ns_min", "ns_max"))
            rows.append([name, row["operation"], *figures, row["note"]])
            name = ""
    print_table(["", "operation", ">median ns", ">best", ">worst", "note"], rows)


def main() -> None:
    """Entry point."""
    known = sorted(HERE.glob("*.c"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(x.stem for x in known)}")
    parser.add_argument("--json", action="store_true", help="print the raw results instead")
    options = parser.parse_args()
    unknown = set(options.names) - {source.stem for source in known}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    results = measured([x for x in known if not options.names or x.stem in options.names])
    if options.json:
        json.dump({"environment": environment(HERE), "results": results}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        show(results)


if __name__ == "__main__":
    main()
