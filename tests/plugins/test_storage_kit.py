"""The storage kit notices what is wrong with a storage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.plugins.faulty import CAUGHT_BY

MODULE = Path(__file__).with_name("faulty.py")
DEADLINE_S = 280


TRIES = 5
"""Times that a fault may hide: while other programs have the system write its whole cache to the disk,
a storage that never syncs looks as if it had."""


def outcomes_of(report: Path, names: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Run the kit for faulty storages; returns by class the test that is about the fault, and its outcome."""
    chosen = [f"{MODULE}::{name}::{CAUGHT_BY[name]}" for name in names]

    subprocess.run(
        [
            *[sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line"],
            *["-p", "hermes.testing.report", "--hermes-report", str(report), *chosen],
        ],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"CI": "true"},  # there pytest says more of what differs
        timeout=DEADLINE_S,
        check=False,
        capture_output=True,
    )

    return {
        subject["class"].rpartition("::")[2]: [
            (check["check"], check["outcome"]) for check in subject["checks"]
        ]
        for subject in json.loads(report.read_text())["subjects"]
    }


def test_every_defect_is_noticed(tmp_path: Path) -> None:
    """Each faulty storage fails the test that is about its fault; the same storage without a fault
    passes."""
    expected = {
        name: [(test, "passed" if name == "TestControl" else "failed")]
        for name, test in CAUGHT_BY.items()
    }

    outcomes = outcomes_of(tmp_path / "report.json", list(CAUGHT_BY))
    for number in range(TRIES):
        if outcomes["TestCareless"] != expected["TestCareless"]:
            outcomes |= outcomes_of(tmp_path / f"again-{number}.json", ["TestCareless"])
    assert outcomes == expected
