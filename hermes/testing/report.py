"""A pytest plugin that writes what the contract suites found, as JSON.

::

    pytest -p hermes.testing.report --hermes-report report.json

Works for every suite of :mod:`hermes.testing`: a test class belongs to one if it has the attribute
``kit`` (``transport`` or ``storage``) and the class method ``subject()``.  The file is written once
at the end of the run, also if tests fail; without such a class ``subjects`` is empty::

    {
      "format": 1,
      "hermes": "0.1.0",
      "python": "3.11.7",
      "platform": "Linux-6.1-x86_64",
      "seconds": 12.3,                          the whole run
      "subjects": [                             a class each, in the order of the run
        {
          "kit": "transport",
          "class": "tests/test_mine.py::TestMine",
          "name": "tcp",                        the scheme, and what subject() has besides:
          "url": "tcp://127.0.0.1:0",
          "capabilities": {"processes": true, "datagrams": false, ...},
          "outcome": "passed",                  or "failed"
          "counts": {"passed": 80, "failed": 0, "skipped": 19},
          "figures": {"round_trip_us": 23.1},   what tests measured, by name
          "checks": [                           a test each, in the order of the run
            {
              "group": "lifecycle",             the suite's module
              "check": "test_nobody_there",     with its parameters in brackets
              "says": "dial() raises ...",      its docstring on one line
              "outcome": "passed",              or "failed" or "skipped"
              "why": null,                      the failure's message, or why it was skipped
              "seconds": 0.01
            }
          ]
        }
      ]
    }

A failure during set-up or clean-up counts as a failure of the test.  Keys may be added within a
format; one that changes its meaning gets another format.
"""

from __future__ import annotations

import inspect
import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

FORMAT = 1
WHY_MAX = 4000
"""Characters of a failure's message, from its beginning."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that names the file."""
    parser.addoption(
        "--hermes-report",
        metavar="FILE",
        help="write what the contract suites of hermes.testing found to FILE, as JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Record, if a file is named."""
    place = config.getoption("--hermes-report")
    if place:
        config.pluginmanager.register(Recorder(Path(place).absolute()), "hermes-report")


class Recorder:
    """Collects outcomes, and writes them at the end."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._begun = time.monotonic()
        self._subjects: dict[str, dict[str, Any]] = {}
        self._checks: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember which tests belong to a suite."""
        for item in session.items:
            kind = getattr(item, "cls", None)
            if kind is not None and hasattr(kind, "kit") and hasattr(kind, "subject"):
                subject = self._subject(item.nodeid.rpartition("::")[0], kind)
                check = describe(item)
                subject["checks"].append(check)
                self._checks[item.nodeid] = subject, check

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of one phase of a test: the worst counts."""
        if report.nodeid not in self._checks:
            return
        subject, check = self._checks[report.nodeid]
        check["seconds"] = round(check["seconds"] + report.duration, 6)
        subject["figures"].update(report.user_properties)
        if report.failed:
            check["outcome"], check["why"] = "failed", message_of(report)[:WHY_MAX]
        elif report.skipped and check["outcome"] is None:
            check["outcome"], check["why"] = "skipped", reason(report)
        elif report.when == "call" and check["outcome"] is None:
            check["outcome"] = "passed"

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        for subject in self._subjects.values():
            subject["checks"] = [check for check in subject["checks"] if check["outcome"]]
            outcomes = [check["outcome"] for check in subject["checks"]]
            counts = {name: outcomes.count(name) for name in ("passed", "failed", "skipped")}
            subject["counts"] = counts
            subject["outcome"] = "failed" if counts["failed"] else "passed"
        report = {
            "format": FORMAT,
            "hermes": metadata.version("hermes-broker"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "seconds": round(time.monotonic() - self._begun, 3),
            "subjects": list(self._subjects.values()),
        }
        self._place.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    def _subject(self, name: str, kind: Any) -> dict[str, Any]:
        if name not in self._subjects:
            self._subjects[name] = {
                "kit": kind.kit,
                "class": name,
                **kind.subject(),
                "outcome": None,
                "counts": {},
                "figures": {},
                "checks": [],
            }
        return self._subjects[name]


def describe(item: pytest.Item) -> dict[str, Any]:
    """A test that has not run yet."""
    function = getattr(item, "function", None)
    return {
        "group": getattr(function, "__module__", "").rpartition(".")[2],
        "check": item.name,
        "says": " ".join((inspect.getdoc(function) or "").split()),
        "outcome": None,
        "why": None,
        "seconds": 0.0,
    }


def message_of(report: pytest.TestReport) -> str:
    """Kind and text of the exception that a failed test ended with."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash is not None else str(report.longrepr)


def reason(report: pytest.TestReport) -> str:
    """Why a test was skipped."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
