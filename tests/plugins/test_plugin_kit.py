"""The kit of plugins notices what is wrong with a plugin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.plugins.faulty_hooks import CAUGHT_BY

MODULE = Path(__file__).with_name("faulty_hooks.py")
DEADLINE_S = 280
EXPECTED = {f"Test{kind.__name__}": test for kind, test in CAUGHT_BY.items()} | {
    "TestShared": "test_each_broker_has_its_own"
}


def test_every_mistake_is_noticed(tmp_path: Path) -> None:
    """Each faulty plugin fails the test that is about its fault, in the contract's words; a plugin
    without a fault passes all."""
    report = tmp_path / "report.json"
    chosen = [f"{MODULE}::TestSound"]
    chosen += [f"{MODULE}::{name}::{test}" for name, test in EXPECTED.items()]

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

    subjects = {
        subject["class"].rpartition("::")[2]: subject
        for subject in json.loads(report.read_text())["subjects"]
    }
    sound = subjects.pop("TestSound")
    assert [check for check in sound["checks"] if check["outcome"] == "failed"] == []
    outcomes = {
        name: [(check["check"], check["outcome"]) for check in subject["checks"]]
        for name, subject in subjects.items()
    }
    assert outcomes == {name: [(test, "failed")] for name, test in EXPECTED.items()}
    for subject in subjects.values():
        assert "AssertionError" in subject["checks"][0]["why"]
