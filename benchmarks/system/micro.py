"""What do single operations of the C core cost?  The programs of ``benchmarks/micro``, as one section.

Each program plays its own rounds and has its own controls; here are the targets of all.
"""

from __future__ import annotations

from typing import Any

from benchmarks.micro.__main__ import HERE, measured
from benchmarks.system.harness import Scale, Target
from benchmarks.system.report import judge

TARGETS = (
    ("rings: spsc push_word+pop_word, one thread", 4),
    ("frames: encode one 64 B", 30),
    ("frames: encode many 64 B", 20),
    ("frames: validate + index 64 B", 15),
    ("frames: header by cast", 1),
    ("log: append 256 B, warm", 40),
)
"""Operation, and nanoseconds it may take."""
PAIR = "rings: spsc 8 B, two threads, batched"
PAIR_NS = 20
"""50 M/s."""


def play(scale: Scale) -> dict[str, Any]:
    """A section of the result, as :func:`benchmarks.system.report.play` gives it."""
    rows = []
    for program in measured(sorted(HERE.glob("*.c"))):
        for row in program["rows"]:
            ns = {"median": row["ns"], "min": row["ns_min"], "max": row["ns_max"]}
            rows.append(
                {
                    "name": f"{program['name']}: {row['operation']}",
                    "note": row["note"],
                    "error": None,
                    "metrics": {"ns": ns | {"rounds": [row["ns_min"], row["ns"], row["ns_max"]]}},
                }
            )
    targets = [Target(name, name, "ns", limit, at_most=True) for name, limit in TARGETS]
    targets.append(Target(f"{PAIR} (50 M/s)", PAIR, "ns", PAIR_NS, at_most=True))
    return {
        "name": "micro",
        "asks": "Single operations of the C core",
        "notes": [],
        "rounds": 1,
        "rows": rows,
        "targets": [judge(target, rows) for target in targets],
    }
