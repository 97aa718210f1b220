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


def test_every_defect_is_noticed(tmp_path: Path) -> None:
    """Each faulty storage fails the test that is about its fault; the same storage without a fault
    passes."""
    report = tmp_path / "report.json"
    chosen = [f"{MODULE}::{name}::{test}" for name, test in CAUGHT_BY.items()]

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

    subjects = json.loads(report.read_text())["subjects"]
    outcomes = {
        subject["class"].rpartition("::")[2]: [
            (check["check"], check["outcome"]) for check in subject["checks"]
        ]
        for subject in subjects
    }
    expected = {
        name: [(test, "passed" if name == "TestControl" else "failed")]
        for name, test in CAUGHT_BY.items()
    }
    assert outcomes == expected
