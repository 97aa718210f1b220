"""The conformance kit notices what it is there to notice: faults put into the TCP transport."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

MUTANTS = Path(__file__).with_name("mutants.py")
CATCHERS = {
    "DropsTheTail": "test_both_directions_at_once",
    "ReordersTwoWrites": "test_many_messages_in_sequence",
    "LeaksADescriptor": "test_connecting_and_closing_leaves_nothing_behind",
    "BuffersWithoutBound": "test_a_peer_that_does_not_read",
    "ReadsThePaused": "test_a_paused_connection_is_not_read",
    "SwallowsAReset": "test_a_client_that_is_killed",
    "TakesTheEndOfInputForTheEnd": "test_a_client_that_sends_no_more_gets_all_output",
    "ReadsWithoutBound": "test_one_poll_reads_a_bounded_share",
    "LetsDefectsOut": "test_a_defect_in_serving_a_peer[input]",
    "DialsWithoutEnd": "test_a_dial_ends_though_nobody_accepts",
    "WaitsForNothing": "test_nothing_there_is_would_block",
    "LetsErrorsOut": "test_the_agent_is_closed_while_much_is_sent",
    "TellsOfNothing": "test_a_watched_channel_tells_of_input",
    "TakesItsOwnUser": "test_a_peer_of_another_user",
}
"""Fault to the check that is meant for it; others of the kit may notice too."""
SOUND = {"TakesItsOwnUser": "UnixSocket", "TellsOfNothing": "TellsOfInput"}
"""The transport without the fault, where that is not the unchanged one."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Outcomes of each mutant in one check, and of the unchanged transport in all of
    them, by class and check."""
    place = tmp_path_factory.mktemp("mutations") / "report.json"
    nodes = [f"{MUTANTS}::Test{name}::{check}" for name, check in CATCHERS.items()]
    nodes += [
        f"{MUTANTS}::Test{SOUND.get(name, 'Unchanged')}::{check}"
        for name, check in CATCHERS.items()
    ]
    plugin = ("-p", "hermes.testing.report", "--hermes-report", place)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *map(str, plugin), *nodes],
        cwd=MUTANTS.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert place.exists(), done.stdout + done.stderr
    return {
        (subject["class"].rpartition("::Test")[2], check["check"]): check
        for subject in json.loads(place.read_text())["subjects"]
        for check in subject["checks"]
    }


@pytest.mark.parametrize(("fault", "check"), CATCHERS.items())
def test_a_fault_is_caught(
    outcomes: dict[tuple[str, str], dict[str, Any]], fault: str, check: str
) -> None:
    """The check that is meant for the fault fails with it, and passes without."""
    control = outcomes[SOUND.get(fault, "Unchanged"), check]
    if control["outcome"] == "skipped":
        pytest.skip(control["why"])
    assert control["outcome"] == "passed", control["why"]
    assert outcomes[fault, check]["outcome"] == "failed"
    assert "AssertionError" in outcomes[fault, check]["why"]
