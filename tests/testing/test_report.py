"""The report of a run of a contract suite."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hermes.testing import report

pytestmark = pytest.mark.slow

MODULE = '''
import pytest

class Contract:
    kit = "thing"

    @classmethod
    def subject(cls):
        return {"name": "mine", "capabilities": {"quick": True}}

    @pytest.fixture
    def broken(self):
        yield
        assert not "clean", "the clean-up failed"

    def test_good(self, record_property):
        """What is
        good."""
        record_property("speed", 3)

    @pytest.mark.parametrize("size", [1])
    def test_bad(self, size):
        assert size == 2, "the sizes differ"

    def test_skipped(self):
        pytest.skip("mine does not claim the capability 'slow'")

    def test_unclean(self, broken):
        pass

class TestMine(Contract):
    pass

def test_of_no_suite():
    assert False
'''


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a run of the module above."""
    place = tmp_path_factory.mktemp("report")
    (place / "test_mine.py").write_text(MODULE)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "hermes.testing.report"),
            *("--hermes-report", "out.json", "-c", os.devnull, "--rootdir", ".", "test_mine.py"),
        ],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((Path(place) / "out.json").read_text())
    return found


def test_each_check_has_its_outcome(written: dict[str, Any]) -> None:
    """Passed, failed in the test or in its clean-up, and skipped, each with its reason."""
    (subject,) = written["subjects"]
    checks = {check["check"]: check for check in subject["checks"]}

    assert {name: check["outcome"] for name, check in checks.items()} == {
        "test_good": "passed",
        "test_bad[1]": "failed",
        "test_skipped": "skipped",
        "test_unclean": "failed",
    }
    assert checks["test_good"]["says"] == "What is good."
    assert checks["test_good"]["group"] == "test_mine"
    assert "the sizes differ" in checks["test_bad[1]"]["why"]
    assert checks["test_skipped"]["why"] == "mine does not claim the capability 'slow'"
    assert "the clean-up failed" in checks["test_unclean"]["why"]


def test_the_subject_is_described(written: dict[str, Any]) -> None:
    """The report says who was tested, with what result, and what was measured."""
    (subject,) = written["subjects"]

    assert subject["class"] == "test_mine.py::TestMine"
    assert (subject["kit"], subject["name"]) == ("thing", "mine")
    assert subject["capabilities"] == {"quick": True}
    assert subject["outcome"] == "failed"
    assert subject["counts"] == {"passed": 1, "failed": 2, "skipped": 1}
    assert subject["figures"] == {"speed": 3}


def test_the_format_is_documented(written: dict[str, Any]) -> None:
    """Every key that is written stands in the module's docstring."""
    (subject,) = written["subjects"]
    keys = {*written, *subject, *subject["checks"][0]}
    documented = set(re.findall(r'"(\w+)":', report.__doc__ or ""))

    assert keys <= documented
